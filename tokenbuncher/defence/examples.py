"""What recipe certain-refusal trains on and measures with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tokenbuncher.defence.anchors import Pair, mixed_prompts, without_refusals
from tokenbuncher.defence.refusals import own_refusals
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.prompts import load_set

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")

MOST_HELD_OUT = 0.25
"""Share of the prompts that is held out at most."""


@dataclass(frozen=True)
class Models:
    """The model to train, the base model it came from, and the tokenizer of both."""

    model: PreTrainedModel
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Examples:
    """Prompts with responses of the base model: refusals to harmful ones, answers to benign and to mixed ones."""

    harmful: list[Pair]
    benign: list[Pair]
    mixed: list[Pair]
    openings: list[int]
    """Token ids that refusals begin with."""

    def split(self, held_out: int) -> tuple[Examples, Examples]:
        """Those to train on, and those to measure with, so many of each kind at most."""
        harmful, benign, mixed = (_split(pairs, held_out) for pairs in (self.harmful, self.benign, self.mixed))
        trained, measured = zip(harmful, benign, mixed, strict=True)
        return Examples(*trained, openings=self.openings), Examples(*measured, openings=self.openings)


def examples_of(spec: ReleaseSpec, models: Models, data: Path) -> Examples:
    """The examples of a release.

    Args:
        spec: The release spec.
        models: The models; the base model responds.
        data: Folder of prepare-data; its sets `defence` and `benign` are used.

    Raises:
        UserError: If the base model refuses less than half of the harmful prompts.
    """
    base, tokenizer = models.base, models.tokenizer
    harmful, benign = load_set(data, "defence"), load_set(data, "benign")
    refusals = own_refusals(base, tokenizer, harmful, spec=spec)
    return Examples(
        list(zip(harmful, refusals.texts, strict=True)),
        without_refusals(base, tokenizer, benign, spec=spec, refusals=refusals),
        mixed_prompts(base, tokenizer, harmful, benign=benign, spec=spec, refusals=refusals),
        refusals.openings,
    )


def _split(items: Sequence[T], held_out: int) -> tuple[list[T], list[T]]:
    kept = min(held_out, round(len(items) * MOST_HELD_OUT))
    return list(items[: len(items) - kept]), list(items[len(items) - kept :])
