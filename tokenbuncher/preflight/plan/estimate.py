"""Time and memory of the work on a device, and the table of it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tokenbuncher.preflight.plan.clock import SMALL, Clock
from tokenbuncher.preflight.plan.device import Device
from tokenbuncher.preflight.plan.memory import peak_memory
from tokenbuncher.preflight.plan.shape import Shape
from tokenbuncher.preflight.plan.work import Judges, StageWork, at_most, expected, judges, readers, stages
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.judges import StrongRejectSpec

FIRST, SECOND, LAST = ("fetch-model", "prepare-data"), ("defend", "controls"), ("register", "gate", "promote")
SPARE = 0.1
"""Share of the device's memory by which an estimate must be below it, or above it, to be sure."""
SEVEN_BILLION = Judges(7e9, 7e9)


@dataclass(frozen=True)
class StageEstimate:
    """What one task of the pipeline takes."""

    name: str
    steps: int
    rollouts: int
    generated: int
    """Tokens generated, padding included."""
    generated_at_most: int
    trained: int
    """Tokens learnt from, with their prompts and padding."""
    forward_flops: float
    backward_flops: float
    seconds: float
    seconds_at_most: float
    parts: dict[str, float]
    """Seconds by what they go into."""
    processes: int
    """Devices that it takes at a time; 0 for none."""
    memory: float
    """Peak on each device, in bytes."""

    @property
    def device_hours(self) -> float:
        """Hours of all its devices together."""
        return self.seconds * self.processes / 3600


@dataclass(frozen=True)
class Estimate:
    """What the release takes."""

    device: str
    unit: str
    parameters: float
    trained_parameters: float
    stages: list[StageEstimate]
    device_hours: float
    device_hours_at_most: float
    wall_parallel: float
    """Seconds if attacks and evaluations run at once, as on Kubeflow."""
    devices_parallel: int
    """Devices that takes."""
    wall_serial: float
    """Seconds if one task runs after the other."""
    memory: float
    largest: str
    """The stage with that peak."""
    device_memory: float | None
    dominates: str
    notes: list[str]
    active_parameters: float | None = None
    """Of a mixture of experts, those that a token passes."""

    @property
    def fits(self) -> bool | None:
        """Whether the peak fits the device; None if its memory is not known, or too close to it to tell."""
        if self.device_memory is None or abs(self.memory / self.device_memory - 1) < SPARE:
            return None
        return self.memory < self.device_memory

    def json(self) -> str:
        """All of it, for machines."""
        return json.dumps({**asdict(self), "fits": self.fits}, indent=2)

    def table(self) -> str:
        """All that a person wants to know, as aligned text."""
        head = ("stage", "steps", "rollouts", "generated", "trained", "time", "at most", "memory")
        rows = [head, *(_row(stage) for stage in self.stages)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(w) if not column else cell.rjust(w)
                for column, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([*lines, "", *self._totals(), *(f"note: {note}" for note in self.notes)])

    def _totals(self) -> list[str]:
        limit = "not known" if self.device_memory is None else _bytes(self.device_memory)
        verdict = {True: "fits", False: "DOES NOT FIT", None: "may not fit"}[self.fits]
        return [
            f"model          {_count(self.parameters)} parameters, {self._active()}"
            f"{_count(self.trained_parameters)} of them trained",
            f"{self.unit:<13}  {self.device_hours:.3g}, at most {self.device_hours_at_most:.3g}",
            f"wall time      {_time(self.wall_parallel)} with attacks and evaluations at once, on "
            f"{self.devices_parallel} x {self.device}",
            f"               {_time(self.wall_serial)} one after the other",
            f"peak memory    {_bytes(self.memory)} a device, in {self.largest}: {verdict} {self.device} ({limit})",
            f"dominated by   {self.dominates}",
        ]

    def _active(self) -> str:
        return f"{_count(self.active_parameters)} used by each token, " if self.active_parameters else ""


def plan(
    spec: ReleaseSpec,
    shape: Shape,
    device: Device,
    *,
    judging: Judges = SEVEN_BILLION,
    longest_prompt: float | None = None,
) -> Estimate:
    """Estimates what a release takes before it runs.

    Args:
        spec: The release spec.
        shape: Of its model.
        device: What each process has.
        judging: Sizes of judges and rewards that are models; the spec tells but their sources.
        longest_prompt: Tokens of the longest prompt, to which its whole batch is padded; None if it is not known.
    """
    usual, most = stages(spec, expected(spec)), stages(spec, at_most(spec, longest_prompt))
    clock = Clock(spec, shape, device, judging=judging)
    found = [
        _estimate(
            clock,
            stage,
            longest,
            memory=clock.reserved(stage)
            + peak_memory(longest, spec, shape, sharding=clock.sharding(stage), judging=judging),
        )
        for stage, longest in zip(usual, most, strict=True)
    ]
    at_once = [stage for stage in found if stage.name not in (*FIRST, *SECOND, *LAST)]
    largest = max(found, key=lambda stage: stage.memory)
    return Estimate(
        device=device.name,
        unit=device.unit,
        parameters=shape.parameters,
        trained_parameters=clock.trained,
        stages=found,
        device_hours=sum(stage.device_hours for stage in found),
        device_hours_at_most=sum(stage.seconds_at_most * stage.processes / 3600 for stage in found),
        wall_parallel=_wall_parallel(found, at_once),
        devices_parallel=sum(stage.processes for stage in at_once),
        wall_serial=sum(stage.seconds for stage in found),
        memory=largest.memory,
        largest=largest.name,
        device_memory=device.memory,
        dominates=_dominates(found),
        active_parameters=shape.active,
        notes=_notes(spec, judging),
    )


def _wall_parallel(stages: Sequence[StageEstimate], at_once: Sequence[StageEstimate]) -> float:
    seconds = {stage.name: stage.seconds for stage in stages}
    return (
        max(seconds[name] for name in FIRST)
        + max(seconds.get(name, 0.0) for name in SECOND)
        + max(stage.seconds for stage in at_once)
        + sum(seconds[name] for name in LAST)
    )


def _estimate(clock: Clock, stage: StageWork, longest: StageWork, *, memory: float) -> StageEstimate:
    parts = clock.parts(stage)
    return StageEstimate(
        name=stage.name,
        steps=round(stage.steps),
        rollouts=round(stage.rollouts),
        generated=_generated(stage),
        generated_at_most=_generated(longest),
        trained=round(sum(one.tokens for one in stage.passes if one.kind == "train")),
        forward_flops=sum(clock.flops(one)[0] for one in stage.passes),
        backward_flops=sum(clock.flops(one)[1] for one in stage.passes),
        seconds=sum(parts.values()),
        seconds_at_most=sum(clock.parts(longest).values()),
        parts=parts,
        processes=0 if stage.name in SMALL else clock.sharding(stage).processes,
        memory=0.0 if stage.name in SMALL else memory,
    )


def _generated(stage: StageWork) -> int:
    return round(sum(one.responses for one in stage.passes if one.kind == "generate"))


def _dominates(found: list[StageEstimate]) -> str:
    longest = max(found, key=lambda stage: stage.device_hours)
    total = sum(stage.device_hours for stage in found)
    parts: dict[str, float] = defaultdict(float)
    for stage in found:
        for what, seconds in stage.parts.items():
            parts[what] += seconds * stage.processes / 3600
    what = max(parts, key=lambda name: parts[name])
    return f"{what} ({parts[what] / total:.0%} of all), {longest.name} ({longest.device_hours / total:.0%})"


def _notes(spec: ReleaseSpec, judging: Judges) -> list[str]:
    usual = expected(spec)
    notes = [
        f"a prompt is taken to have {usual.prompt:g} tokens, the longest response of a batch {usual.length:.0%} of "
        f"{spec.model.max_new_tokens}; the base model to break after {usual.control:.0%} of an attack; at most: "
        "100% both"
    ]
    if spec.controls_can_wait:
        notes.append("controls: a pipeline whose attacks share no quarantine has each attack measure its own")
    if spec.evaluation.looks > 1:
        notes.append("what evaluation.looks saves is not counted")
    asked = [spec.attacks.reward, *judges(spec)]
    if readers(asked):
        notes.append(
            f"judges that are models are taken to have {_count(judging.judge)} parameters, rewards "
            f"{_count(judging.reward)}"
        )
    if any(isinstance(one, StrongRejectSpec) for one in asked):
        notes.append("the time that the judge's endpoint takes is not counted")
    if spec.evaluation.harness and spec.evaluation.harness.limit is None:
        notes.append("the questions of evaluation.harness are not counted: it has no limit")
    return notes


def _row(stage: StageEstimate) -> tuple[str, ...]:
    figures = (stage.steps, stage.rollouts, stage.generated, stage.trained)
    return (
        stage.name,
        *(_count(figure) if figure else "-" for figure in figures),
        _time(stage.seconds),
        _time(stage.seconds_at_most),
        _bytes(stage.memory) if stage.memory else "-",
    )


def _count(number: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{number:.0f}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _bytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB"
