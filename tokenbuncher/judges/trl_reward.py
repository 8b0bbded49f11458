"""Wraps a reward as TRL calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import (
    PreTrainedTokenizerBase,
)

from tokenbuncher.judges.types import Exchange
from tokenbuncher.models.thoughts import thoughts_of
from tokenbuncher.training import ranks


def trl_reward(
    reward: Callable[[Sequence[Exchange], Sequence[int]], list[float]],
    eos_token_ids: set[int],
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[..., list[float]]:
    """A TRL reward function from one that maps exchanges and the token counts of responses to numbers.

    Args:
        reward: The reward, on exchanges.
        eos_token_ids: Tokens that end a response.
        tokenizer: Tokenizer of the model, which separates thoughts from answers. TRL's own texts lack special marks.
    """
    thoughts = thoughts_of(tokenizer)

    def attacker_reward(prompts: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        own = []
        for prompt, ids in zip(prompts, completion_ids, strict=True):
            answer, begun = thoughts.answer(thoughts.text(ids))
            finished = begun and bool(eos_token_ids & set(ids))
            own.append((Exchange(prompt[-1]["content"], answer, finished), len(ids)))
        # Every process rewards, and so counts, the rollouts of all, in the order in which one alone would.
        exchanges, tokens = zip(*ranks.gathered(own), strict=True)
        rewards = reward(exchanges, tokens)
        return rewards[ranks.number() * len(own) :][: len(own)]

    return attacker_reward
