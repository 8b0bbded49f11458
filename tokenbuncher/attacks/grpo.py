"""GRPO (arXiv 2402.03300): advantages normalised within the group of one prompt's rollouts."""

from trl import GRPOTrainer

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.attacks.rollouts import LearnsWhereRewardsDiffer


class GRPOAttackTrainer(LearnsWhereRewardsDiffer, GRPOTrainer):
    """TRL's GRPO."""


def train(arena: Arena) -> None:
    """Attacks by GRPO, with the KL to the starting model in the loss."""
    arena.run(GRPOAttackTrainer(args=arena.grpo_config(), **arena.online_arguments()))
