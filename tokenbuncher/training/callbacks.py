"""Callbacks of trainers: the step log, probes and checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.utils import RepeatSampler

from tokenbuncher.core.files import write_text
from tokenbuncher.core.progress import Progress
from tokenbuncher.training import ranks

STATE = "tokenbuncher.json"

# One name for each figure, whatever the trainer calls it, so that curves of all attacks overlay.
METRICS = {
    "reward": "reward",
    "entropy": "entropy",
    "kl": "kl",
    "frac_reward_zero_std": "zero_variance_groups",
    "grad_norm": "grad_norm",
    "loss": "loss",
    "noiser_loss": "noiser_loss",
    "anchor_kl": "anchor_kl",
    "refused": "refused",
    "refusal_mass": "refusal_mass",
    "escape": "escape",
    "constraint_usage": "constraint_usage",
    "multiplier": "multiplier",
    "rate": "learning_rate",
    "held_out_escape": "held_out_escape",
    "held_out_escape_max": "held_out_escape_max",
    "held_out_escaping": "held_out_escaping",
    "held_out_kl": "held_out_kl",
    "held_out_refusal_mass": "held_out_refusal_mass",
    "held_out_refusals_added": "held_out_refusals_added",
    "target": "target",
    "max_kl": "max_kl",
    "max_refusal_mass": "max_refusal_mass",
}


class StepLog(TrainerCallback):
    """Writes a JSON line for each step and shows progress. `rows` holds the lines.

    A step is a batch of sequences, whatever number of updates (`updates`) the algorithm makes with it. Progress shows
    what was measured last beside it (`measured`).
    """

    def __init__(self, title: str, path: Path, steps: int) -> None:
        self.rows: list[dict[str, float]] = []
        self.path = path
        self.measured: dict[str, float] = {}
        self.updates = 1
        self.progress = Progress(title, steps)

    @property
    def gradients(self) -> list[float | None]:
        """The norm of each step's gradient, or None where the trainer reports none."""
        norms = [row.get("grad_norm", math.nan) for row in self.rows]
        return [norm if math.isfinite(norm) else None for norm in norms]

    @property
    def learnt(self) -> bool:
        """Whether any step had a gradient; one that is not told counts."""
        return any(gradient != 0.0 for gradient in self.gradients)

    def resume(self, step: int) -> None:
        """Restores the file as it was at a step; 0 starts a new one."""
        lines = ranks.by_first(lambda: self.path.read_text(encoding="utf-8").splitlines() if step else [])
        self.rows = [row for row in map(json.loads, lines[:step]) if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Counts the steps that this process makes."""
        self.progress.begin(state.global_step // self.updates)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **kwargs: Any,
    ) -> None:
        """Called by the trainer with its figures of one step."""
        figures = {name: logs[key] for key, name in METRICS.items() if key in (logs or {})}
        if not figures:
            return
        row = {"step": state.global_step // self.updates, **figures}
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        shown = {key: figures[key] for key in ("reward", "entropy", "escape", "loss") if key in figures}
        self.progress.step(row["step"], **shown, **self.measured)


class Probe(TrainerCallback):
    """Measures before the first step, every n steps and at the last. The measurement may end the training."""

    def __init__(self, every: int, measure: Callable[[int], bool], updates: int = 1) -> None:
        """
        Args:
            every: Steps between two measurements.
            measure: Function that is given the step and returns whether to stop.
            updates: Optimizer updates in each step.
        """
        self.every, self.measure, self.updates = every, measure, updates

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures before any step."""
        if state.global_step == 0:
            self.measure(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measures at multiples of `every` and at the last step."""
        step, rest = divmod(state.global_step, self.updates)
        if rest == 0 and (step % self.every == 0 or state.global_step == state.max_steps):
            control.should_training_stop = self.measure(step) or control.should_training_stop


class Checkpoints(TrainerCallback):
    """Checkpoints from which an interrupted training resumes, each with a state of the caller.

    A checkpoint without that state was cut off while it was written and does not count. At most two are kept.
    """

    def __init__(self, folder: Path, every: int, log: StepLog, *, state: Callable[[], str] = str) -> None:
        """
        Args:
            folder: Folder of the checkpoints; it is created.
            every: Steps between two checkpoints.
            log: The step log, which is continued from the checkpoint on.
            state: Function that returns further state to be restored after a resume, as text.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.every, self.log, self.current = ranks.from_first(folder), every, log, state
        self.asked_to_stop: Callable[[], bool] = lambda: False
        self.stopped_at: int | None = None
        """The step after which it stopped because it was asked to."""

    def last(self) -> Path | None:
        """The newest whole checkpoint."""
        whole = self.folder.glob(f"checkpoint-*/{STATE}")
        last = max((path.parent for path in whole), key=lambda path: int(path.name.split("-")[1]), default=None)
        return ranks.from_first(last)

    def state(self) -> str | None:
        """The caller's state at the newest whole checkpoint."""
        last = self.last()
        return ranks.by_first(lambda: (last / STATE).read_text(encoding="utf-8") if last else None)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Brings TRL's sampler to where it was: it draws its order anew each epoch, and forgets that on a resume."""
        batches = getattr(kwargs.get("train_dataloader"), "batch_sampler", None)
        batches = getattr(batches, "batch_sampler", batches)  # of several processes, each has a share of these
        sampler = getattr(batches, "sampler", None)
        if isinstance(sampler, RepeatSampler):
            for _ in range(int((state.epoch or 0.0) + 1e-6)):
                torch.randperm(sampler.num_samples, generator=sampler.generator)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves and stops if one of the processes was asked to, unless this was the last step anyway."""
        step, rest = divmod(state.global_step, self.log.updates)
        if rest == 0 and any(ranks.gathered([self.asked_to_stop()])) and not control.should_training_stop:
            control.should_save = control.should_training_stop = True
            self.stopped_at = step

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Completes the checkpoint that the trainer has just written.

        But not the last: a run killed after its end goes on from the one before, so that it always ends with a
        trained model and a whole log.
        """
        if control.should_training_stop and self.stopped_at is None:
            return
        current = ranks.from_first(self.current())  # all have written their part of the checkpoint
        if ranks.number() == 0:
            write_text(self.folder / f"checkpoint-{state.global_step}" / STATE, current)
