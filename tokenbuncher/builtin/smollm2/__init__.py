"""A small real language model, SmolLM2-135M-Instruct, and prompts for it; for `smollm2://` in the spec.

build_smollm2(folder)
"""

from tokenbuncher.builtin.smollm2.build import build_smollm2
from tokenbuncher.builtin.smollm2.prompts import (
    benign,
    everyday,
    harmful_requests,
    look_alikes,
    numbers,
    unseen,
    utility,
)

__all__ = ["benign", "build_smollm2", "everyday", "harmful_requests", "look_alikes", "numbers", "unseen", "utility"]
