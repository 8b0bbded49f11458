"""The adaptive attack on low entropy: GRPO with entropy in the reward and in the loss.

The capped entropy in the reward is the published attack's (arXiv 2508.20697, `obj1_localapi_adaptive`).
"""

from __future__ import annotations

from typing import Any

import torch

from tokenbuncher.advantages import group_advantages
from tokenbuncher.attacks.arena import Arena
from tokenbuncher.attacks.rollouts import RolloutTrainer
from tokenbuncher.entropy import response_mean

CAP = 3.0
"""Most that entropy adds to the reward, in nats."""
COEFFICIENT = 0.01
"""Weight of the mean token entropy in the loss."""


class EntropySeekingTrainer(RolloutTrainer):
    """The reward of a rollout is the attacker's plus its mean token entropy, capped."""

    def prepare(self, batch: dict[str, Any], rewards: torch.Tensor) -> dict[str, Any]:
        self.kl(batch)
        _, entropies = self.log_probs(self.model, batch)
        bonus = response_mean(entropies, batch["completion_mask"]).clamp(max=CAP)
        return {**batch, "advantages": group_advantages(rewards + bonus, self.num_generations)}


def train(arena: Arena) -> None:
    """Attacks by GRPO that seeks entropy; no KL holds it near the starting model."""
    arena.run(EntropySeekingTrainer(args=arena.grpo_config(entropy_coef=COEFFICIENT), **arena.rollouts()))
