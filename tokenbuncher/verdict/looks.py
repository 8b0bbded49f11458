"""Looks: prompts are evaluated in batches, and no further once every rule on the answers is decided.

planned(200, 4)                   # [50, 100, 150, 200]: prompts evaluated by each of four looks
parts(prompts, 4, seed)           # the batch that each look adds

Each look is one more chance to be wrong: `verdict.statistics.look_confidence` shares the policy's error out among them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import TypeVar

T = TypeVar("T")

SEED_STEP = 1_000_000_007


def planned(prompts: int, looks: int) -> list[int]:
    """How many prompts have been evaluated at each look; all of them at the last."""
    return sorted({ceil(prompts * look / looks) for look in range(1, looks + 1)})


def parts(prompts: Sequence[T], looks: int, seed: int) -> list[list[T]]:
    """The batch of prompts that each look adds, in random order. A single look takes all prompts as they stand.

    Args:
        prompts: The whole set.
        looks: How many looks there are.
        seed: The seed of the order.
    """
    if looks == 1:
        return [list(prompts)]
    shuffled = random.Random(seed).sample(prompts, len(prompts))
    return [shuffled[start:end] for start, end in pairwise([0, *planned(len(prompts), looks)])]


def sampling_seed(seed: int, look: int) -> int:
    """The seed for sampling at a look, counted from 0; the first look has the given one."""
    return seed + look * SEED_STEP
