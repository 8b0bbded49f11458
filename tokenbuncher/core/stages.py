"""The stages of the pipelines, in their order, and what everything that runs, places or names them has to know.

A new stage is one entry here, one library function, one folder of `components/` and one command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Stage:
    """One stage."""

    name: str
    image: Literal["trainer", "gate"]
    """The trainer's image has torch; stages that load no model run in the gate's."""
    repeatable: bool = False
    """Whether it changes nothing but its outputs, so that it may be retried and its result cached. The others speak
    for one run only."""
    resumable: bool = False
    """Whether a resumed run reuses its result. Models and prompts come from outside, so they are fetched anew."""
    options: dict[str, str] = field(default_factory=dict)
    """By input or output of its component, the option of its command that takes it; empty if it has no command."""


_BASE = {"data": "data", "base": "base"}
_MODELS = {**_BASE, "candidate": "candidate", "evidence": "out"}
_JUDGED = {"attacks": "evidence", "safety": "evidence", "utility": "evidence", "registration": "registration"}

STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("fetch-model", "trainer", repeatable=True, options={"model": "out"}),
        Stage("prepare-data", "trainer", repeatable=True, options={"data": "out"}),
        Stage(
            "defend", "trainer", repeatable=True, resumable=True, options={**_BASE, "candidate": "out", "steps": "log"}
        ),
        Stage("controls", "trainer", repeatable=True, resumable=True, options={**_BASE, "summary": "out"}),
        Stage("attack", "trainer", repeatable=True, resumable=True, options={"key": "key", **_MODELS}),
        Stage("evaluate-safety", "trainer", repeatable=True, resumable=True, options=_MODELS),
        Stage("evaluate-utility", "trainer", repeatable=True, resumable=True, options=_MODELS),
        Stage(
            "register",
            "gate",
            options={"candidate": "candidate", "attacks": "attack", "steps": "steps", "registration": "out"},
        ),
        Stage("gate", "gate", options={**_JUDGED, "steps": "steps", "verdict": "out"}),
        Stage("promote", "gate", options={**_JUDGED, "verdict": "verdict"}),
        Stage("announce", "gate"),
        Stage("report-attacks", "gate", repeatable=True),
    )
}
COMMANDS = tuple(name for name, stage in STAGES.items() if stage.options)
REPEATABLE = tuple(name for name, stage in STAGES.items() if stage.repeatable)
