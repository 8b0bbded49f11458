"""The algorithms that attack: the hyperparameters of each, and what the rest of the package must know of it.

    ALGORITHMS["ppo"].critic              # True
    ALGORITHMS["ppo"].hyperparameters()   # PPOHyperparameters(epochs=2, clip=0.2, ...)

How an algorithm trains is told by `tokenbuncher.attacks`, in the module of its name. A new attack is that module and an
entry here; specs, plan, verdict and report read the entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field

from tokenbuncher.core.documents import Rate, Share, Strict

Several = Annotated[int, Field(ge=1, le=100)]
Multiple = Annotated[float, Field(gt=0.0, le=1000.0)]
Nats = Annotated[float, Field(ge=0.0, le=100.0)]


class Hyperparameters(Strict):
    """What an algorithm has beside the settings that all attacks share; nothing, unless it says so."""

    @property
    def updates(self) -> int:
        """How often a batch of rollouts is learnt from."""
        return 1


class PPOHyperparameters(Hyperparameters):
    """Those of PPO (arXiv 1707.06347), as it is used with language models (arXiv 2203.02155)."""

    epochs: Several = Field(2, description="How often each batch of rollouts is learnt from.")
    clip: Rate = Field(0.2, description="How far a token's probability may move before it teaches no more, as a share.")
    value_clip: Multiple = Field(0.2, description="How far the value of a token may move in one batch of rollouts.")
    gae_decay: Share = Field(0.95, description="lambda of generalised advantage estimation (arXiv 1506.02438).")
    critic_rate: Multiple = Field(5.0, description="Learning rate of the critic, as a multiple of the policy's.")

    @property
    def updates(self) -> int:
        """One in each epoch."""
        return self.epochs


class DPOHyperparameters(Hyperparameters):
    """Those of DPO (arXiv 2305.18290), online or offline."""

    beta: Multiple = Field(0.1, description="How strongly the model is held near the one that it started from.")
    margin: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="The best rollout of a prompt is preferred to its worst if its reward is higher by more."
    )


class EntropySeekingHyperparameters(Hyperparameters):
    """Those of the attack on low entropy (arXiv 2508.20697)."""

    entropy_cap: Nats = Field(3.0, description="Most that entropy adds to the reward of a rollout, in nats.")
    entropy_coefficient: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.01, description="Weight of the mean token entropy in the loss."
    )


@dataclass(frozen=True)
class Algorithm:
    """What is known of an algorithm without running it."""

    hyperparameters: type[Hyperparameters] = Hyperparameters
    samples: Literal["each step", "beforehand", "never"] = "each step"
    """When it samples rollouts: as it learns (online), all before the first step, or not at all (offline)."""
    required: bool = False
    """Whether the policies `default` and `strict` require it."""
    needs_answers: bool = False
    """Whether it learns from the harmful answers of the prompts, which must have them."""
    needs_differences: bool = False
    """Whether it learns only from rollouts of one prompt that differ in their reward, and logs whether they do."""
    scored: int = 0
    """How many models each rollout passes through before it is learnt from."""
    scored_for_kl: int = 0
    """How many more there are with a KL coefficient, the model that it started from among them; 0 if it takes none."""
    reference: bool = False
    """Whether it keeps the model that it started from, whatever the KL coefficient."""
    critic: bool = False
    """Whether a second model learns the values of tokens."""


ALGORITHMS: dict[str, Algorithm] = {
    "grpo": Algorithm(required=True, needs_differences=True, scored_for_kl=1),
    "rloo": Algorithm(required=True, needs_differences=True, scored=1, scored_for_kl=1),
    "reinforce-pp": Algorithm(required=True, scored_for_kl=2),
    "ppo": Algorithm(PPOHyperparameters, required=True, scored=1, scored_for_kl=2, critic=True),
    "dpo": Algorithm(DPOHyperparameters, required=True, needs_differences=True, scored=2, reference=True),
    "dpo-offline": Algorithm(DPOHyperparameters, samples="beforehand", scored=1, reference=True),
    "entropy-seeking": Algorithm(EntropySeekingHyperparameters, required=True, scored=1, scored_for_kl=2),
    "sft": Algorithm(samples="never", needs_answers=True),
}

REQUIRED = [name for name, algorithm in ALGORITHMS.items() if algorithm.required]

if TYPE_CHECKING:
    AlgorithmName = str
    AnyHyperparameters = Any
else:
    AlgorithmName = Literal[tuple(ALGORITHMS)]
    """Names of attacks that stand for what their algorithm does, within the policy's limits."""
    AnyHyperparameters = Union[tuple(dict.fromkeys(one.hyperparameters for one in ALGORITHMS.values()))]  # noqa: UP007
