"""The adaptive attack on low entropy: GRPO with entropy in the reward and in the loss.

The capped entropy in the reward is the published attack's (arXiv 2508.20697, `obj1_localapi_adaptive`). Entropies of a
defended model differ by 1e-10 nats and less: they are computed without rounding and added in float64, and nothing is
added to the spread of a group's rewards, so that these differences alone give full-size advantages.
"""

from __future__ import annotations

from typing import Any

import torch

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.attacks.rollouts import RolloutTrainer
from tokenbuncher.models.entropy import response_mean, token_entropy
from tokenbuncher.settings.algorithms import EntropySeekingHyperparameters
from tokenbuncher.training.advantages import group_advantages
from tokenbuncher.training.logits import response_distributions


class EntropySeekingTrainer(RolloutTrainer):
    """The reward of a rollout is the attacker's plus its mean token entropy, capped."""

    hyperparameters: EntropySeekingHyperparameters

    def prepare(self, batch: dict[str, Any], rewards: torch.Tensor) -> dict[str, Any]:
        self.kl(batch)
        advantages = group_advantages(rewards.double() + self.bonus(batch), self.num_generations, floor=0.0)
        return {**batch, "advantages": advantages.float()}

    def bonus(self, batch: dict[str, Any]) -> torch.Tensor:
        """The capped mean token entropy of each rollout in nats, shape (B,), float64; exact however small."""
        entropies = response_distributions(self.model, batch).values(lambda logits, _: token_entropy(logits.double()))
        return response_mean(entropies, batch["completion_mask"]).clamp(max=self.hyperparameters.entropy_cap)


def train(arena: Arena) -> None:
    """Attacks by GRPO that seeks entropy; no KL holds it near the starting model."""
    own = arena.task.attack.hyperparameters
    arena.run(
        EntropySeekingTrainer(
            args=arena.grpo_config(entropy_coef=own.entropy_coefficient),
            hyperparameters=own,
            **arena.online_arguments(),
        )
    )
