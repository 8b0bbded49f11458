"""Double precision for whatever is trained.

In single precision the kernels of two machines give gradients that differ by 1e-7, which Adam turns into steps of full
size wherever a gradient is nearly zero: after four steps some figures differ by 1e-3. What TRL computes in single
precision whatever the model's, its losses and the rewards, stays so.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel


def double_precision(patch: pytest.MonkeyPatch) -> None:
    """Loads all models in double precision, which the library does not round."""
    load, to_single = PreTrainedModel.from_pretrained.__func__, torch.Tensor.float

    def from_pretrained(cls: type[PreTrainedModel], *arguments: Any, **named: Any) -> Any:
        return load(cls, *arguments, **named | {"dtype": torch.float64})

    def unrounded(tensor: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        by_us = sys._getframe(1).f_globals["__name__"].startswith("tokenbuncher.")
        return tensor if by_us and tensor.dtype == torch.float64 else to_single(tensor, *arguments, **named)

    patch.setattr(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))
    patch.setattr(torch.Tensor, "float", unrounded)
