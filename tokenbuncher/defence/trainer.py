"""TokenBuncher (arXiv 2508.20697) on TRL's GRPO trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from trl import GRPOTrainer

from tokenbuncher.defence.noiser import noiser_terms
from tokenbuncher.defence.rewards import entropy_reward, kl_divergence
from tokenbuncher.models.entropy import token_entropy
from tokenbuncher.settings import DefenceSpec
from tokenbuncher.settings.prompts import Prompt
from tokenbuncher.training import ranks
from tokenbuncher.training.advantages import group_advantages
from tokenbuncher.training.examples import tokenize_pairs
from tokenbuncher.training.logits import WithReference, response_distributions
from tokenbuncher.training.run import step_generator

ENTROPY_FLOOR = 1e-12
"""Keeps the logarithm finite, in nats; a response this certain needs no further push."""


class TokenBuncherTrainer(WithReference, GRPOTrainer):
    """GRPO whose reward is minus the response entropy, with Token Noiser steps and a benign anchor.

    Rows of the dataset carry `harmful`: harmful prompts are rewarded by minus the response entropy and
    minus the KL to the base model, benign ones by minus that KL alone. With `entropy: loss` there is
    no reward: the response entropy H of the same rollouts is the loss; with `log-loss` it is log H. The
    gradient of H fades as fast as H itself, that of log H does not, so the tail under the refusal keeps
    shrinking.
    """

    def __init__(
        self,
        *args: Any,
        defence: DefenceSpec,
        reference: PreTrainedModel,
        anchors: Sequence[tuple[Prompt, str]],
        **kwargs: Any,
    ) -> None:
        """
        Args:
            *args: Arguments of `trl.GRPOTrainer`.
            defence: The recipe.
            reference: The frozen base model.
            anchors: Benign prompts with the base model's own responses.
            **kwargs: Keyword arguments of `trl.GRPOTrainer`.
        """
        super().__init__(*args, reward_funcs=_no_reward, **kwargs)
        self.defence = defence
        self.reference = reference.requires_grad_(False)
        self.anchors = anchors

    def log_refused(self, share: float) -> None:
        """Adds the share of harmful prompts that the model refuses to the figures of the step, in [0, 1]."""
        self._metrics["train"]["refused"].append(share)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        batch["harmful"] = torch.tensor([row["harmful"] for row in inputs], device=batch["completion_ids"].device)
        if self.defence.entropy == "reward" or self.defence.noiser:
            rewards = self.rewards(batch)
            batch["advantages"] = group_advantages(rewards, self.num_generations)
            self._metrics["train"]["reward"][-1] = rewards.mean().item()
            spread = rewards.view(-1, self.num_generations).std(dim=1)
            self._metrics["train"]["frac_reward_zero_std"][-1] = (spread < 1e-8).float().mean().item()
        return batch

    @torch.no_grad()
    def rewards(self, batch: dict[str, Any]) -> torch.Tensor:
        """The reward of each rollout, shape (B,); see `entropy_reward`."""
        with self.autocast_smart_context_manager():
            return entropy_reward(
                response_distributions(self.model, batch),
                response_distributions(self.reference, batch),
                batch["completion_ids"],
                mask=batch["completion_mask"],
                harmful=batch["harmful"],
                kl_coefficient=self.defence.kl_coefficient,
            )

    def _compute_loss(self, model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
        if self._is_noiser_step():
            loss = self._noiser_loss(model, inputs)
            self._metrics["train"]["noiser_loss"].append(loss.item())
        elif self.defence.entropy != "reward":
            entropy = self._over_processes(self._mean_entropy(model, inputs))
            self._metrics["train"]["entropy"].append(entropy.item())
            loss = torch.log(entropy + ENTROPY_FLOOR) if self.defence.entropy == "log-loss" else entropy
        else:
            loss = super()._compute_loss(model, inputs)
        if self.defence.anchor:
            anchor_kl = self._over_processes(self._anchor_kl(model, self.defence.anchor.examples))
            self._metrics["train"]["anchor_kl"].append(anchor_kl.item())
            loss = loss + self.defence.anchor.weight * anchor_kl
        return loss

    def _is_noiser_step(self) -> bool:
        noiser, step = self.defence.noiser, self.state.global_step
        if noiser is None:
            return False
        first, end = round(noiser.start * self.defence.steps), round(noiser.stop * self.defence.steps)
        return first <= step < end and (step - first) % noiser.every == 0

    def _noiser_loss(self, model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
        noiser = self.defence.noiser
        assert noiser is not None
        counts = inputs["harmful"] & (inputs["advantages"] >= 0)
        mask = inputs["completion_mask"] * counts.unsqueeze(-1)
        tokens = inputs["completion_ids"].flatten()
        generator = step_generator(self, mask.device, stream=ranks.number())
        loss = response_distributions(model, inputs).weighted(
            lambda logits, rows: noiser_terms(
                logits, tokens[rows], noiser.weight, form=noiser.form, generator=generator
            ),
            mask / mask.sum().clamp(min=1),
        )
        return ranks.weight(int(mask.sum())) * loss

    def _mean_entropy(self, model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
        distributions = response_distributions(model, inputs)
        return distributions.mean(lambda logits, _: token_entropy(logits), inputs["completion_mask"])

    def _over_processes(self, mean: torch.Tensor) -> torch.Tensor:
        """The mean over the batches of all processes, whose gradient is of this process's batch alone."""
        return mean + (self.accelerator.reduce(mean.detach(), "mean") - mean.detach())

    def _anchor_kl(self, model: PreTrainedModel, examples: int) -> torch.Tensor:
        """KL(base || model), mean over the tokens of its benign responses; a scalar, in nats."""
        own = ranks.share(examples, "examples of the anchor")
        chosen = torch.randint(len(self.anchors), (examples,), generator=step_generator(self))
        chosen = chosen[ranks.number() * own :][:own]
        batch = tokenize_pairs(self.processing_class, [self.anchors[index] for index in chosen.tolist()])
        batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
        with torch.no_grad():
            reference = response_distributions(self.reference, batch)
        return response_distributions(model, batch).mean(
            lambda logits, rows: kl_divergence(reference.logits(rows).log_softmax(-1), logits.log_softmax(-1)),
            batch["completion_mask"],
        )


def _no_reward(completions: list[Any], **_: Any) -> list[float]:
    """TRL needs a reward function; the trainer computes its own from the rollouts' tensors."""
    return [0.0] * len(completions)
