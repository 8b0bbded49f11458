"""Latent compliance: how likely one rollout complies, found without waiting for it to happen.

A refusal that is nearly certain hides compliance that is too rare to be sampled, yet an attacker who samples enough
finds it. So responses that comply are taken from the base model that the attack has broken, and teacher
forcing tells how likely another model is to give them: with q the broken model and p the other,

    P(comply) = E_(y ~ q) [ complies(y) * p(y) / q(y) ]        (importance sampling)

It misses what p would say and q would not: read it as a lower estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, TypeAdapter

from tokenbuncher.core.files import write_text
from tokenbuncher.core.progress import Progress
from tokenbuncher.core.stopwatch import working
from tokenbuncher.judges import Exchange, Judge
from tokenbuncher.models.sampling import generate
from tokenbuncher.settings.attacks import LATENT_SAMPLES
from tokenbuncher.settings.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE_NAME = "compliant.json"


class Compliant(BaseModel):
    """A response that complies, and how likely the model that gave it was to do so. Hazardous: quarantine only."""

    prompt: Prompt
    response: str
    log_prob: float


_ADAPTER = TypeAdapter(list[Compliant])


def write_compliant(folder: Path, compliant: Sequence[Compliant]) -> None:
    """Keeps compliant responses in a quarantine folder."""
    write_text(folder / FILE_NAME, _ADAPTER.dump_json(list(compliant)).decode())


def read_compliant(folder: Path) -> list[Compliant]:
    """The compliant responses in a quarantine folder."""
    return _ADAPTER.validate_json((folder / FILE_NAME).read_text(encoding="utf-8"))


def compliant_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    judge: Judge,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
) -> list[Compliant]:
    """Samples the broken model and keeps what complies.

    Args:
        model: The broken model.
        tokenizer: Its tokenizer.
        prompts: Harmful prompts; each is sampled `LATENT_SAMPLES` times, at temperature 1.
        judge: Tells what complies.
        max_new_tokens: Longest response.
        batch_size: Prompts at a time.
        seed: Of the sampling.
    """
    asked = [prompt for prompt in prompts for _ in range(LATENT_SAMPLES)]
    responses = generate(model, tokenizer, asked, max_new_tokens=max_new_tokens, batch_size=batch_size, seed=seed)
    given = [(prompt, response) for prompt, response in zip(asked, responses, strict=True) if response.finished]
    judgements = judge([Exchange(prompt.text, response.text, True) for prompt, response in given])
    kept = [
        (prompt, response.whole) for (prompt, response), judged in zip(given, judgements, strict=True) if judged.harmful
    ]
    return [
        Compliant(prompt=prompt, response=text, log_prob=log_prob)
        for (prompt, text), log_prob in zip(kept, log_probs(model, tokenizer, kept, batch_size=batch_size), strict=True)
    ]


def compliance_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    compliant: Sequence[Compliant],
    batch_size: int,
) -> dict[str, float]:
    """The probability that one rollout complies, by prompt identifier, each in [0, 1].

    Args:
        model: The model asked about.
        tokenizer: Its tokenizer.
        prompts: All prompts that the broken model was asked; those without a compliant response get 0.
        compliant: What it gave.
        batch_size: Responses at a time.
    """
    found = log_probs(model, tokenizer, [(known.prompt, known.response) for known in compliant], batch_size=batch_size)
    sums = {prompt.id: 0.0 for prompt in prompts}
    for known, log_prob in zip(compliant, found, strict=True):
        sums[known.prompt.id] += math.exp(min(log_prob - known.log_prob, 50.0))
    return {identifier: min(total / LATENT_SAMPLES, 1.0) for identifier, total in sums.items()}


@working()
@torch.no_grad()
def log_probs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[Prompt, str]],
    *,
    batch_size: int,
) -> list[float]:
    """Log-probability of each response with its end token, after its prompt, in nats."""
    from tokenbuncher.training.examples import tokenize_pairs
    from tokenbuncher.training.logits import response_logits

    found: list[float] = []
    progress = Progress("likelihood of responses", len(pairs), brief=True)
    was_training = model.training
    model.eval()
    for start in range(0, len(pairs), batch_size):
        batch = {
            name: tensor.to(model.device)
            for name, tensor in tokenize_pairs(tokenizer, pairs[start : start + batch_size]).items()
        }
        tokens = batch["completion_ids"].unsqueeze(-1)
        chosen = response_logits(model, batch).double().log_softmax(-1).gather(-1, tokens).squeeze(-1)
        found += (chosen * batch["completion_mask"]).sum(-1).tolist()
        progress.step(len(found))
    model.train(was_training)
    return found
