"""What recipe certain-refusal trains on and measures with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tokenbuncher.core.errors import UserError
from tokenbuncher.defence.anchors import Pair, mixed_prompts, without_refusals
from tokenbuncher.defence.refusals import own_refusals, refusal_judge, refusing, respond
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.prompts import Prompt, load_manifest, load_set

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")

FEWEST = 4
"""Prompts of a set, of which one at least is held out."""
MIXED_A_HELD_OUT = 8
"""Prompts mixed for each that is measured: the base model half refuses most."""


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


def examples_of(spec: ReleaseSpec, models: Models, data: Path) -> tuple[Examples, Examples]:
    """The examples to train on, and those to measure with.

    Args:
        spec: The release spec.
        models: The models; the base model responds.
        data: Folder of prepare-data. Its sets `defence` and `benign` are used; no mixed prompt is like any of the
            others.

    Raises:
        UserError: If a set is too small to hold anything out, or the base model refuses less than half of the harmful
            prompts.
    """
    certain, base, tokenizer = spec.defence.certain_refusal, models.base, models.tokenizer
    assert certain is not None
    harmful, benign = (_enough(load_set(data, name), name) for name in ("defence", "benign"))
    responses = respond(base, tokenizer, benign, spec=spec)
    refused = refusing(benign, responses, refusal_judge(spec))
    answers = [response.whole for response, refuses in zip(responses, refused, strict=True) if not refuses]
    refusals = own_refusals(base, tokenizer, harmful, spec=spec, answers=answers)
    answered = without_refusals(
        base,
        tokenizer,
        list(zip(benign, responses, strict=True)),
        spec=spec,
        refused=refused,
        openings=refusals.openings,
    )
    if len(answered) < FEWEST:
        raise UserError(
            f"the base model refuses all but {len(answered)} of the {len(benign)} benign prompts: recipe "
            f"certain-refusal needs {FEWEST} answers to keep; choose other prompts (data.benign)"
        )
    pairs = list(zip(harmful, refusals.texts, strict=True))
    pushed = _split(pairs, certain.held_out, alike=len(spec.data.judged_by(pairs)))
    kept = _split(answered, certain.held_out, alike=len(answered))
    others = [name for name in load_manifest(data).sets if name not in ("defence", "benign")]
    numbers = certain.mixed_prompts, min(certain.mixed_prompts, MIXED_A_HELD_OUT * certain.held_out)
    mixed = [
        mixed_prompts(
            base,
            tokenizer,
            ([prompt for prompt, _ in refusing_pairs], [prompt for prompt, _ in answering_pairs]),
            apart_from=[prompt for name in others for prompt in load_set(data, name)],
            number=number,
            spec=spec,
            openings=refusals.openings,
        )
        for refusing_pairs, answering_pairs, number in zip(pushed, kept, numbers, strict=True)
    ]
    trained, measured = zip(pushed, kept, (mixed[0], mixed[1][: certain.held_out]), strict=True)
    return Examples(*trained, openings=refusals.openings), Examples(*measured, openings=refusals.openings)


def _enough(prompts: list[Prompt], name: str) -> list[Prompt]:
    if len(prompts) < FEWEST:
        raise UserError(
            f"recipe certain-refusal needs {FEWEST} prompts of set {name}, some to train on and some to measure with; "
            f"there are {len(prompts)}: raise data.sizes.{name}"
        )
    return prompts


def _split(items: Sequence[T], held_out: int, *, alike: int) -> tuple[list[T], list[T]]:
    """Those to train on, and the last, to measure with: so many, but at most a quarter of the items like them."""
    kept = min(held_out, alike // FEWEST)
    return list(items[: len(items) - kept]), list(items[len(items) - kept :])
