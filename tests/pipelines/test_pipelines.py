"""The compiled pipelines, and the smaller two run by the real kfp.local; tests/local/test_run.py runs the release."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kfp import components
from mlflow import MlflowClient

from pipelines.compile import PIPELINES, compile_pipeline
from pipelines.lint import Documents, lint, read_ir
from pipelines.placement import Placement
from tests.evidence_factory import passing_release, release_spec
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest
from tokenbuncher.registry import register
from tokenbuncher.settings import ReleaseSpec

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def release(built: Path) -> dict[str, Any]:
    return read_ir(built / "release.yaml")[0]


@pytest.fixture(scope="module")
def tasks(release: dict[str, Any]) -> dict[str, Any]:
    return release["components"]["comp-exit-handler-1"]["dag"]["tasks"]


def upstream(tasks: dict[str, Any], name: str) -> set[str]:
    """All tasks that a task waits for."""
    direct = set(tasks[name].get("dependentTasks", []))
    return direct.union(*(upstream(tasks, other) for other in direct))


def all_tasks(pipeline: dict[str, Any]) -> dict[str, Any]:
    """Every task that is a component of ours, wherever it is."""
    dags = [part["dag"] for part in [pipeline["root"], *pipeline["components"].values()] if "dag" in part]
    tasks = {name: task for dag in dags for name, task in dag["tasks"].items()}
    return {name: task for name, task in tasks.items() if "cachingOptions" in task and name != "attacks"}


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("release", ["spec"]), ("gate-only", ["evidence", "registration", "spec"]), ("red-team", ["spec"])],
)
def test_loads_takes_its_inputs_and_is_sound(name: str, inputs: list[str], built: Path) -> None:
    loaded = components.load_component_from_file(str(built / f"{name}.yaml"))

    assert loaded.name == f"tokenbuncher-{name}"
    assert sorted(loaded.component_spec.inputs) == inputs
    assert lint(read_ir(built / f"{name}.yaml")) == []


def test_stages_wait_for_one_another(tasks: dict[str, Any]) -> None:
    measured = {"fetch-model", "prepare-data", "defend", "attacks", "evaluate-safety", "evaluate-utility"}

    assert upstream(tasks, "fetch-model") == upstream(tasks, "prepare-data") == set()
    assert upstream(tasks, "defend") == {"fetch-model", "prepare-data"}
    for stage in ("attacks", "evaluate-safety", "evaluate-utility"):
        assert upstream(tasks, stage) == {"fetch-model", "prepare-data", "defend"}
    assert upstream(tasks, "register") == measured
    assert upstream(tasks, "gate") == {*measured, "register"}
    assert upstream(tasks, "promote") == {*measured, "register", "gate"}


@pytest.mark.parametrize("stage", ["register", "gate"])
def test_the_step_log_of_the_defence_goes_to_who_shows_it(
    stage: str, release: dict[str, Any], tasks: dict[str, Any]
) -> None:
    written = release["components"]["comp-defend"]["outputDefinitions"]["artifacts"]
    taken = release["components"][f"comp-{stage}"]["inputDefinitions"]["artifacts"]

    assert sorted(written) == ["candidate", "steps"]
    assert tasks[stage]["inputs"]["artifacts"]["steps"] == {
        "taskOutputArtifact": {"outputArtifactKey": "steps", "producerTask": "defend"}
    }
    assert taken["steps"]["isOptional"]
    assert "steps" not in tasks["promote"]["inputs"]["artifacts"]


def test_controls_come_before_the_attacks_where_these_share_a_quarantine(
    placed: Documents, tasks: dict[str, Any]
) -> None:
    shared = placed[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]

    assert upstream(shared, "controls") == {"fetch-model", "prepare-data"}
    assert upstream(shared, "attacks") == {"fetch-model", "prepare-data", "defend", "controls"}
    assert upstream(shared, "evaluate-utility") == {"fetch-model", "prepare-data", "defend"}
    assert "controls" not in tasks


@pytest.mark.parametrize("name", PIPELINES)
def test_what_speaks_for_one_run_is_neither_cached_nor_repeated(name: str, built: Path) -> None:
    (pipeline,) = read_ir(built / f"{name}.yaml")
    tasks = all_tasks(pipeline)

    for task, settings in tasks.items():
        lasting = task in {"register", "gate", "promote", "announce"}
        if not task.startswith("importer"):  # of a compiled pipeline nobody knows what its spec will name
            assert not settings["cachingOptions"].get("enableCache", False), task
        if not task.startswith("importer"):
            assert ("retryPolicy" in settings) is not lasting, task
    assert {"release": 10, "gate-only": 5, "red-team": 5}[name] == len(tasks)


def test_attacks_are_one_loop_over_the_keys_of_the_spec(release: dict[str, Any], tasks: dict[str, Any]) -> None:
    (loop,) = release["components"]["comp-attacks"]["dag"]["tasks"].values()

    assert tasks["attacks"]["inputs"]["parameters"]["keys"] == {
        "taskOutputParameter": {"outputParameterKey": "Output", "producerTask": "prepare-data"}
    }
    assert loop["parameterIterator"]["items"] == {"inputParameter": "pipelinechannel--keys"}


@pytest.mark.parametrize("name", PIPELINES)
def test_nothing_but_the_exit_task_is_conditional(name: str, built: Path) -> None:
    """A condition that kfp.local cannot resolve is skipped in silence; promote itself must refuse."""
    (pipeline,) = read_ir(built / f"{name}.yaml")
    dags = [part["dag"] for part in [pipeline["root"], *pipeline["components"].values()] if "dag" in part]
    triggered = {task for dag in dags for task, settings in dag["tasks"].items() if "triggerPolicy" in settings}

    assert triggered == ({"announce"} if name != "red-team" else set())
    if triggered:
        assert pipeline["root"]["dag"]["tasks"]["announce"]["triggerPolicy"] == {
            "strategy": "ALL_UPSTREAM_TASKS_COMPLETED"
        }


def test_red_team_changes_no_registry(built: Path) -> None:
    (pipeline,) = read_ir(built / "red-team.yaml")

    assert not {"comp-register", "comp-gate", "comp-promote", "comp-defend"} & set(pipeline["components"])


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.yaml"):
        compile_pipeline("release", tmp_path / "release.json", Placement())


def test_unsound_pipeline_is_refused_and_not_written(tmp_path: Path) -> None:
    placement = Placement.model_validate({"images": {"trainer": "trainer:latest"}})

    with pytest.raises(UserError, match=r"(?s)not sound.*exec-attack.*image.*other than latest"):
        compile_pipeline("release", tmp_path / "release.yaml", placement)
    assert list(tmp_path.iterdir()) == []


def test_compile_writes_every_pipeline(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("tokenbuncher"), "compile"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True)

    assert done.stdout.splitlines() == [f"wrote build/{name}.yaml" for name in PIPELINES]
    assert {path.name for path in (tmp_path / "build").iterdir()} == {f"{name}.yaml" for name in PIPELINES}


@pytest.fixture(autouse=True)
def tasks_are_forks(stages_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAST_STAGES_SERVER", stages_server)


def run_locally(name: str, folder: Path, **arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a pipeline by kfp.local, with stages that take no time."""
    program = (
        "import sys\n"
        "from kfp import local\n"
        "from pipelines.compile import PIPELINES\n"
        f"local.init(local.SubprocessRunner(use_venv=False), pipeline_root={str(folder)!r})\n"
        f"PIPELINES[{name!r}](lambda task: task)(**{arguments!r})\n"
    )
    paths = os.pathsep.join([str(TESTS / "fast_stages"), str(TESTS.parent)])
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def registered_release(spec: ReleaseSpec, folder: Path) -> None:
    """A candidate in the registry, and the evidence about it."""
    parts = {name: folder / name for name in ("candidate", "base")}
    for name, path in parts.items():
        path.mkdir()
        (path / "weights").write_text(name, encoding="utf-8")
    register(spec, parts["candidate"], folder / "registration")
    passing_release(spec).about(*(folder_digest(path) for path in parts.values())).write(folder / "evidence")
    (folder / "evidence" / "registration" / "registration.json").unlink()


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "evidence-missing"])
def test_gate_only_promotes_on_nothing_but_a_pass(complete: bool, embedded_root: Path, tmp_path: Path) -> None:
    name = f"gate-only-{complete}"
    spec = release_spec(tracking={"model_name": name}, output={"root": str(embedded_root)})
    registered_release(spec, tmp_path)
    if not complete:
        next((tmp_path / "evidence").glob("*-safety/evidence.json")).unlink()

    done = run_locally(
        "gate-only",
        tmp_path / "out",
        spec=spec.to_yaml(),
        evidence=str(tmp_path / "evidence"),
        registration=str(tmp_path / "registration"),
    )

    assert (done.returncode == 0) is complete, done.stdout[-3000:] + done.stderr[-3000:]
    uri = spec.tracking_uri()
    aliases = MlflowClient(uri, uri).get_registered_model(name).aliases
    assert {alias: str(version) for alias, version in aliases.items()} == ({"champion": "1"} if complete else {})
    assert f"ended: {'SUCCEEDED' if complete else 'FAILED'}" in done.stdout + done.stderr


@pytest.mark.parametrize("mishap", ["attack grpo-1000 error", "attack grpo-1000 kill", "defend bug"])
def test_a_run_whose_attack_fails_is_inconclusive_and_promotes_nothing(
    mishap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISHAP", mishap)
    spec = release_spec(output={"root": str(tmp_path / "runs")})

    done = run_locally("release", tmp_path / "out", spec=spec.to_yaml())

    told = done.stdout + done.stderr
    assert done.returncode != 0
    assert "INCONCLUSIVE: there is no verdict, so nothing passed" in told, told[-3000:]
    assert "evidence, grpo-1000: missing" in told
    (report,) = (tmp_path / "out").glob("*/announce/report")
    assert "<h1>INCONCLUSIVE" in report.read_text(encoding="utf-8")
    assert not list((tmp_path / "out").glob("*/promote"))
    assert not (tmp_path / "runs" / "mlflow.db").exists()


def test_red_team_attacks_the_model_as_it_is_and_reports(tmp_path: Path) -> None:
    spec = ReleaseSpec.model_validate(
        {
            "attacks": {"suite": [{"algorithm": "grpo"}, {"algorithm": "sft"}]},
            "policy": {"required_attacks": ["grpo"]},
            "output": {"root": str(tmp_path / "runs")},
        }
    )

    done = run_locally("red-team", tmp_path / "out", spec=spec.to_yaml())

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (report,) = (tmp_path / "out").glob("*/report-attacks/report")
    assert "| grpo-1000 |" in report.read_text(encoding="utf-8")
    assert "| sft-1000 |" in report.read_text(encoding="utf-8")
