"""Judges decide what a response is; rewards are what an attacker trains on. They are never the same."""

from tokenbuncher.judges.load import load_judge, load_reward
from tokenbuncher.judges.types import Exchange, Judge, Judgement, Reward

__all__ = ["Exchange", "Judge", "Judgement", "Reward", "load_judge", "load_reward"]
