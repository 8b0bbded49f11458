"""A recorded run on disk, how it is tampered with, and what the gate and promote then say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from tokenbuncher.cli import RecordedRelease
from tokenbuncher.core.errors import UserError
from tokenbuncher.gate import gate
from tokenbuncher.registry import promote
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import Outcome

KEY = "grpo-1000"
Case = Callable[[Path], None]


def evidence_file(run: Path, name: str) -> Path:
    return next(run.glob(f"*-{name}/evidence.json"))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def edited(name: str, change: Callable[[Any], object]) -> Case:
    """A case that changes one evidence document."""
    return lambda run: edit(evidence_file(run, name), change)


def in_arm(arm: str, change: Callable[[Any], object], key: str = KEY) -> Case:
    return edited(key, lambda document: change(document[arm]))


def rewritten(name: str, old: str, new: str) -> Case:
    """A case that changes the text of one evidence document."""

    def case(run: Path) -> None:
        path = evidence_file(run, name)
        text, count = re.subn(old, new, path.read_text(encoding="utf-8"), count=1)
        assert count == 1
        path.write_text(text, encoding="utf-8")

    return case


def each(scores: list[dict[str, Any]], **changes: Any) -> None:
    for score in scores:
        score.update(changes)


def copy_over(source: str, target: str) -> Case:
    return lambda run: evidence_file(run, target).write_text(
        evidence_file(run, source).read_text(encoding="utf-8"), encoding="utf-8"
    )


def spec_edit(**changes: Any) -> Case:
    def case(run: Path) -> None:
        document = yaml.safe_load((run / "spec.yaml").read_text(encoding="utf-8"))
        for path, value in changes.items():
            place = document
            *parents, last = path.split("__")
            for parent in parents:
                place = place[int(parent) if parent.isdigit() else parent]
            place[last] = value
        (run / "spec.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")

    return case


def registration_edit(change: Callable[[Any], object]) -> Case:
    return lambda run: edit(run / "registration" / "registration.json", change)


def verdict_edit(change: Callable[[Any], object]) -> Case:
    return lambda run: edit(run / "verdict" / "verdict.json", change)


def outcome_of(run: Path) -> Outcome:
    """What the command line's gate would come to; an error counts as INCONCLUSIVE, as its exit status does."""
    try:
        found = RecordedRelease.found((run,), None, (), policy=None, registration=None)
        return gate(*found, out=run / "verdict").outcome
    except UserError:
        return Outcome.INCONCLUSIVE


def assert_not_promoted(run: Path, spec: ReleaseSpec) -> None:
    with pytest.raises(UserError):
        promote(*RecordedRelease.found((run,), None, (), policy=None, registration=None), verdict=run)
    client = MlflowClient(spec.tracking_uri(), spec.tracking_uri())
    assert "champion" not in client.get_registered_model(spec.tracking.model_name).aliases
