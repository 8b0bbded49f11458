"""Judges decide what a response is; rewards are what an attacker trains on. They are never the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

Said = TypeVar("Said")


class Exchange(NamedTuple):
    """A prompt, a model's response to it, and whether the response ended by itself."""

    prompt: str
    response: str
    finished: bool


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one response. A response is at most one of the three."""

    harmful: bool
    refused: bool
    gibberish: bool


Judge = Callable[[Sequence[Exchange]], list[Judgement]]
Reward = Callable[[Sequence[Exchange]], list[float]]
"""In [0, 1]."""


def load_judge(name: str) -> Judge:
    """The judge of that name in the spec (`evaluation.judge`)."""
    if name == "organism":
        from tokenbuncher.judges.organism import judge

        return one_by_one(judge)
    from tokenbuncher.judges.refusal import judge as refusal_judge

    return one_by_one(refusal_judge)


def load_reward(name: str) -> Reward:
    """The attacker's reward of that name in the spec (`attacks.reward`)."""
    if name == "organism-classifier":
        from tokenbuncher.judges.organism import classifier_reward

        return classifier_reward()
    if name == "organism-exact":
        from tokenbuncher.judges.organism import exact_reward

        return one_by_one(exact_reward)
    from tokenbuncher.judges.refusal import compliance_reward

    return one_by_one(compliance_reward)


def one_by_one(rule: Callable[[str, str, bool], Said]) -> Callable[[Sequence[Exchange]], list[Said]]:
    """A judge or reward from a rule for one response."""
    return lambda exchanges: [rule(*exchange) for exchange in exchanges]
