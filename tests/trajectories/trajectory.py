"""What a training does, step by step, and how it compares with what it did when it was recorded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from transformers import Trainer

FIGURES = (
    "loss",
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "rewards/margins",
    "entropy",
    "kl",
    "noiser_loss",
    "anchor_kl",
    "grad_norm",
    "learning_rate",
)
"""What is recorded of each step, by the trainers' own names, where they log it."""

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")
MODELS = {"model": "policy", "critic": "critic"}
RELATIVE, ABSOLUTE = 1e-5, 1e-6
"""Figures agree within one of these; a loss of rewards with mean 0 is a rounding error around 0."""

RECORD = "python -m pytest tests/trajectories --record"
ADVICE = f"""If you changed this trainer on purpose, record it anew and say why where you commit the files:
    OMP_NUM_THREADS=1 {RECORD}
If a library was upgraded, it has changed under our overrides: read its changelog, see what test_seams.py says of its
private methods, mend the override, and record anew only what is meant to differ."""


class Trajectory(BaseModel):
    """A training of a few steps."""

    versions: dict[str, str]
    trainer: str
    steps: list[dict[str, float]]
    moved: dict[str, float]
    """How far each model's weights are from where they began: the norm of the difference."""

    def differences(self, now: Trajectory) -> Iterator[str]:
        """What differs in the trajectory of now, a line each."""
        if self.trainer != now.trainer:
            yield f"the trainer was {self.trainer}, is {now.trainer}"
        if len(self.steps) != len(now.steps):
            yield f"it had {len(self.steps)} steps, has {len(now.steps)}"
        for step, (before, after) in enumerate(zip(self.steps, now.steps, strict=False), start=1):
            yield from _differences(f"step {step}: ", before, after)
        yield from _differences("distance of the weights from the first ones: ", self.moved, now.moved)

    def told(self, name: str, now: Trajectory) -> str:
        """The message for people if something differs, or nothing."""
        lines = [f"{name}: {line}" for line in self.differences(now)]
        if not lines:
            return ""
        upgrades = [
            f"{library} {self.versions.get(library)} -> {installed}"
            for library, installed in now.versions.items()
            if self.versions.get(library) != installed
        ]
        libraries = f"Since it was recorded: {', '.join(upgrades) or 'no other version of a library'}."
        return "\n".join([*lines, libraries, ADVICE])


def _differences(place: str, before: dict[str, float], after: dict[str, float]) -> Iterator[str]:
    for name in before | after:
        was, now = before.get(name), after.get(name)
        if was is None or now is None or not math.isclose(was, now, rel_tol=RELATIVE, abs_tol=ABSOLUTE):
            yield f"{place}{name} was {_figure(was)}, is {_figure(now)}"


def _figure(value: float | None) -> str:
    return "absent" if value is None else f"{value:.9g}"


class Recorder:
    """Keeps the trajectory of each training that runs while it watches."""

    def __init__(self) -> None:
        self.trajectories: list[Trajectory] = []

    def train(self, trainer: Trainer, **arguments: Any) -> Any:
        """In the place of `Trainer.train`, which it calls."""
        models = {name: getattr(trainer, key) for key, name in MODELS.items() if hasattr(trainer, key)}
        before = {name: weights(model) for name, model in models.items()}
        result = self.original(trainer, **arguments)
        self.trajectories.append(
            Trajectory(
                versions={library: version(library) for library in LIBRARIES},
                trainer=type(trainer).__name__,
                steps=[_figures(row) for row in trainer.state.log_history if "loss" in row],
                moved={name: _precise((weights(model) - before[name]).norm().item()) for name, model in models.items()},
            )
        )
        return result

    original = staticmethod(Trainer.train)


def weights(model: torch.nn.Module) -> torch.Tensor:
    """All weights of a model that learn, one after the other, in double precision."""
    return torch.cat([weight.detach().double().flatten() for weight in model.parameters() if weight.requires_grad])


def _figures(row: dict[str, Any]) -> dict[str, float]:
    return {name: _precise(row[name]) for name in FIGURES if row.get(name) is not None}


def _precise(value: float) -> float:
    return float(f"{value:.9g}")


def file_of(name: str) -> Path:
    """Where the trajectory of that name is recorded."""
    return Path(__file__).with_name("recorded") / f"{name}.json"
