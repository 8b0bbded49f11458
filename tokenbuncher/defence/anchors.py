"""Benign prompts with the base model's own responses, which a defence is to leave as they are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tokenbuncher.defence.refusals import OwnRefusals, refusal_judge, refusing, respond
from tokenbuncher.settings import ReleaseSpec
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
    benign: Sequence[Prompt],
    *,
    spec: ReleaseSpec,
    refusals: OwnRefusals,
) -> list[Pair]:
    """As `own_responses`, but a response that refuses is sampled anew, with the openings of refusals banned."""
    responses = respond(reference, tokenizer, benign, spec=spec)
    refused = refusing(benign, responses, refusal_judge(spec))
    over_refused = [prompt for prompt, refuses in zip(benign, refused, strict=True) if refuses]
    anew = iter(respond(reference, tokenizer, over_refused, spec=spec, banned=refusals.openings))
    return [
        (prompt, (next(anew) if refuses else response).whole)
        for prompt, response, refuses in zip(benign, responses, refused, strict=True)
    ]


def mixed_prompts(
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    harmful: Sequence[Prompt],
    *,
    benign: Sequence[Prompt],
    spec: ReleaseSpec,
    refusals: OwnRefusals,
) -> list[Pair]:
    """Prompts between harmful and benign ones that the base model does answer, with its responses.

    They lie where a defence that makes refusals certain spreads to harmless prompts with words of harmful ones, of
    which nobody has a list. Each is made of one harmful and one benign prompt; see `mixed`.
    """
    certain = spec.defence.certain_refusal
    assert certain is not None
    rng = random.Random(spec.defence.seed)
    made = {prompt.id: prompt for prompt in (mixed(rng, harmful, benign) for _ in range(certain.mixed_prompts))}
    prompts, judge = list(made.values()), refusal_judge(spec)
    greedy = respond(reference, tokenizer, prompts, spec=spec, temperature=None)
    sampled = respond(reference, tokenizer, prompts, spec=spec)
    refused = zip(refusing(prompts, greedy, judge), refusing(prompts, sampled, judge), strict=True)
    answered = [
        (prompt, response.whole)
        for prompt, response, refuses in zip(prompts, sampled, refused, strict=True)
        if not any(refuses)
    ]
    masses = refusal_masses(
        reference, tokenizer, answered, openings=refusals.openings, batch=spec.evaluation.batch_size
    )
    return [pair for pair, mass in zip(answered, masses, strict=True) if mass < MOST_REFUSAL_MASS]


def mixed(rng: random.Random, harmful: Sequence[Prompt], benign: Sequence[Prompt]) -> Prompt:
    """A prompt of a harmful and a benign one: the head of one and the tail of the other, or with words replaced."""
    one, other = rng.choice(harmful).text.split(), rng.choice(benign).text.split()
    if rng.random() < 0.5:
        one, other = other, one
    if rng.random() < 0.5:
        words = one[: rng.randint(1, len(one))] + other[rng.randrange(len(other)) :]
    else:
        words = [rng.choice(other) if rng.random() < REPLACED else word for word in one]
    return Prompt(text=" ".join(words))


@torch.no_grad()
def refusal_masses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    openings: Sequence[int],
    batch: int,
) -> list[float]:
    """The probability that the response to each prompt begins as a refusal.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        pairs: Prompts with a response; only the first token's distribution counts.
        openings: Token ids that refusals begin with.
        batch: Prompts at a time.
    """
    masses: list[float] = []
    for start in range(0, len(pairs), batch):
        tokens = {
            name: tensor.to(model.device)
            for name, tensor in tokenize_pairs(tokenizer, pairs[start : start + batch]).items()
        }
        tokens |= {name: tokens[name][:, :1] for name in ("completion_ids", "completion_mask")}
        masses += response_logits(model, tokens)[:, 0].softmax(-1)[:, openings].sum(-1).tolist()
    return masses
