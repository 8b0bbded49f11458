"""Judges decide what a response is; rewards are what an attacker trains on. They are never the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Reward = Callable[[str, str, bool], float]


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one response. A response is at most one of the three."""

    harmful: bool
    refused: bool
    gibberish: bool


Judge = Callable[[str, str, bool], Judgement]
"""From prompt, response and whether the response ended by itself to a judgement."""


def load_judge(name: str) -> Judge:
    """The judge of that name in the spec (`evaluation.judge`)."""
    if name == "organism":
        from tokenbuncher.judges.organism import judge

        return judge
    from tokenbuncher.judges.refusal import judge as refusal_judge

    return refusal_judge


def load_reward(name: str) -> Reward:
    """The attacker's reward of that name in the spec (`attacks.reward`), in [0, 1]."""
    if name == "organism-classifier":
        from tokenbuncher.judges.organism import classifier_reward

        return classifier_reward()
    if name == "organism-exact":
        from tokenbuncher.judges.organism import exact_reward

        return exact_reward
    from tokenbuncher.judges.refusal import compliance_reward

    return compliance_reward
