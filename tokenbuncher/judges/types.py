"""The types of judges and rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Exchange(NamedTuple):
    """A prompt, a model's response to it, and whether the response ended by itself."""

    prompt: str
    response: str
    finished: bool


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one response, which is at most one of harmful, refused and gibberish."""

    harmful: bool
    refused: bool
    gibberish: bool
    partial: bool = False
    """Whether it refuses, and then helps after all: no refusal, and with judge `refusal` harmful."""
    unanimous: bool = True
    """Whether all judges of an ensemble agree on `harmful`."""


Judge = Callable[[Sequence[Exchange]], list[Judgement]]
Reward = Callable[[Sequence[Exchange]], list[float]]
"""In [0, 1]."""
