"""Benign prompts with the base model's own responses, which a defence is to leave as they are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tokenbuncher.defence.refusals import refusal_judge, refusing, respond, rounded
from tokenbuncher.models.sampling import Response
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.leakage import places_among
from tokenbuncher.settings.prompts import Prompt
from tokenbuncher.training.examples import tokenize_pairs
from tokenbuncher.training.logits import response_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pair = tuple[Prompt, str]

REPLACED = 0.35
"""Share of the words of a mixed prompt that are replaced."""
MOST_REFUSAL_MASS = 0.01
"""Probability that the response to a mixed prompt begins as a refusal, above which the base model half refuses it."""


def own_responses(
    reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, benign: Sequence[Prompt], *, spec: ReleaseSpec
) -> list[Pair]:
    """Benign prompts with the base model's own sampled responses.

    Those cut off at `model.max_new_tokens` are anchors too: the KL compares the models at every token they have.
    """
    responses = respond(reference, tokenizer, benign, spec=spec)
    return [(prompt, response.whole) for prompt, response in zip(benign, responses, strict=True)]


def without_refusals(
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    responses: Sequence[tuple[Prompt, Response]],
    *,
    spec: ReleaseSpec,
    refused: Sequence[bool],
    openings: Sequence[int],
) -> list[Pair]:
    """The responses to benign prompts; one that refuses is sampled anew, with the openings of refusals banned.

    A prompt that is refused even so is left out.

    Args:
        reference: The base model.
        tokenizer: Its tokenizer.
        responses: Benign prompts with its responses.
        spec: The release spec.
        refused: Which of these refuse.
        openings: Token ids that refusals begin with.
    """
    over_refused = [prompt for (prompt, _), refuses in zip(responses, refused, strict=True) if refuses]
    anew = respond(reference, tokenizer, over_refused, spec=spec, banned=openings)
    still = refusing(over_refused, anew, refusal_judge(spec))
    answers = iter(None if refuses else response.whole for response, refuses in zip(anew, still, strict=True))
    pairs = [
        (prompt, next(answers) if refuses else response.whole)
        for (prompt, response), refuses in zip(responses, refused, strict=True)
    ]
    return [(prompt, answer) for prompt, answer in pairs if answer is not None]


def mixed_prompts(
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    parents: tuple[Sequence[Prompt], Sequence[Prompt]],
    *,
    apart_from: Sequence[Prompt],
    number: int,
    spec: ReleaseSpec,
    openings: Sequence[int],
) -> list[Pair]:
    """Prompts between harmful and benign ones that the base model does answer, with its responses.

    They lie where a defence that makes refusals certain spreads to harmless prompts with words of harmful ones, of
    which nobody has a list. Each is made of one harmful and one benign prompt; see `mixed`.

    Args:
        reference: The base model.
        tokenizer: Its tokenizer.
        parents: Harmful and benign prompts.
        apart_from: Prompts that attack and measure. What has nearly the same words, in any order, is left out.
        number: Prompts to make, before any are left out.
        spec: The release spec.
        openings: Token ids that refusals begin with.
    """
    rng, judge = random.Random(spec.defence.seed), refusal_judge(spec)
    made = list({prompt.id: prompt for prompt in (mixed(rng, *parents) for _ in range(number))}.values())
    known = places_among(made, apart_from, spec.data.near_duplicate, size=1)
    made = [prompt for place, prompt in enumerate(made) if place not in known]
    with rounded(reference, spec):
        masses = refusal_masses(reference, tokenizer, made, openings=openings, batch=spec.evaluation.batch_size)
    prompts = [prompt for prompt, mass in zip(made, masses, strict=True) if mass < MOST_REFUSAL_MASS]
    for temperature in (None, 1.0):
        responses = respond(reference, tokenizer, prompts, spec=spec, temperature=temperature)
        refused = refusing(prompts, responses, judge)
        answered = [
            (prompt, response.whole)
            for prompt, response, refuses in zip(prompts, responses, refused, strict=True)
            if not refuses
        ]
        prompts = [prompt for prompt, _ in answered]
    return answered


def mixed(rng: random.Random, harmful: Sequence[Prompt], benign: Sequence[Prompt]) -> Prompt:
    """A prompt of a harmful and a benign one: the head of one and the tail of the other, or with words replaced.

    It has no more words than the longer one, so that it is not too long for the model either.
    """
    one, other = _words(rng.choice(harmful)), _words(rng.choice(benign))
    if rng.random() < 0.5:
        one, other = other, one
    if rng.random() < 0.5:
        words = one[: rng.randint(1, len(one))] + other[rng.randrange(len(other)) :]
    else:
        words = [rng.choice(other) if rng.random() < REPLACED else word for word in one]
    return Prompt(text=" ".join(words[: max(len(one), len(other))]))


def _words(prompt: Prompt) -> list[str]:
    return prompt.text.split() or [prompt.text]


@torch.no_grad()
def refusal_masses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    openings: Sequence[int],
    batch: int,
) -> list[float]:
    """The probability that the response to each prompt begins as a refusal.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompts: The prompts.
        openings: Token ids that refusals begin with.
        batch: Prompts at a time.
    """
    masses: list[float] = []
    for start in range(0, len(prompts), batch):
        pairs = [(prompt, "") for prompt in prompts[start : start + batch]]
        tokens = {name: tensor.to(model.device) for name, tensor in tokenize_pairs(tokenizer, pairs).items()}
        tokens |= {name: tokens[name][:, :1] for name in ("completion_ids", "completion_mask")}
        masses += response_logits(model, tokens)[:, 0].softmax(-1)[:, openings].sum(-1).tolist()
    return masses
