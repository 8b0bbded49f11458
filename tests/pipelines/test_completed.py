"""Which completed stages of an interrupted run are taken over: those whose inputs, spec and tool are the same."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from pipelines.local.completed import RECORD, Completed
from tests.evidence_factory import release_spec
from tokenbuncher.core.log import LineHandler, StageFormatter, logging_to
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.storage import dependencies

Ask = Callable[..., dict[str, dsl.Artifact] | None]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """The folders that an attack is given."""
    folders = {name: tmp_path / "inputs" / name for name in ("data", "base", "candidate")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "file").write_text(name, encoding="utf-8")
    return folders


def arguments(spec: ReleaseSpec, inputs: dict[str, Path], **changes: Any) -> dict[str, Any]:
    artifacts = {name: dsl.Artifact(name=name, uri=str(folder)) for name, folder in inputs.items()}
    return {"spec": spec.to_yaml(), "key": "grpo-1000", **artifacts, **changes}


@pytest.fixture
def spec(tmp_path: Path) -> ReleaseSpec:
    """A release whose judge is checked on a file of the user's."""
    (tmp_path / "known.jsonl").write_text("{}", encoding="utf-8")
    return parse_spec(release_spec().to_yaml(), [f"evaluation.calibration={tmp_path / 'known.jsonl'}"])


@pytest.fixture
def left(spec: ReleaseSpec, inputs: dict[str, Path], tmp_path: Path) -> Path:
    """What a run has left that was interrupted after an attack; the folder of its task."""
    folder = tmp_path / "interrupted" / "release-1" / "attacks" / "loop-0" / "attack"
    (folder / "evidence").mkdir(parents=True)
    (folder / "evidence" / "evidence.json").write_text("measured", encoding="utf-8")
    (folder / "evidence.steps.jsonl").write_text("beside it", encoding="utf-8")
    run = Completed(tmp_path / "interrupted", tmp_path / "nothing")
    key = run.compute_key(component_name="comp-attack", arguments=arguments(spec, inputs))
    run.put(key, {"evidence": dsl.Artifact(name="evidence", uri=str(folder / "evidence"))})
    (tmp_path / "artifacts" / "release-2").mkdir(parents=True)
    return folder


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Asks a run that goes on for the outputs of a task."""

    def ask(given: dict[str, Any], component: str = "comp-attack") -> dict[str, dsl.Artifact] | None:
        run = Completed(tmp_path / "artifacts", tmp_path / "interrupted")
        return run.get(run.compute_key(component_name=component, arguments=given))

    return ask


def test_the_same_task_is_taken_over_once(
    left: Path, ask: Ask, spec: ReleaseSpec, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to(LineHandler(sys.stdout, StageFormatter())):
        found = ask(arguments(spec, inputs))

    there = tmp_path / "artifacts" / "release-2" / "attacks" / "loop-0" / "attack"
    assert found is not None
    assert found["evidence"].path == str(there / "evidence")
    assert (there / "evidence" / "evidence.json").read_text(encoding="utf-8") == "measured"
    assert (there / "evidence.steps.jsonl").read_text(encoding="utf-8") == "beside it"
    assert not left.exists()
    assert capsys.readouterr().out == "[attack grpo-1000 kept] from the interrupted run\n"
    assert ask(arguments(spec, inputs)) is None


def test_it_can_be_taken_over_again(
    left: Path, ask: Ask, spec: ReleaseSpec, inputs: dict[str, Path], tmp_path: Path
) -> None:
    assert ask(arguments(spec, inputs))
    shutil.rmtree(tmp_path / "interrupted")
    (tmp_path / "artifacts").rename(tmp_path / "interrupted")
    (tmp_path / "artifacts" / "release-3").mkdir(parents=True)

    assert ask(arguments(spec, inputs))


def test_where_inputs_lie_does_not_matter(
    left: Path, ask: Ask, spec: ReleaseSpec, inputs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "inputs").rename(tmp_path / "elsewhere")

    assert ask(arguments(spec, {name: tmp_path / "elsewhere" / name for name in inputs}))


@pytest.mark.parametrize(
    "field",
    [
        "attacks.probe_every=2",
        "defence.steps=7",
        "data.seed=3",
        "evaluation.samples_per_prompt=3",
        "model.device=cpu",
        "policy.confidence=0.9",
        "compute.processes=2",
    ],
)
def test_another_spec_is_run_anew(field: str, left: Path, ask: Ask, spec: ReleaseSpec, inputs: dict[str, Path]) -> None:
    assert ask(arguments(parse_spec(spec.to_yaml(), [field]), inputs)) is None


@pytest.mark.parametrize("field", ["tracking.uri=http://mlflow:5000", "tracking.alias=best", "policy.name=mine"])
def test_where_it_is_registered_does_not_matter(
    field: str, left: Path, ask: Ask, spec: ReleaseSpec, inputs: dict[str, Path]
) -> None:
    assert ask(arguments(parse_spec(spec.to_yaml(), [field]), inputs))


@pytest.mark.parametrize("name", ["data", "base", "candidate"])
def test_other_inputs_are_run_anew(name: str, left: Path, ask: Ask, spec: ReleaseSpec, inputs: dict[str, Path]) -> None:
    (inputs[name] / "file").write_text("changed", encoding="utf-8")
    assert ask(arguments(spec, inputs)) is None


def test_another_task_is_run(left: Path, ask: Ask, spec: ReleaseSpec, inputs: dict[str, Path]) -> None:
    assert ask(arguments(spec, inputs, key="grpo-1001")) is None
    assert ask(arguments(spec, inputs), "comp-evaluate-safety") is None


def test_a_changed_file_that_the_spec_names_is_run_anew(
    left: Path, ask: Ask, spec: ReleaseSpec, inputs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "known.jsonl").write_text("{}\n", encoding="utf-8")
    assert ask(arguments(spec, inputs)) is None


@pytest.mark.parametrize("text", ["{prompt} {response} " * 500, "{prompt}\0{response}"])
def test_a_long_text_in_the_spec_is_no_path(text: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    judge = {"kind": "classifier", "model": str(tmp_path), "harmful_labels": ["harm"], "template": text}
    spec = parse_spec(release_spec().to_yaml()).model_copy(deep=True)
    spec = ReleaseSpec.model_validate({**spec.model_dump(mode="json"), "evaluation": {"judge": judge}})
    assert dependencies.surroundings(spec) == dependencies.surroundings(spec)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_judge_of_another_content_is_another(form: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "a judge"
    folder.mkdir()
    source = form.format(folder).replace(" ", "%20") if form.startswith("file") else str(folder)
    field = f"evaluation.judge={{kind: classifier, model: '{source}', harmful_labels: [harm]}}"
    given = arguments(parse_spec(release_spec().to_yaml(), [field]), inputs)
    run, keys = Completed(tmp_path / "artifacts", tmp_path / "interrupted"), set()
    for content in ("one", "other"):
        (folder / "config.json").write_text(content, encoding="utf-8")
        keys.add(run.compute_key(component_name="comp-attack", arguments=given))

    assert len(keys) == 2


@pytest.mark.parametrize(
    ("judge", "kept"),
    [
        ("hf://org/judge@main", False),
        ("s3://bucket/judge", False),
        ("models:/judge@champion", False),
        (f"hf://org/judge@{'a' * 40}", True),
        (f"s3://bucket/judge#sha256={'a' * 64}", True),
    ],
)
def test_a_judge_that_may_have_changed_is_doubtful(
    judge: str, kept: bool, inputs: dict[str, Path], tmp_path: Path
) -> None:
    field = f"evaluation.judge={{kind: classifier, model: '{judge}', harmful_labels: [harm]}}"
    given = arguments(parse_spec(release_spec().to_yaml(), [field]), inputs)
    run = Completed(tmp_path / "artifacts", tmp_path / "interrupted")
    keys = {run.compute_key(component_name="comp-attack", arguments=given) for _ in range(2)}

    assert (len(keys) == 1) is kept


@pytest.mark.parametrize("what", ["sources", "installed_versions"])
def test_another_tool_is_run_anew(
    what: str, left: Path, ask: Ask, spec: ReleaseSpec, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, what, lambda: "another")
    assert ask(arguments(spec, inputs)) is None


@pytest.mark.parametrize("spoil", ["changed", "added", "removed", "record cut off", "record gone"])
def test_what_is_not_as_it_was_left_is_run_anew(
    spoil: str, left: Path, ask: Ask, spec: ReleaseSpec, inputs: dict[str, Path]
) -> None:
    evidence, record = left / "evidence" / "evidence.json", left / RECORD
    match spoil:
        case "changed":
            evidence.write_text("Measured", encoding="utf-8")
        case "added":
            (left / "evidence" / "more.json").write_text("{}", encoding="utf-8")
        case "removed":
            evidence.unlink()
        case "record cut off":
            record.write_bytes(record.read_bytes()[:-9])
        case "record gone":
            record.unlink()
    assert ask(arguments(spec, inputs)) is None


def test_a_place_that_is_taken_is_not_overwritten(
    left: Path, ask: Ask, spec: ReleaseSpec, inputs: dict[str, Path], tmp_path: Path
) -> None:
    there = tmp_path / "artifacts" / "release-2" / "attacks" / "loop-0" / "attack"
    there.mkdir(parents=True)
    (there / "new").write_text("", encoding="utf-8")

    assert ask(arguments(spec, inputs)) is None
    assert [path.name for path in there.iterdir()] == ["new"]
