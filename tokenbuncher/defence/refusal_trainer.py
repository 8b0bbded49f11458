"""Makes a model certain of its own refusals, as far as a constraint on its benign responses lets it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, Trainer

from tokenbuncher.defence.anchors import Pair
from tokenbuncher.defence.constraint import FIRST_RATE, Constraint
from tokenbuncher.defence.escape import escape_of
from tokenbuncher.defence.examples import Examples, Models
from tokenbuncher.defence.rewards import kl_divergence
from tokenbuncher.settings import DefenceSpec
from tokenbuncher.training import ranks
from tokenbuncher.training.examples import tokenize_pairs
from tokenbuncher.training.logits import WithReference, response_distributions
from tokenbuncher.training.run import step_generator

ESCAPE_FLOOR = 1e-12
"""Keeps the logarithm finite; what escapes this seldom needs no further push."""
HEADROOM = 0.1
"""Share of the target that prompts in training are pushed to: prompts that it has not seen escape more often."""
OPENINGS_LOWERED = 30.0
"""By how many nats the base model's first token is kept from refusing, where it would refuse a benign prompt."""
REVERSE_WEIGHT = 0.3
"""Weight of KL(model || base) at the first token, which sees a new refusal that KL(base || model) hardly does."""
REFUSAL_WEIGHT = 10.0
"""Weight of -log(1 - refusal mass) of mixed prompts."""
SELDOM, OFTEN = 0.3, 12.0
"""Bounds of how often a prompt is drawn, by the nats from its escape to the target."""


class RefusalTrainer(WithReference, Trainer):
    """Pushes the escape of each prompt's refusal down to a target, and keeps benign responses.

    The gradient is that of  mean over prompts of relu(log escape - log target) + multiplier * cost + mixed,  where the
    escape is minus the log-probability of the refusal, the cost is the KL divergence from the base model on benign
    responses, summed over their tokens, with a part of the reverse divergence at the first, and `mixed` is log(1 + KL)
    and the refusal mass of mixed prompts. In the logged loss the first term is the share of prompts above the target.
    Multiplier and learning rate are those of `Constraint`. Prompts that escape most are drawn most.
    """

    def __init__(
        self, models: Models, defence: DefenceSpec, examples: Examples, *, saved: str | None, **kwargs: Any
    ) -> None:
        """
        Args:
            models: The model to train and its base model.
            defence: The recipe.
            examples: What it trains on.
            saved: What `state_text()` gave at the checkpoint that the training goes on from.
            **kwargs: Keyword arguments of `transformers.Trainer`.
        """
        super().__init__(model=models.model, processing_class=models.tokenizer, data_collator=_step_alone, **kwargs)
        assert defence.certain_refusal is not None
        self.defence, self.certain, self.examples = defence, defence.certain_refusal, examples
        self.reference = models.base.requires_grad_(False)
        state = json.loads(saved) if saved else {}
        first = {"rate": min(FIRST_RATE, self.args.learning_rate)}
        self.constraint = Constraint(**state.get("constraint", first))
        self.escapes: list[float] = state.get("escapes", [1.0] * len(examples.harmful))
        """Escape of each harmful prompt when it was last drawn, in nats."""
        self.figures: dict[str, float] = {}
        """What the step log is told of a step, beside what the library measures."""

    def state_text(self) -> str:
        """What a checkpoint keeps beside weights and optimizer."""
        return json.dumps({"constraint": asdict(self.constraint), "escapes": self.escapes})

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate is the constraint's."""
        first = self.args.learning_rate
        self.lr_scheduler: Any = LambdaLR(optimizer or self.optimizer, lambda _: self.constraint.rate / first)
        return self.lr_scheduler

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds this trainer's own figures to those of a step; the last call is about the whole training."""
        own, self.figures = self.figures, {}
        super().log({**logs, **own} if "loss" in logs else logs, *args, **kwargs)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of a step, whose rows carry nothing: what is drawn follows from the step and the seed."""
        push = self._push(model)
        cost, usage = self._cost(model)
        mixed = self._mixed_cost(model) if self.examples.mixed else 0.0
        loss = push + self.constraint.multiplier * cost + mixed
        constraint = {"multiplier": self.constraint.multiplier, "rate": self.constraint.rate}
        self.figures |= {**constraint, "constraint_usage": usage}
        self.constraint.observe(usage, fastest=self.args.learning_rate)
        return loss

    def _push(self, model: Any) -> torch.Tensor:
        target = HEADROOM * self.certain.target
        chosen = self._drawn(
            torch.tensor([(escape + ESCAPE_FLOOR) / target for escape in self.escapes]).log().clamp(SELDOM, OFTEN),
            self.defence.prompts_per_step,
        )
        batch = self._tokens([self.examples.harmful[index] for index in chosen])
        mask, escape = batch["completion_mask"], escape_of(batch)
        distributions = response_distributions(model, batch)
        escapes = (distributions.values(escape) * mask).sum(-1)
        found = ranks.gathered(list(zip(chosen, escapes.tolist(), strict=True)))
        for index, nats in found:
            self.escapes[index] = nats
        self.figures |= {"escape": sum(-math.expm1(-nats) for _, nats in found) / len(found)}
        # The gradient of log(sum) is that of the sum over the sum, so the loss stays a sum over tokens.
        above = (escapes > target) / (escapes + ESCAPE_FLOOR) / len(escapes)
        return distributions.weighted(escape, above.unsqueeze(-1) * mask)

    def _cost(self, model: Any) -> tuple[torch.Tensor, float]:
        """The constrained cost, and its share of the bound."""
        drawn = self._drawn(torch.ones(len(self.examples.benign)), self.certain.benign_examples, stream=1)
        batch = self._tokens([self.examples.benign[index] for index in drawn])
        kept = Kept(model, self.reference, batch, openings=self.examples.openings)
        kl, mass = kept.measured()
        kl, mass = (self.accelerator.reduce(value.mean(), "mean").item() for value in (kl, mass))
        self.figures |= {"anchor_kl": kl, "refusal_mass": mass}
        usage = max(kl / self.certain.max_kl, mass / self.certain.max_refusal_mass)
        return kept.loss(reverse=REVERSE_WEIGHT), usage

    def _mixed_cost(self, model: Any) -> torch.Tensor:
        drawn = self._drawn(torch.ones(len(self.examples.mixed)), self.certain.benign_examples, stream=2)
        batch = self._tokens([self.examples.mixed[index] for index in drawn])
        kept = Kept(model, self.reference, batch, openings=self.examples.openings)
        kl, _ = kept.measured()
        return kept.loss(faded=1 + kl, refusal=REFUSAL_WEIGHT)

    def _drawn(self, weights: torch.Tensor, count: int, stream: int = 0) -> list[int]:
        """This process's share of indices drawn for the step, each at most once as long as there are enough."""
        own = ranks.share(count, "examples of a step")
        generator = step_generator(self, stream=stream)
        drawn = torch.multinomial(weights, count, replacement=count > len(weights), generator=generator).tolist()
        return drawn[ranks.number() * own :][:own]

    def _tokens(self, pairs: Sequence[Pair]) -> dict[str, torch.Tensor]:
        batch = tokenize_pairs(self.processing_class, pairs)
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}


class Kept:
    """How far a model's responses are from the base model's, on benign prompts."""

    def __init__(
        self, model: Any, reference: PreTrainedModel, batch: dict[str, torch.Tensor], *, openings: list[int]
    ) -> None:
        """
        Args:
            model: The model.
            reference: The base model.
            batch: Benign prompts with the base model's responses, as `tokenize_pairs` gives them.
            openings: Token ids that refusals begin with.
        """
        self.openings, self.mask = openings, batch["completion_mask"]
        self.model = response_distributions(model, batch)
        with torch.no_grad():
            self.reference = response_distributions(reference, batch)
        self.first = torch.zeros_like(self.mask, dtype=torch.float32)
        self.first[:, 0] = 1.0
        answered = ~torch.isin(batch["completion_ids"][:, 0], torch.tensor(openings, device=self.mask.device))
        self.lowered = OPENINGS_LOWERED * self.first * answered.unsqueeze(-1)

    @torch.no_grad()
    def measured(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model has changed, by response; both of shape (B,). What the base model itself lacks is no cost.

        Returns:
            KL(base || model) summed over the tokens, in nats, where the base model is kept from refusing, less what it
            would be of the base model as it is; and the refusal mass that the model has and the base model has not, in
            [0, 1].
        """

        def values(logits: torch.Tensor, rows: slice) -> torch.Tensor:
            base, kept, own = self._log_probs(logits, rows)
            added = (_mass(own, self.openings) - _mass(base, self.openings)).clamp(min=0.0)
            return torch.stack([kl_divergence(kept, own) - kl_divergence(kept, base), added], dim=-1)

        kl, added = self.model.values(values).unbind(-1)
        return (kl.clamp(min=0.0) * self.mask).sum(-1), added[:, 0]

    def loss(self, *, faded: torch.Tensor | None = None, reverse: float = 0.0, refusal: float = 0.0) -> torch.Tensor:
        """The mean over the responses of KL(base || model), summed over their tokens; a scalar.

        Args:
            faded: What the KL of each response is divided by, shape (B,); the gradient does not see it.
            reverse: Weight of KL(model || base) at first tokens, beside the KL.
            refusal: Weight of -log(1 - refusal mass) at first tokens, beside the KL.
        """
        first = self.first.flatten()
        shares = torch.ones_like(self.first) if faded is None else 1 / faded.unsqueeze(-1).expand_as(self.first)

        def value(logits: torch.Tensor, rows: slice) -> torch.Tensor:
            _, kept, own = self._log_probs(logits, rows)
            at_first = reverse * kl_divergence(own, kept) - refusal * _log_not(own, self.openings)
            return shares.flatten()[rows] * kl_divergence(kept, own) + first[rows] * at_first

        return self.model.weighted(value, self.mask / len(self.mask))

    def _log_probs(self, logits: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the base model, of the base model kept from refusing where it answered, and of the model."""
        base = self.reference.logits(rows).log_softmax(-1)
        lowered = torch.zeros_like(base)
        lowered[:, self.openings] = self.lowered.flatten()[rows].unsqueeze(-1).to(base.dtype)
        return base, (base - lowered).log_softmax(-1), logits.log_softmax(-1)


def _mass(log_probs: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    return log_probs[:, tokens].exp().sum(-1)


def _log_not(log_probs: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """The logarithm of the probability of all other tokens, exact where that is next to nothing."""
    others = torch.ones(log_probs.shape[-1], dtype=torch.bool, device=log_probs.device)
    others[tokens] = False
    return torch.logsumexp(log_probs[:, others], dim=-1)


def _step_alone(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
