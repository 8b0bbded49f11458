"""Makes a model certain of its own refusals, as far as a constraint on its benign responses lets it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, Trainer

from tokenbuncher.defence.anchors import Pair
from tokenbuncher.defence.constraint import Constraint
from tokenbuncher.defence.escape import escape_of
from tokenbuncher.defence.examples import Examples, Models
from tokenbuncher.defence.rewards import kl_divergence
from tokenbuncher.settings import DefenceSpec
from tokenbuncher.training import ranks
from tokenbuncher.training.examples import tokenize_pairs
from tokenbuncher.training.logits import response_distributions
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


class RefusalTrainer(Trainer):
    """Pushes the escape of each prompt's refusal down to a target, and keeps benign responses.

    The loss is  mean over prompts of relu(log escape - log target) + multiplier * cost + mixed,  where the escape is
    minus the log-probability of the refusal, the cost is the KL divergence from the base model on benign responses,
    summed over their tokens, and `mixed` is log(1 + KL) and the refusal mass of mixed prompts. Multiplier and learning
    rate are those of `Constraint`. Prompts that escape most are drawn most.
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
        self.constraint = Constraint(**state.get("constraint", {}))
        self.escapes: list[float] = state.get("escapes", [1.0] * len(examples.harmful))
        """Escape of each harmful prompt when it was last drawn."""
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
        self.constraint.observe(usage, fastest=self.args.learning_rate)
        self.figures |= {"multiplier": self.constraint.multiplier, "rate": self.constraint.rate}
        return push + self.constraint.multiplier * cost + mixed

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
        for index, found in ranks.gathered(list(zip(chosen, escapes.tolist(), strict=True))):
            self.escapes[index] = found
        self.figures |= {"escape": escapes.mean().item()}
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
        return kept.loss(batch["completion_mask"] / len(drawn), reverse=REVERSE_WEIGHT, refusal=0.0), usage

    def _mixed_cost(self, model: Any) -> torch.Tensor:
        drawn = self._drawn(torch.ones(len(self.examples.mixed)), self.certain.benign_examples, stream=2)
        batch = self._tokens([self.examples.mixed[index] for index in drawn])
        kept = Kept(model, self.reference, batch, openings=self.examples.openings)
        kl, _ = kept.measured()
        weights = batch["completion_mask"] / (1 + kl).unsqueeze(-1) / len(drawn)
        return kept.loss(weights, reverse=0.0, refusal=REFUSAL_WEIGHT)

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
        """KL(base || model) summed over each response's tokens, and its refusal mass; both of shape (B,)."""
        values = self.model.values(lambda logits, rows: torch.stack(self._terms(logits, rows)[::2], dim=-1))
        kl, mass = values.unbind(-1)
        return (kl * self.mask).sum(-1), mass[:, 0]

    def loss(self, weights: torch.Tensor, *, reverse: float, refusal: float) -> torch.Tensor:
        """The weighted sum of KL(base || model) over the tokens; a scalar.

        Args:
            weights: Weight of each token, shape (B, T).
            reverse: Weight of KL(model || base) at first tokens, beside the KL.
            refusal: Weight of -log(1 - refusal mass) at first tokens, beside the KL.
        """
        first = self.first.flatten()

        def value(logits: torch.Tensor, rows: slice) -> torch.Tensor:
            kl, other_way, mass = self._terms(logits, rows)
            return kl + first[rows] * (reverse * other_way - refusal * torch.log1p(-mass.clamp(max=0.999)))

        return self.model.weighted(value, weights)

    def _terms(self, logits: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        base = self.reference.logits(rows).clone()
        base[:, self.openings] -= self.lowered.flatten()[rows].unsqueeze(-1)
        base, own = base.log_softmax(-1), logits.log_softmax(-1)
        return kl_divergence(base, own), kl_divergence(own, base), own[:, self.openings].exp().sum(-1)


def _step_alone(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
