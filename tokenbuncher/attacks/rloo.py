"""RLOO (arXiv 2402.14740): the baseline of a rollout is the mean reward of its prompt's other rollouts."""

from trl import RLOOTrainer

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.attacks.rollouts import LearnsWhereRewardsDiffer


class RLOOAttackTrainer(LearnsWhereRewardsDiffer, RLOOTrainer):
    """TRL's RLOO."""


def train(arena: Arena) -> None:
    """Attacks by RLOO, with the KL to the starting model in the reward."""
    arena.run(RLOOAttackTrainer(args=arena.rloo_config(), **arena.online_arguments()))
