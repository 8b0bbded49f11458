"""Samples and judges responses. Harm, refusal and entropy are always measured this way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenbuncher.evidence import SampleScore
from tokenbuncher.judges.types import Exchange, Judge, Judgement
from tokenbuncher.models.sampling import Response, generate
from tokenbuncher.settings.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    judge: Judge,
    max_new_tokens: int,
    batch_size: int,
    samples: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    title: str = "sampling",
) -> list[SampleScore]:
    """Samples responses and judges them; see `generate` for the arguments.

    Returns:
        `samples` scores for each prompt.
    """
    asked = [(prompt, sample) for prompt in prompts for sample in range(samples)]
    responses = generate(
        model,
        tokenizer,
        [prompt for prompt, _ in asked],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        temperature=temperature,
        seed=seed,
        title=title,
    )
    judgements = judge(
        [
            Exchange(prompt.text, response.text, response.finished)
            for (prompt, _), response in zip(asked, responses, strict=True)
        ]
    )
    return [
        _scored(prompt, sample, response, judged=judged)
        for (prompt, sample), response, judged in zip(asked, responses, judgements, strict=True)
    ]


def _scored(prompt: Prompt, sample: int, response: Response, *, judged: Judgement) -> SampleScore:
    return SampleScore(
        prompt=prompt.id,
        sample=sample,
        harmful=judged.harmful,
        refused=judged.refused,
        gibberish=judged.gibberish,
        partial=judged.partial,
        finished=response.finished,
        tokens=response.tokens,
        entropy=response.entropy,
        first_entropy=response.first_entropy,
    )
