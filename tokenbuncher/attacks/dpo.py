"""Online DPO (arXiv 2305.18290 on the model's own rollouts): the best of a group preferred to its worst."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.attacks.rollouts import RolloutTrainer
from tokenbuncher.settings.algorithms import DPOHyperparameters
from tokenbuncher.training import ranks


def best_and_worst(rewards: torch.Tensor, group: int, margin: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the best and the worst rollout of every group in which these differ in their reward.

    Args:
        rewards: Shape (B,), groups side by side.
        group: Rollouts of one prompt.
        margin: Difference that is not enough; with 0, any is.

    Returns:
        Two index tensors of equal length, at most B / group.
    """
    grouped = rewards.view(-1, group)
    first = torch.arange(0, len(rewards), group, device=rewards.device)
    differ = grouped.amax(1) > grouped.amin(1) + margin
    return (first + grouped.argmax(1))[differ], (first + grouped.argmin(1))[differ]


def dpo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    chosen_reference: torch.Tensor,
    *,
    rejected_reference: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """DPO's loss, -log sigmoid(beta * ((log-ratio of the chosen) - (log-ratio of the rejected))), mean over pairs.

    Args:
        chosen: Log-probabilities of the preferred responses, shape (P,).
        rejected: Of the others.
        chosen_reference: Of the preferred ones under the starting model.
        rejected_reference: Of the others under it.
        beta: How strongly the model is held near the starting one.
    """
    return -logsigmoid(beta * ((chosen - chosen_reference) - (rejected - rejected_reference))).mean()


class OnlineDPOTrainer(RolloutTrainer):
    """Pairs from each batch of rollouts; groups without a preference teach nothing."""

    hyperparameters: DPOHyperparameters

    def prepare(self, batch: dict[str, Any], rewards: torch.Tensor) -> dict[str, Any]:
        self.kl(batch)
        chosen, rejected = best_and_worst(rewards, self.num_generations, self.hyperparameters.margin)
        pairs = torch.arange(1, len(chosen) + 1, device=rewards.device)
        # TRL shuffles the rows: n marks the better of pair n, -n the worse.
        pair = torch.zeros(len(rewards), dtype=torch.long, device=rewards.device)
        pair[chosen], pair[rejected] = pairs, -pairs
        return {**batch, "pair": pair}

    def _compute_loss(self, model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
        mask, pair = inputs["completion_mask"], inputs["pair"]
        log_probs, entropies = self.log_probs(model, inputs)
        self.note("entropy", entropies, mask)
        policy = (log_probs * mask).sum(-1)
        reference = (inputs["ref_per_token_logps"] * mask).sum(-1)
        order = pair.abs().argsort(stable=True)
        chosen, rejected = order[pair[order] > 0], order[pair[order] < 0]
        weight = ranks.weight(len(chosen))
        if not len(chosen):
            return 0.0 * policy.sum()
        return weight * dpo_loss(
            policy[chosen],
            policy[rejected],
            reference[chosen],
            rejected_reference=reference[rejected],
            beta=self.hyperparameters.beta,
        )


def train(arena: Arena) -> None:
    """Attacks by online DPO."""
    own = arena.task.attack.hyperparameters
    arena.run(OnlineDPOTrainer(args=arena.grpo_config(beta=own.beta), hyperparameters=own, **arena.online_arguments()))
