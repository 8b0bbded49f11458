"""Components as Kubeflow sees them, and their bodies called as functions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from components import GATE_IMAGE, TRAINER_IMAGE
from components.readme import FOLDER, NAMES, load_component, load_metadata, readme
from tests.evidence_factory import CANDIDATE, broken_arm, passing_release, release_spec
from tokenbuncher.core.files import folder_digest
from tokenbuncher.core.stages import STAGES
from tokenbuncher.verdict import Outcome, judge_release, read_verdict


def test_every_stage_is_a_component() -> None:
    assert sorted(STAGES) == sorted(load_component(name).component_spec.name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_to_our_image_and_installs_nothing(name: str, tmp_path: Path) -> None:
    compiler.Compiler().compile(load_component(name), str(tmp_path / "component.yaml"))

    (executor,) = yaml.safe_load((tmp_path / "component.yaml").read_text(encoding="utf-8"))["deploymentSpec"][
        "executors"
    ].values()
    light = name in ("announce", "gate", "promote", "register", "report_attacks")
    assert executor["container"]["image"] == (GATE_IMAGE if light else TRAINER_IMAGE)
    assert "pip install" not in " ".join(executor["container"]["command"])


@pytest.mark.parametrize("name", NAMES)
def test_readme_is_up_to_date(name: str) -> None:
    assert (FOLDER / name / "README.md").read_text(encoding="utf-8") == readme(name), "run: python -m components.readme"


@pytest.mark.parametrize("name", NAMES)
def test_readme_describes_every_input_and_output(name: str) -> None:
    spec = load_component(name).component_spec
    listed = re.findall(r"^\| (input|output)(?:, optional)? \| `(\w+)` \| .+ \| .+ \|$", readme(name), re.MULTILINE)

    assert sorted(listed) == sorted(
        [("input", key) for key in spec.inputs or {}] + [("output", key) for key in spec.outputs or {}]
    )


def pinned(package: str) -> str:
    """The version of a package that the project is tested with."""
    project = (FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = {*re.findall(rf'"{package}==([\d.]+)"', project)}
    return version


@pytest.mark.parametrize("name", NAMES)
def test_metadata_is_that_of_pipelines_components(name: str) -> None:
    """Its fields are those of kubeflow/pipelines-components, with the image and by what it was verified beside them."""
    metadata = load_metadata(name)

    assert set(metadata) == {"name", "stability", "image", "dependencies", "tags", "lastVerified", "verifiedBy"}
    assert metadata["name"] == name
    assert metadata["stability"] in ("alpha", "beta", "stable")
    assert metadata["tags"]
    assert datetime(2026, 11, 29, tzinfo=UTC) <= metadata["lastVerified"] <= datetime.now(UTC)


@pytest.mark.parametrize("name", NAMES)
def test_metadata_needs_the_versions_that_are_tested(name: str) -> None:
    dependencies = load_metadata(name)["dependencies"]

    assert dependencies["kubeflow"] == [{"name": "Pipelines", "version": f">={pinned('kfp')}"}]
    for service in dependencies.get("external_services", []):
        assert service == {"name": "MLflow", "version": f">={pinned('mlflow').rpartition('.')[0]}"}


@pytest.mark.parametrize("name", NAMES)
def test_metadata_names_a_test_that_runs_the_component(name: str) -> None:
    how = FOLDER.parent / load_metadata(name)["verifiedBy"]
    stage = load_component(name).component_spec.name

    pipeline = "red_team" if stage == "report-attacks" else "run_local"
    assert pipeline in how.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_component_metadata_and_the_table_of_stages_agree(name: str) -> None:
    spec = load_component(name).component_spec
    stage = STAGES[spec.name]
    named = {*(spec.inputs or {}), *(spec.outputs or {})}

    assert load_metadata(name)["image"] == stage.image
    assert spec.implementation.container.image == {"trainer": TRAINER_IMAGE, "gate": GATE_IMAGE}[stage.image]
    # A command has no use for the copy that Kubeflow's UI shows, nor for evidence of another run in one folder.
    assert named - {"spec", "report", "recorded", "status", "Output"} == set(stage.options) | (
        named & {"attacks", "safety"} if spec.name == "report-attacks" else set()
    )


def test_images_are_those_of_the_environment() -> None:
    probe = "import components, json; print(json.dumps([components.TRAINER_IMAGE, components.GATE_IMAGE]))"
    images = {"TOKENBUNCHER_TRAINER_IMAGE": "here/trainer:1", "TOKENBUNCHER_GATE_IMAGE": "here/gate:2"}
    done = subprocess.run([sys.executable, "-c", probe], env=images, capture_output=True, check=True, encoding="utf-8")

    assert json.loads(done.stdout) == ["here/trainer:1", "here/gate:2"]


@pytest.mark.parametrize("name", NAMES)
def test_importing_a_component_needs_no_stage(name: str) -> None:
    source = (FOLDER / name / "component.py").read_text(encoding="utf-8")

    assert re.findall(r"^(?:from|import) (\S+)", source, re.MULTILINE) == ["kfp", "components"]


def folder(path: Path, **files: str) -> dsl.Artifact:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text, encoding="utf-8")
    return dsl.Artifact(uri=str(path))


@pytest.mark.parametrize("held", [True, False], ids=["held", "broken"])
def test_register_gate_promote(held: bool, embedded_root: Path, tmp_path: Path) -> None:
    spec = release_spec(tracking={"model_name": f"component-{held}"}, output={"root": str(embedded_root)})
    base, candidate = (folder(tmp_path / name, weights=name) for name in ("base", "candidate"))
    registration, verdict = (dsl.Artifact(uri=str(tmp_path / name)) for name in ("registration", "verdict"))
    report = dsl.HTML(uri=str(tmp_path / "shown"))
    load_component("register").python_func(
        spec=spec.to_yaml(), candidate=candidate, attacks=[], registration=registration
    )

    release = passing_release(spec)
    if not held:
        release = release.with_piece("grpo-1000", candidate_arm=broken_arm(spec, model=CANDIDATE))
    release = release.about(*(folder_digest(Path(artifact.path)) for artifact in (candidate, base)))
    *attacks, safety, utility = (dsl.Artifact(uri=str(stage)) for stage in release.write(tmp_path / "evidence")[0])
    inputs = {
        "spec": spec.to_yaml(),
        "attacks": attacks,
        "safety": safety,
        "utility": utility,
        "registration": registration,
        "verdict": verdict,
    }
    load_component("gate").python_func(**inputs, report=report)

    assert Path(report.path).read_bytes() == (tmp_path / "verdict" / "report.html").read_bytes()
    assert read_verdict(tmp_path / "verdict").outcome is (Outcome.PASS if held else Outcome.BLOCK)
    if held:
        load_component("promote").python_func(**inputs)
    else:
        with pytest.raises(SystemExit):
            load_component("promote").python_func(**inputs)


def test_gate_takes_recorded_evidence_in_one_folder(embedded_root: Path, tmp_path: Path) -> None:
    spec = release_spec(output={"root": str(embedded_root)})
    _, registration = passing_release(spec).write(tmp_path / "run")

    load_component("gate").python_func(
        spec=spec.to_yaml(),
        registration=dsl.Artifact(uri=str(registration)),
        recorded=dsl.Artifact(uri=str(tmp_path / "run")),
        verdict=dsl.Artifact(uri=str(tmp_path / "verdict")),
        report=dsl.HTML(uri=str(tmp_path / "shown")),
    )

    assert read_verdict(tmp_path / "verdict").outcome is Outcome.PASS


def test_gate_without_evidence_is_inconclusive(embedded_root: Path, tmp_path: Path) -> None:
    spec = release_spec(output={"root": str(embedded_root)})
    _, registration = passing_release(spec).write(tmp_path / "run")

    load_component("gate").python_func(
        spec=spec.to_yaml(),
        registration=dsl.Artifact(uri=str(registration)),
        verdict=dsl.Artifact(uri=str(tmp_path / "verdict")),
        report=dsl.HTML(uri=str(tmp_path / "shown")),
    )

    assert read_verdict(tmp_path / "verdict").outcome is Outcome.INCONCLUSIVE


def test_report_attacks_tells_how_the_model_fell(tmp_path: Path) -> None:
    spec = release_spec()
    *attacks, safety, _ = (dsl.Artifact(uri=str(stage)) for stage in passing_release(spec).write(tmp_path / "run")[0])
    report = dsl.Markdown(uri=str(tmp_path / "report.md"))

    load_component("report_attacks").python_func(attacks=attacks, safety=safety, report=report)

    text = Path(report.path).read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Under attack",
        "What the attacks spent",
        "Before any attack",
        "Degeneration",
    ]
    assert len(re.findall(r"^\| grpo-1000 \|", text, re.MULTILINE)) == 2
    assert "defended" not in text
    assert re.search(r"^- grpo-1000: broken at step \d+$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("state", "error"), [("SUCCEEDED", None), ("FAILED", "task promote failed")], ids=["succeeded", "failed"]
)
def test_announce_tells_the_end_and_where_the_verdict_is(
    state: str, error: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status = dsl.PipelineTaskFinalStatus(
        state=state,
        pipeline_job_resource_name="run-7",
        pipeline_task_name="exit-handler-1",
        error_code=None,
        error_message=error,
    )
    spec = release_spec(tracking={"model_name": "chat", "uri": "http://mlflow:5000"})

    report = dsl.HTML(uri=str(tmp_path / "announce" / "report"))
    (tmp_path / "announce").mkdir()
    load_component("announce").python_func(spec=spec.to_yaml(), status=status, report=report)

    told = capsys.readouterr().out
    assert f"run-7 ended: {state}" in told
    assert (f"exit-handler-1 failed: {error}" in told) is bool(error)
    assert ("INCONCLUSIVE" in told) is Path(report.path).exists() is bool(error)
    assert "versions of chat, their verdicts and aliases: `tokenbuncher status`, http://mlflow:5000" in told


FAILED = dsl.PipelineTaskFinalStatus(
    state="FAILED",
    pipeline_job_resource_name="run-7",
    pipeline_task_name="exit-handler-1",
    error_code=1,
    error_message="task attacks failed",
)


def announced(spec: str, run: str, shown: Path, recorded: str = "") -> None:
    report = dsl.HTML(uri=f"{run}/announce/report")
    report.custom_path = str(shown)  # the launcher mounts what lies in a bucket
    load_component("announce").python_func(spec=spec, status=FAILED, report=report, recorded=recorded)


def keep_all_but(folder: Path, *stages: str) -> None:
    """Leaves what a run has left of which these stages have failed."""
    for path in folder.iterdir():
        if path.name.partition("-")[2] in stages or path.name == "registration":
            shutil.rmtree(path)


def test_without_a_verdict_the_end_is_inconclusive_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = passing_release()
    release.write(tmp_path / "run")
    keep_all_but(tmp_path / "run", "grpo-1000", "utility")
    announced(release.spec.to_yaml(), str(tmp_path / "run"), tmp_path / "shown")

    told = capsys.readouterr().out
    for says in (
        "INCONCLUSIVE: there is no verdict",
        "the run ended as FAILED",
        "grpo-1000: missing",
        "utility: missing",
    ):
        assert says in told
    assert "safety: missing" not in told
    assert "<h1>INCONCLUSIVE" in (tmp_path / "shown").read_text(encoding="utf-8")


def test_evidence_among_the_outputs_in_a_bucket_is_found(
    s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release, bucket = passing_release(), "pipeline-outputs"
    release.write(tmp_path / "run")
    keep_all_but(tmp_path / "run", "grpo-1000")
    s3.create_bucket(Bucket=bucket)
    for path in (tmp_path / "run").rglob("*.json"):
        s3.upload_file(str(path), bucket, f"v2/artifacts/release/7/{path.relative_to(tmp_path / 'run')}")
    s3.put_object(Bucket=bucket, Key="v2/artifacts/release/7/defend/candidate/model.safetensors", Body=b"large")
    announced(release.spec.to_yaml(), f"minio://{bucket}/v2/artifacts/release/7", tmp_path / "shown")

    told = capsys.readouterr().out
    assert "grpo-1000: missing" in told
    assert "safety: missing" not in told

    s3.put_object(
        Bucket=bucket,
        Key="v2/artifacts/release/7/gate/verdict/verdict.json",
        Body=judge_release(release.spec, release.evidence, release.registration).model_dump_json().encode(),
    )
    announced(release.spec.to_yaml(), f"s3://{bucket}/v2/artifacts/release/7?region=x", tmp_path / "shown")
    told = capsys.readouterr().out
    assert "PASS: organism version 3" in told
    assert "INCONCLUSIVE" not in told + (tmp_path / "shown").read_text(encoding="utf-8")


@pytest.mark.parametrize("run", ["minio://nosuch-bucket/run", "gs://bucket/run", ""])
def test_outputs_that_cannot_be_seen_pass_nothing(
    run: str, s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    announced(release_spec().to_yaml(), run, tmp_path / "shown")

    told = capsys.readouterr().out
    assert "INCONCLUSIVE: no verdict can be seen, so nothing passed" in told
    assert "what is there cannot be seen from here, a verdict included" in told
    assert "<h1>INCONCLUSIVE" in (tmp_path / "shown").read_text(encoding="utf-8")


def test_recorded_evidence_is_looked_for_where_it_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = passing_release()
    release.write(tmp_path / "recorded")
    (tmp_path / "run").mkdir()
    announced(release.spec.to_yaml(), str(tmp_path / "run"), tmp_path / "shown", str(tmp_path / "recorded"))

    told = capsys.readouterr().out
    assert "INCONCLUSIVE" in told
    assert "missing" not in told


KEEPING = {"keep_checkpoints": True}


@pytest.mark.parametrize(
    "uri", ["minio://bucket/v2/1/attack/evidence", "s3://b/e", "gs://b/e", "oci://r/e", "file:///e"]
)
@pytest.mark.parametrize("stage", ["attack", "prepare_data"])
def test_attacked_weights_are_never_among_what_is_uploaded(
    stage: str, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = release_spec(attacks=KEEPING).to_yaml()
    empty = folder(tmp_path / "empty")
    inputs = {"key": "grpo-1000", "data": empty, "base": empty, "candidate": empty}
    given = {**inputs, "evidence": dsl.Artifact(uri=uri)} if stage == "attack" else {"data": dsl.Dataset(uri=uri)}

    with pytest.raises(SystemExit) as ended:
        load_component(stage).python_func(spec=spec, **given)

    assert ended.value.code == 2
    assert "attacks.keep_checkpoints: attacked weights must not leave the quarantine" in capsys.readouterr().out


def test_attacked_weights_may_stay_on_this_machine(tmp_path: Path) -> None:
    data = dsl.Dataset(uri=str(tmp_path / "data"))

    load_component("prepare_data").python_func(spec=release_spec(attacks=KEEPING).to_yaml(), data=data)

    assert (tmp_path / "data" / "manifest.json").is_file()
