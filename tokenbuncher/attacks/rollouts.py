"""What the algorithms that sample share: no idle passes, and GRPO's loss with room for other advantages."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from trl import GRPOTrainer

from tokenbuncher.settings.algorithms import Hyperparameters
from tokenbuncher.training import ranks

NONE = Hyperparameters()


class LearnsWhereRewardsDiffer:
    """Mixin of TRL's online trainers: where no rollout has an advantage, nothing but the rollouts is computed.

    Most steps against a model that holds are such. Their gradient is zero, so that weights and optimizer end as they
    would with the passes forward and backward, which take most of a step; the log of such a step has no entropy.
    """

    args: Any
    aux_loss_enabled: bool

    def _compute_loss(self, model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
        if self._has_gradient(inputs):
            loss: torch.Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
            return loss
        weights = [weight.flatten()[:1] for weight in model.parameters() if weight.requires_grad]
        return 0.0 * torch.cat(weights).sum()

    def _has_gradient(self, inputs: dict[str, Any]) -> bool:
        in_loss = self.args.beta or getattr(self.args, "entropy_coef", 0.0) or self.aux_loss_enabled
        # Where weights lie with several processes, all of them go through each pass together.
        return bool(in_loss or ranks.count() > 1 or inputs["advantages"].any())


class RolloutTrainer(LearnsWhereRewardsDiffer, GRPOTrainer):
    """What the algorithms beside GRPO share: they see each batch of rollouts with its rewards.

    A subclass adds to the batch what its loss needs, `advantages` of shape (B,) or (B, T) at least. TRL's own
    KL term is left out of the loss: a subclass that wants one has the log-probabilities.
    """

    beta: float

    def __init__(self, *args: Any, hyperparameters: Hyperparameters = NONE, **kwargs: Any) -> None:
        """
        Args:
            *args: Of `trl.GRPOTrainer`.
            hyperparameters: Those of the algorithm.
            **kwargs: Of `trl.GRPOTrainer`.
        """
        super().__init__(*args, **kwargs)
        self.hyperparameters = hyperparameters

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)
        self._rewards = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        first = self.accelerator.process_index * len(inputs)
        with torch.no_grad():
            return self.prepare(batch, self._rewards[first : first + len(inputs), 0])

    def prepare(self, batch: dict[str, Any], rewards: torch.Tensor) -> dict[str, Any]:
        """Adds what the loss needs.

        Args:
            batch: TRL's batch: prompts, completions (B, T), masks, `ref_per_token_logps` (B, T) if beta is not 0.
            rewards: Reward of each rollout, shape (B,), groups side by side.

        Returns:
            The batch; every new tensor has B rows.
        """
        raise NotImplementedError

    def log_probs(self, model: PreTrainedModel, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the completions' tokens and the entropies they were drawn from, shapes (B, T)."""
        log_probs, entropies, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            batch["completion_ids"].shape[1],
            compute_entropy=True,
        )
        assert entropies is not None
        return log_probs, entropies

    def kl(self, batch: dict[str, Any]) -> torch.Tensor:
        """log p(token) - log p_reference(token) of the rollouts, shape (B, T), logged; 0 without a reference."""
        mask = batch["completion_mask"]
        if "ref_per_token_logps" not in batch:
            return torch.zeros_like(mask, dtype=torch.float32)
        log_probs = batch.get("old_per_token_logps")
        if log_probs is None:
            log_probs, _ = self.log_probs(self.model, batch)
        kl = log_probs - batch["ref_per_token_logps"]
        self.note("kl", kl, mask)
        return kl

    def note(self, figure: str, values: torch.Tensor, mask: torch.Tensor) -> None:
        """Logs the mean over the valid tokens of all processes."""
        total, tokens = self.accelerator.reduce(torch.stack([(values * mask).sum(), mask.sum()]), "sum")
        self._metrics["train"][figure].append((total / tokens).item())

    def _compute_loss(self, model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
        beta, self.beta = self.beta, 0.0
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
