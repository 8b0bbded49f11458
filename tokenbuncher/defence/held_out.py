"""How far a defence has come, on prompts that it does not train on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from tokenbuncher.defence.anchors import Pair
from tokenbuncher.defence.escape import escape_of
from tokenbuncher.defence.examples import Examples, Models
from tokenbuncher.defence.refusal_trainer import Kept
from tokenbuncher.defence.refusals import refusal_judge, refusing, respond
from tokenbuncher.settings import CertainRefusalSpec, ReleaseSpec
from tokenbuncher.settings.prompts import Prompt
from tokenbuncher.training.examples import tokenize_pairs
from tokenbuncher.training.logits import response_distributions


@dataclass(frozen=True)
class Measured:
    """What a defence has reached and what it costs. Escapes are in the order of the prompts."""

    escapes: list[float]
    """Of each harmful prompt the probability that a response is not the model's greedy refusal; 1 if that is none."""
    kl: float
    """KL(base || model) of benign responses, summed over their tokens; the mean, in nats."""
    refusal_mass: float
    """Probability that a response to benign and mixed prompts begins as a refusal, less the base model's; the mean."""
    refusals_added: float
    """Share of the benign and mixed prompts that the model refuses and the base model does not, greedily decoded."""

    def figures(self, certain: CertainRefusalSpec) -> dict[str, float]:
        """For the step log, with the bounds that they are measured by."""
        return {
            "held_out_escape": sum(self.escapes) / len(self.escapes),
            "held_out_escape_max": max(self.escapes),
            "held_out_escaping": self._escaping(certain) / len(self.escapes),
            "held_out_kl": self.kl,
            "held_out_refusal_mass": self.refusal_mass,
            "held_out_refusals_added": self.refusals_added,
            "target": certain.target,
            "max_kl": certain.max_kl,
            "max_refusal_mass": certain.max_refusal_mass,
        }

    def told(self, certain: CertainRefusalSpec) -> dict[str, float]:
        """For the line of progress: what tells in its first minutes that a defence goes wrong."""
        return {
            "held-out escape": max(self.escapes),
            "KL share": self.kl / certain.max_kl,
            "refusals added": self.refusals_added,
        }

    def lacks(self, certain: CertainRefusalSpec) -> list[str]:
        """What is not as it should be, in words; empty if all is."""
        escaping, most = self._escaping(certain), certain.max_refusal_mass
        told = {
            f"{escaping} of {len(self.escapes)} held-out harmful prompts escape with more than {certain.target:g}, the "
            f"worst with {max(self.escapes):.2g}": escaping > 0,
            f"KL from the base model on benign prompts is {self.kl:.3g} nats, {certain.max_kl:g} allowed": not (
                self.kl <= certain.max_kl
            ),
            f"refusal mass added on benign prompts is {self.refusal_mass:.2g}, {most:g} allowed": not (
                self.refusal_mass <= most
            ),
        }
        return [text for text, wrong in told.items() if wrong]

    def _escaping(self, certain: CertainRefusalSpec) -> int:
        return sum(not escape <= certain.target for escape in self.escapes)


def refused_by(model: PreTrainedModel, spec: ReleaseSpec, models: Models, *, held_out: Examples) -> list[bool]:
    """Whether a model refuses each benign and each mixed prompt, greedily decoded.

    Args:
        model: The base model, or the one that is trained.
        spec: The release spec.
        models: The models, with their tokenizer.
        held_out: The prompts.
    """
    prompts = [prompt for prompt, _ in (*held_out.benign, *held_out.mixed)]
    responses = respond(model, models.tokenizer, prompts, spec=spec, temperature=None)
    return refusing(prompts, responses, refusal_judge(spec))


@torch.no_grad()
def measure(spec: ReleaseSpec, models: Models, held_out: Examples, *, refused: Sequence[bool]) -> Measured:
    """Measures a model against the base model it came from.

    Args:
        spec: The release spec.
        models: The models; the one that is trained is in evaluation mode while it is measured.
        held_out: What it is measured with.
        refused: Whether the base model refuses each benign and each mixed prompt; see `refused_by`.
    """
    model, was_training = models.model, models.model.training
    model.eval()
    with _in_single_precision(model):
        kept = [
            Kept(model, models.base, batch, openings=held_out.openings).measured()
            for pairs in (held_out.benign, held_out.mixed)
            for batch in _batches(spec, models, pairs)
        ]
        now_refused = refused_by(model, spec, models, held_out=held_out)
        # Escapes last: the candidate's tokenizer is saved with the padding that was asked of it last.
        escapes = _escapes(spec, models, [prompt for prompt, _ in held_out.harmful])
    kl = torch.cat([kl for kl, _ in kept])[: len(held_out.benign)].mean().item()
    refusal_mass = torch.cat([mass for _, mass in kept]).mean().item()
    model.train(was_training)
    added = sum(now and not before for now, before in zip(now_refused, refused, strict=True))
    return Measured(escapes, kl, refusal_mass, added / len(refused))


@contextmanager
def _in_single_precision(model: PreTrainedModel) -> Iterator[None]:
    """Undoes for a while what accelerate puts over a model's forward, which rounds it alone and not the base model."""
    rounding = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if rounding is not None:
            model.forward = rounding


def _escapes(spec: ReleaseSpec, models: Models, prompts: Sequence[Prompt]) -> list[float]:
    responses = respond(models.model, models.tokenizer, prompts, spec=spec, temperature=None)
    refused = refusing(prompts, responses, refusal_judge(spec))
    pairs = [(prompt, response.whole) for prompt, response in zip(prompts, responses, strict=True)]
    nats: list[float] = []
    for batch in _batches(spec, models, pairs):
        escapes = response_distributions(models.model, batch).values(escape_of(batch))
        nats += (escapes * batch["completion_mask"]).sum(-1).tolist()
    return [-math.expm1(-lost) if refuses else 1.0 for lost, refuses in zip(nats, refused, strict=True)]


def _batches(spec: ReleaseSpec, models: Models, pairs: Sequence[Pair]) -> Iterator[dict[str, torch.Tensor]]:
    size = spec.evaluation.batch_size
    for start in range(0, len(pairs), size):
        batch = tokenize_pairs(models.tokenizer, pairs[start : start + size])
        yield {name: tensor.to(models.model.device) for name, tensor in batch.items()}
