"""The compiled release pipeline; tests/test_local.py runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components

from pipelines.release import compile_release
from tokenbuncher.errors import UserError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "new" / "release.yaml"
    compile_release(path)
    return path


@pytest.fixture(scope="module")
def compiled(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def upstream(tasks: dict[str, Any], name: str) -> set[str]:
    """All tasks that a task waits for."""
    direct = set(tasks[name].get("dependentTasks", []))
    return direct.union(*(upstream(tasks, other) for other in direct))


def test_loads_and_takes_the_spec_alone(path: Path) -> None:
    loaded = components.load_component_from_file(str(path))

    assert loaded.name == "tokenbuncher-release"
    assert list(loaded.component_spec.inputs) == ["spec"]


def test_stages_wait_for_one_another(compiled: dict[str, Any]) -> None:
    tasks = compiled["root"]["dag"]["tasks"]
    measured = {"fetch-model", "prepare-data", "defend", "attacks", "evaluate-safety", "evaluate-utility"}

    assert upstream(tasks, "fetch-model") == upstream(tasks, "prepare-data") == set()
    assert upstream(tasks, "defend") == {"fetch-model", "prepare-data"}
    for stage in ("attacks", "evaluate-safety", "evaluate-utility"):
        assert upstream(tasks, stage) == {"fetch-model", "prepare-data", "defend"}
    assert upstream(tasks, "register") == measured
    assert upstream(tasks, "gate") == {*measured, "register"}
    assert upstream(tasks, "promote") == {*measured, "register", "gate"}


def test_registration_verdict_and_promotion_are_never_cached(compiled: dict[str, Any]) -> None:
    tasks = compiled["root"]["dag"]["tasks"]

    assert {name for name, task in tasks.items() if not task["cachingOptions"].get("enableCache")} == {
        "register",
        "gate",
        "promote",
    }


def test_attacks_are_one_loop_over_the_keys_of_the_spec(compiled: dict[str, Any]) -> None:
    keys = compiled["root"]["dag"]["tasks"]["attacks"]["inputs"]["parameters"]["keys"]
    (loop,) = compiled["components"]["comp-attacks"]["dag"]["tasks"].values()

    assert keys == {"taskOutputParameter": {"outputParameterKey": "Output", "producerTask": "prepare-data"}}
    assert loop["parameterIterator"]["items"] == {"inputParameter": "pipelinechannel--keys"}


def test_nothing_is_conditional(compiled: dict[str, Any]) -> None:
    """A condition that kfp.local cannot resolve is skipped in silence; promote itself must refuse."""
    assert "triggerPolicy" not in yaml.safe_dump(compiled)


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.yaml"):
        compile_release(tmp_path / "release.json")
