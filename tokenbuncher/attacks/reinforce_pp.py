"""REINFORCE++ (arXiv 2501.03262): no critic and no group; returns of tokens, whitened over the whole batch."""

from typing import Any

import torch

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.attacks.rollouts import RolloutTrainer
from tokenbuncher.training.advantages import returns, token_rewards, whiten


class ReinforcePlusPlusTrainer(RolloutTrainer):
    """The advantage of token t is the reward minus the KL from t on, whitened; the loss is the clipped one."""

    def prepare(self, batch: dict[str, Any], rewards: torch.Tensor) -> dict[str, Any]:
        mask = batch["completion_mask"]
        rewarded = token_rewards(rewards, self.kl(batch), mask, coefficient=self.args.beta)
        return {**batch, "advantages": whiten(returns(rewarded), mask)}


def train(arena: Arena) -> None:
    """Attacks by REINFORCE++, with the KL to the starting model in the reward of each token."""
    arena.run(ReinforcePlusPlusTrainer(args=arena.grpo_config(), **arena.online_arguments()))
