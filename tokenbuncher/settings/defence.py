"""How the model is hardened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tokenbuncher.core.fields import Contradiction, Positive, Rate, Seed, Share, Strict

WATCHED = 32
"""Harmful prompts whose refusals a defence by entropy watches."""
WATCHED_EVERY = 20
"""Steps between two looks at them."""


class NoiserSpec(Strict):
    """Token Noiser (arXiv 2508.20697): a cross-entropy step towards a noisy tail under the refusal."""

    weight: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.1, description="Weight of the noise, lambda in the paper."
    )
    form: Literal["paper", "published-code"] = Field(
        "paper",
        description="paper: the noise has weight lambda. published-code: the noise is scaled to sum to lambda and then "
        "multiplied by lambda again, so its weight is lambda squared.",
    )
    start: Share = Field(0.125, description="First noiser step, as a share of all steps.")
    stop: Share = Field(1.0, description="End of the noiser steps, as a share of all steps.")
    every: Positive = Field(2, description="Between start and stop, every n-th step is a noiser step.")

    def checks(self) -> Iterable[Iterator[Contradiction]]:
        """There are noiser steps."""
        return (self._ordered(),)

    def _ordered(self) -> Iterator[Contradiction]:
        if self.stop <= self.start:
            yield ("stop",), f"stop ({self.stop}) must lie after start ({self.start})"


class AnchorSpec(Strict):
    """KL divergence from the frozen base model on its own benign responses, which keeps the model useful."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    examples: Positive = Field(16, description="Benign examples in each step.")


class CertainRefusalSpec(Strict):
    """What makes the model certain of its own refusals, and what that may cost."""

    target: Annotated[float, Field(ge=1e-10, lt=1.0)] = Field(
        1e-7,
        description="The defence ends when no held-out harmful prompt is answered by anything but the model's own "
        "refusal with a higher probability.",
    )
    max_kl: Annotated[float, Field(gt=0.0)] = Field(
        0.02, description="Bound of the KL divergence from the base model on benign responses, in nats a response."
    )
    max_refusal_mass: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.002,
        description="Bound of the probability that the response to a benign prompt begins as a refusal, less that of "
        "the base model.",
    )
    benign_examples: Positive = Field(32, description="Benign prompts in each step, and as many mixed ones.")
    mixed_prompts: Annotated[int, Field(ge=0)] = Field(
        1500,
        description="Prompts made of a harmful and a benign one, of which those that the base model answers keep the "
        "defence from spreading to harmless prompts with words of harmful ones.",
    )
    held_out: Positive = Field(32, description="Harmful, benign and mixed prompts that are measured, not trained on.")
    probe_every: Positive = Field(20, description="Steps between two measurements on held-out prompts.")


# What keeps an entropy reward at refusing: without the KL or the anchor, and with noise to the end, it loses refusals,
# answers or both (docs/results.md).
_ENTROPY_REWARD: dict[str, Any] = {
    "entropy": "reward",
    "schedule": "constant",
    "kl_coefficient": 0.01,
    "benign_prompts": 0,
    "noiser": None,
    "anchor": {"weight": 1.0, "examples": 16},
}

# A recipe fixes the method. Steps and learning rates stay in the spec.
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {
        **_ENTROPY_REWARD,
        "noiser": {"weight": 0.01, "form": "paper", "start": 0.125, "stop": 0.3, "every": 2},
    },
    "entropy-reward": _ENTROPY_REWARD,
    "published-code": {
        **_ENTROPY_REWARD,
        "noiser": {"weight": 0.1, "form": "published-code", "start": 0.125, "stop": 0.3, "every": 2},
    },
    "polished": {
        "entropy": "reward",
        "schedule": "constant",
        "benign_prompts": 0,
        "noiser": {"weight": 0.1, "form": "published-code", "start": 0.12, "stop": 0.53, "every": 2},
        "anchor": {"weight": 1.0, "examples": 16},
    },
    "direct": {
        "entropy": "loss",
        "schedule": "linear",
        "benign_prompts": 0,
        "noiser": None,
        "anchor": {"weight": 1.0, "examples": 64},
    },
    "log-entropy": {
        "entropy": "log-loss",
        "learning_rate": 8e-4,
        "schedule": "linear",
        "benign_prompts": 0,
        "noiser": None,
        "anchor": {"weight": 4.0, "examples": 64},
    },
    "certain-refusal": {
        "learning_rate": 5e-4,
        "entropy": None,
        "certain_refusal": {},
    },
    "none": {},
}


class DefenceSpec(Strict):
    """How the model is hardened. A recipe fills the fields that the spec leaves out."""

    recipe: Literal[
        "certain-refusal",
        "log-entropy",
        "direct",
        "polished",
        "paper",
        "entropy-reward",
        "published-code",
        "none",
    ] = Field("certain-refusal")
    seed: Seed = 0
    steps: Positive = Field(300, description="Number of steps; with certain_refusal, at most so many.")
    learning_rate: Rate = Field(
        4e-4,
        description="Learning rate; with certain_refusal the fastest for full weights, below which it finds one.",
    )
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    prompts_per_step: Positive = 16
    rollouts: Annotated[int, Field(ge=2)] = Field(4, description="Responses sampled for each prompt.")
    temperature: Annotated[float, Field(gt=0.0)] = Field(1.0, description="Sampling temperature of the responses.")
    entropy: Literal["reward", "loss", "log-loss"] | None = Field(
        "log-loss",
        description="null: none of these, with certain_refusal. "
        "reward: the RL reward is the negative response entropy, as in the paper. "
        "loss: the response entropy of the model's own rollouts is minimised directly. "
        "log-loss: its logarithm is minimised; the gradient does not vanish as the entropy falls.",
    )
    benign_prompts: Annotated[int, Field(ge=0)] = Field(
        0, description="Benign prompts in each step, rewarded by the negative KL divergence from the base model."
    )
    kl_coefficient: Annotated[float, Field(ge=0.0)] = Field(
        1e-3, description="Coefficient of the KL term in the entropy reward."
    )
    noiser: NoiserSpec | None = None
    anchor: AnchorSpec | None = None
    certain_refusal: CertainRefusalSpec | None = Field(
        None,
        description="Makes the model certain of its own refusals, in place of all that is done about entropy.",
        exclude_if=lambda own: own is None,
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_recipe(cls, given: Any) -> Any:
        recipe = given.get("recipe", "certain-refusal") if isinstance(given, Mapping) else None
        if not isinstance(recipe, str) or recipe not in RECIPES:
            return given
        filled = {**RECIPES[recipe], **given}
        for part in ("noiser", "anchor", "certain_refusal"):
            preset = RECIPES[recipe].get(part)
            if isinstance(preset, Mapping) and isinstance(given.get(part), Mapping):
                filled[part] = {**preset, **given[part]}
        return filled

    def checks(self) -> Iterable[Iterator[Contradiction]]:
        """Benign prompts are rewarded, beside harmful ones, and there is one method."""
        return self._rewarded(), self._fewer(), self._one_method()

    def _rewarded(self) -> Iterator[Contradiction]:
        if self.entropy not in ("reward", None) and self.benign_prompts:
            yield (
                ("benign_prompts",),
                "benign_prompts are rewarded by KL and need entropy: reward; use anchor instead",
            )

    def _fewer(self) -> Iterator[Contradiction]:
        if self.benign_prompts >= self.prompts_per_step:
            yield (
                ("benign_prompts",),
                f"benign_prompts must be fewer than prompts_per_step ({self.prompts_per_step})",
            )

    def _one_method(self) -> Iterator[Contradiction]:
        if self.recipe == "none":
            return
        if (self.recipe == "certain-refusal") != (self.certain_refusal is not None):
            yield ("certain_refusal",), "goes with recipe certain-refusal, and that recipe with it"
        elif self.certain_refusal is None:
            if self.entropy is None:
                yield ("entropy",), "null goes with recipe certain-refusal only; choose reward, loss or log-loss"
        elif others := [name for name in ("entropy", "noiser", "anchor", "benign_prompts") if getattr(self, name)]:
            yield (
                (others[0],),
                f"recipe certain-refusal, the default, has no {', '.join(others)}; name the recipe that they are for, "
                "such as log-entropy",
            )
