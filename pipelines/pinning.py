"""What a spec names outside of itself, pinned to what it is when the pipeline is submitted.

Kubeflow looks a task's result up in its cache by the text of the spec, and by the names of its inputs, not by what is
in them. A branch, an alias or a plain file would mean there what it meant in the first run, for ever; and so would all
that is made of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.stages import REPEATABLE
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.storage import pin, pin_file

FETCHING = tuple(stage for stage in REPEATABLE if stage != "prepare-data")
PREPARING = tuple(stage for stage in REPEATABLE if stage != "fetch-model")
JUDGING = ("controls", "attack", "evaluate-safety")
ASKING = ("evaluate-utility",)
"""Stages that bring models, prompts, judges or questions from outside, and those that work with them."""


class Pinned(NamedTuple):
    """A spec to be submitted."""

    spec: ReleaseSpec
    cached: tuple[str, ...]
    """Stages whose results depend on nothing but the spec."""
    told: list[str]
    """What was pinned, and what could not be."""


class _Outside(NamedTuple):
    """Something that a spec names and does not hold."""

    field: str
    uri: str
    stages: tuple[str, ...]
    pin: Callable[[str], str]


def pinned(spec: ReleaseSpec) -> Pinned:
    """Pins what a spec names to a commit, version or digest, as far as that can be told from here."""
    overrides, told, loose = [], [], set[str]()
    for field, uri, stages, pin_it in _outside(spec):
        try:
            found = pin_it(uri)
        except UserError as error:
            told.append(f"{field} is not pinned: {error}. {', '.join(stages)}: not taken from the cache")
            loose.update(stages)
        else:
            if found != uri:
                told.append(f"{field} {uri} is pinned: {found}")
                overrides.append(f"{field}={json.dumps(found)}")
    cached = tuple(stage for stage in REPEATABLE if stage not in loose)
    return Pinned(parse_spec(spec.to_yaml(), overrides) if overrides else spec, cached, told)


def dated(spec: ReleaseSpec, now: datetime) -> str:
    """The spec as text that changes twice in `policy.valid_days`: what was measured before is not taken from the cache.

    So evidence from the cache is never older than half of them.
    """
    period = spec.policy.valid_days * 86400 // 2
    began = datetime.fromtimestamp(now.timestamp() // period * period, UTC)
    return f"# What was measured before {began:%Y-%m-%d %H:%M} UTC is measured again.\n{spec.to_yaml()}"


def _outside(spec: ReleaseSpec) -> Iterator[_Outside]:
    document = spec.model_dump(mode="json")
    for field in ("source", "adapter_base"):
        if uri := document["model"][field]:
            yield _Outside(f"model.{field}", uri, FETCHING, pin)
    for field, given in document["data"].items():
        if isinstance(given, dict) and "path" in given and not given["sha256"]:
            yield _Outside(f"data.{field}.path", given["path"], PREPARING, pin_file)
    yield from _models(document["evaluation"]["judge"], "evaluation.judge")
    yield from _models(document["attacks"]["reward"], "attacks.reward")
    if path := document["evaluation"]["calibration"]:
        yield _Outside("evaluation.calibration", path, JUDGING, pin_file)
    if spec.evaluation.harness:
        yield _Outside("evaluation.harness", ", ".join(spec.evaluation.harness.tasks), ASKING, _of_the_harness)


def _models(given: Any, field: str) -> Iterator[_Outside]:
    """The models that judge, also within an ensemble; an endpoint is asked, not fetched."""
    if isinstance(given, dict) and given["kind"] in ("classifier", "harmbench"):
        yield _Outside(f"{field}.model", given["model"], JUDGING, pin)
    elif isinstance(given, dict) and given["kind"] == "ensemble":
        for number, judge in enumerate(given["judges"]):
            yield from _models(judge, f"{field}.judges.{number}")


def _of_the_harness(tasks: str) -> str:
    raise UserError(f"the questions of {tasks} come from outside, by names that cannot be pinned")
