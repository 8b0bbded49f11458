"""Registering a candidate."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from tests.evidence_factory import CANDIDATE, MALFORMED, passing_release, release_spec, write_defence_log
from tokenbuncher import __version__
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest, folder_files
from tokenbuncher.evidence import DEFENCE_STEPS, read_registration
from tokenbuncher.registry import _register as registration_room
from tokenbuncher.registry import register
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.storage.artifacts import stored_files
from tokenbuncher.storage.s3 import Stored
from tokenbuncher.storage.tracking import connected


def client(spec: ReleaseSpec) -> MlflowClient:
    return MlflowClient(spec.tracking_uri(), spec.tracking_uri())


def test_version_is_pending_and_tells_where_it_comes_from(spec: ReleaseSpec, candidate: Path, tmp_path: Path) -> None:
    registration = register(spec, candidate, tmp_path / "out")

    version = client(spec).get_model_version(registration.name, registration.version)
    assert version.tags == {
        "tokenbuncher.status": "pending",
        "tokenbuncher.digest": folder_digest(candidate),
        "tokenbuncher.source": "organism://",
        "tokenbuncher.defence": spec.defence.recipe,
        "tokenbuncher.spec": spec.evidence_digest(),
        "tokenbuncher.policy": spec.policy_digest(),
        "tokenbuncher.tool": __version__,
        "tokenbuncher.tries": "1",
    }
    assert version.aliases == []
    assert read_registration(tmp_path / "out") == registration


def test_registered_files_are_the_candidate(spec: ReleaseSpec, candidate: Path, tmp_path: Path) -> None:
    registration = register(spec, candidate, tmp_path / "out")

    version = client(spec).get_model_version(registration.name, registration.version)
    files = Path(client(spec).download_artifacts(version.run_id, "model"))
    assert folder_files(files) == folder_files(candidate)
    assert folder_digest(files) == registration.digest


def test_attacks_are_nested_runs_with_their_curves(spec: ReleaseSpec, candidate: Path, tmp_path: Path) -> None:
    folders, _ = passing_release(spec).write(tmp_path / "evidence")
    rows = [{"step": step, "reward": step / 100, "entropy": 0.5} for step in range(1, 61)]
    (folders[0] / "candidate.steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    registration = register(spec, candidate, tmp_path / "out", attacks=folders)

    mlflow = client(spec)
    parent = mlflow.get_model_version(registration.name, registration.version).run_id
    experiment = mlflow.get_run(parent).info.experiment_id
    nested = mlflow.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    keys = ["grpo-1000", "grpo-1001", "sft-1000"]
    assert {run.info.run_name for run in nested} == {f"{key} {arm}" for key in keys for arm in ("control", "candidate")}
    run = next(run for run in nested if run.info.run_name == "grpo-1000 candidate")
    assert run.data.params["algorithm"] == "grpo"
    assert run.data.params["seed"] == "1000"
    assert run.data.tags["tokenbuncher.model"] == CANDIDATE
    for name, last in {"reward": 0.6, "harm": 0.0, "best_harm": 0.0, "refusal": 1.0, "rollouts": 64 * 60}.items():
        assert run.data.metrics[name] == last
    assert [metric.step for metric in mlflow.get_metric_history(run.info.run_id, "reward")] == list(range(1, 61))
    assert [m.step for m in mlflow.get_metric_history(run.info.run_id, "harm")] == list(range(0, 61, 5))


def nested_runs(spec: ReleaseSpec, version: str) -> dict[str, Run]:
    mlflow = client(spec)
    parent = mlflow.get_run(mlflow.get_model_version(spec.tracking.model_name, version).run_id).info
    found = mlflow.search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    return {run.info.run_name: run for run in found}


@pytest.mark.parametrize("given", ["folder", "file"])
def test_the_defence_is_a_nested_run_with_its_step_log(
    spec: ReleaseSpec, candidate: Path, tmp_path: Path, given: str
) -> None:
    steps = write_defence_log(tmp_path / "log")
    if given == "file":
        steps = (steps / DEFENCE_STEPS).rename(tmp_path / "candidate.steps.jsonl")

    registration = register(spec, candidate, tmp_path / "out", steps=steps)

    run = nested_runs(spec, registration.version)["defence"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["tokenbuncher.recipe"] == "certain-refusal"
    assert run.data.params["steps"] == "300"
    assert run.data.params["certain_refusal.target"] == "1e-07"
    assert run.data.metrics["held_out_escape_max"] == 5e-8
    history = client(spec).get_metric_history(run.info.run_id, "held_out_refusals_added")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1 / 1600), (20, 0.0125), (40, 0.025)]
    assert [m.step for m in client(spec).get_metric_history(run.info.run_id, "escape")] == list(range(1, 41))


@pytest.mark.parametrize("text", [None, "", *MALFORMED])
def test_a_step_log_that_cannot_be_read_keeps_nothing_from_being_registered(
    spec: ReleaseSpec, candidate: Path, tmp_path: Path, text: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    folders, _ = passing_release(spec).write(tmp_path / "evidence")
    (tmp_path / "log").mkdir()
    if text is not None:
        for path in (tmp_path / "log" / DEFENCE_STEPS, folders[0] / "candidate.steps.jsonl"):
            path.write_bytes(text.encode() if isinstance(text, str) else text)

    registration = register(spec, candidate, tmp_path / "out", attacks=folders, steps=tmp_path / "log")

    assert sorted({name.split()[0] for name in nested_runs(spec, registration.version)}) == [
        "grpo-1000",
        "grpo-1001",
        "sft-1000",
    ]
    assert capsys.readouterr().out.count("WARNING: step log") == (2 if text else 0)


def test_same_weights_again_are_a_new_version(spec: ReleaseSpec, candidate: Path, tmp_path: Path) -> None:
    versions = [register(spec, candidate, tmp_path / "out").version for _ in range(2)]

    assert versions == ["1", "2"]


def test_embedded_database_and_artifacts_lie_under_the_output_root(candidate: Path, tmp_path: Path) -> None:
    root = tmp_path / "a folder of runs"
    register(release_spec(output={"root": str(root)}), candidate, tmp_path / "out")

    assert sorted(path.name for path in root.iterdir()) == ["mlartifacts", "mlflow.db"]
    assert list(root.glob("mlartifacts/*/artifacts/model/model.safetensors"))


def test_embedded_database_made_by_two_runs_at_once_serves_both(candidate: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(f"output: {{root: {tmp_path / 'runs'}}}", encoding="utf-8")
    command = [Path(sys.executable).with_name("tokenbuncher"), "register", "--spec", tmp_path / "spec.yaml"]
    runs = [
        subprocess.Popen([*command, "--candidate", candidate, "--out", tmp_path / f"out-{number}"])
        for number in range(2)
    ]

    assert [run.wait() for run in runs] == [0, 0]
    assert {read_registration(tmp_path / f"out-{number}").version for number in range(2)} == {"1", "2"}


def test_over_http(mlflow_server: str, candidate: Path, tmp_path: Path) -> None:
    spec = release_spec(tracking={"uri": mlflow_server, "model_name": "over-http"})
    registration = register(spec, candidate, tmp_path / "out")

    assert registration.tracking_uri == mlflow_server
    version = client(spec).get_model_version("over-http", registration.version)
    assert folder_digest(Path(client(spec).download_artifacts(version.run_id, "model"))) == registration.digest


def test_server_that_is_down_is_named(candidate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=re.escape("http://127.0.0.1:9")):
        register(release_spec(tracking={"uri": "http://127.0.0.1:9"}), candidate, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_database_that_cannot_be_made_is_refused(candidate: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MLflow failed"):
        register(release_spec(tracking={"uri": "sqlite:////proc/no/such/mlflow.db"}), candidate, tmp_path / "out")


def test_impossible_model_name_is_refused(spec: ReleaseSpec, candidate: Path, tmp_path: Path) -> None:
    tracking = spec.tracking.model_copy(update={"model_name": "a/b"})
    with pytest.raises(UserError, match="a/b"):
        register(spec.model_copy(update={"tracking": tracking}), candidate, tmp_path / "out")


@pytest.mark.parametrize("made", [False, True])
def test_no_candidate_is_refused(spec: ReleaseSpec, tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="run defend first"):
        register(spec, tmp_path / "empty", tmp_path / "out")


def test_is_quiet(spec: ReleaseSpec, candidate: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    registration = register(spec, candidate, tmp_path / "out")

    out, err = capfd.readouterr()
    assert out == f"{registration.name} version 1, pending, sha256 {registration.digest[:12]}\n"
    assert err == ""
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_spec_is_kept_with_the_version(spec: ReleaseSpec, candidate: Path, tmp_path: Path) -> None:
    registration = register(spec, candidate, tmp_path / "out")

    version = client(spec).get_model_version(registration.name, registration.version)
    assert (
        Path(client(spec).download_artifacts(version.run_id, "spec.yaml")).read_text(encoding="utf-8") == spec.to_yaml()
    )
    assert (
        json.loads((tmp_path / "out" / "registration.json").read_text(encoding="utf-8"))["version"]
        == registration.version
    )


def test_a_logged_model_is_not_laid_over_what_was_registered(
    mlflow_server: str, candidate: Path, tmp_path: Path
) -> None:
    spec = release_spec(tracking={"uri": mlflow_server, "model_name": "not-laid-over"})
    registration = register(spec, candidate, tmp_path / "out")
    run = client(spec).get_run(client(spec).get_model_version("not-laid-over", registration.version).run_id).info
    model = client(spec).create_logged_model(run.experiment_id, name="model", source_run_id=run.run_id)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_text("other weights", encoding="utf-8")
    client(spec).log_model_artifacts(model.model_id, str(tmp_path / "other"))
    client(spec).finalize_logged_model(model.model_id, "READY")

    got = download_artifacts(
        f"models:/not-laid-over/{registration.version}",
        dst_path=str(tmp_path / "got"),
        tracking_uri=mlflow_server,
        registry_uri=mlflow_server,
    )
    assert folder_digest(Path(got)) == registration.digest


@pytest.fixture
def own_experiment(mlflow_server: str) -> Iterator[MlflowClient]:
    """A client of the server, on which somebody may make the experiment of the releases anew."""
    mlflow = MlflowClient(mlflow_server, mlflow_server)
    former = mlflow.get_experiment_by_name("tokenbuncher")
    if former:
        mlflow.rename_experiment(former.experiment_id, "tokenbuncher-before")
    yield mlflow
    mlflow.rename_experiment(mlflow.get_experiment_by_name("tokenbuncher").experiment_id, uuid4().hex)
    if former:
        mlflow.rename_experiment(former.experiment_id, "tokenbuncher")


@pytest.mark.parametrize("place", ["s3://others/weights", "mlflow-artifacts:/mine", "mlflow-artifacts:/0/mine"])
def test_who_made_the_experiment_does_not_get_the_weights(
    place: str, own_experiment: MlflowClient, candidate: Path, tmp_path: Path
) -> None:
    made = own_experiment.create_experiment("tokenbuncher", artifact_location=place)
    spec = release_spec(tracking={"uri": own_experiment.tracking_uri, "model_name": "kept-to-ourselves"})
    with pytest.raises(UserError, match=f"keeps its files at {place}"):
        register(spec, candidate, tmp_path / "out")
    assert own_experiment.search_runs([made]) == []


def test_an_experiment_made_by_another_without_a_place_is_as_good_as_ours(
    own_experiment: MlflowClient, candidate: Path, tmp_path: Path
) -> None:
    own_experiment.create_experiment("tokenbuncher")
    spec = release_spec(tracking={"uri": own_experiment.tracking_uri, "model_name": "kept-to-ourselves"})
    assert register(spec, candidate, tmp_path / "out").version


@pytest.mark.parametrize(("stated", "right"), [("mlflow-artifacts:/ours", True), ("mlflow-artifacts:/ou", False)])
def test_the_spec_may_state_the_place(
    stated: str, right: bool, own_experiment: MlflowClient, candidate: Path, tmp_path: Path
) -> None:
    own_experiment.create_experiment("tokenbuncher", artifact_location="mlflow-artifacts:/ours/tokenbuncher")
    spec = release_spec(
        tracking={"uri": own_experiment.tracking_uri, "model_name": "kept-to-ourselves", "artifact_root": stated}
    )
    with nullcontext() if right else pytest.raises(UserError, match="keeps its files at"):
        register(spec, candidate, tmp_path / "out")


def test_an_embedded_experiment_made_for_another_folder_is_refused(candidate: Path, tmp_path: Path) -> None:
    spec = release_spec(output={"root": str(tmp_path / "runs")})
    with connected(spec.tracking_uri()) as mlflow:
        mlflow.create_experiment("tokenbuncher", artifact_location=(tmp_path / "elsewhere").as_uri())
    with pytest.raises(UserError, match="keeps its files at"):
        register(spec, candidate, tmp_path / "out")


@pytest.fixture
def in_bucket(s3, tmp_path: Path) -> ReleaseSpec:
    """A release whose artifacts clients write to a bucket themselves."""
    s3.create_bucket(Bucket="artifacts")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with connected(uri) as mlflow:
        mlflow.create_experiment("tokenbuncher", artifact_location="s3://artifacts/tokenbuncher")
    yield release_spec(tracking={"uri": uri, "model_name": "in-a-bucket"})
    for entry in s3.list_objects_v2(Bucket="artifacts").get("Contents", ()):
        s3.delete_object(Bucket="artifacts", Key=entry["Key"])
    s3.delete_bucket(Bucket="artifacts")


def test_what_the_store_calls_the_files_is_registered(in_bucket: ReleaseSpec, candidate: Path, tmp_path: Path) -> None:
    registration = register(in_bucket, candidate, tmp_path / "out")

    md5 = {name: hashlib.md5((candidate / name).read_bytes()).hexdigest() for name in folder_files(candidate)}
    assert {file.name: file.stored for file in registration.files} == {name: f'"{md5[name]}"' for name in md5}


def test_an_object_exchanged_while_it_is_registered_is_found(
    in_bucket: ReleaseSpec, candidate: Path, tmp_path: Path, s3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ETag would be attested as the candidate's, and the guard would take it for that."""

    def exchanged(uri: str) -> dict[str, Stored] | None:
        key = uri.removeprefix("s3://artifacts/") + "/model.safetensors"
        s3.put_object(Bucket="artifacts", Key=key, Body=b"x" * 256)
        return stored_files(uri)

    monkeypatch.setattr(registration_room, "stored_files", exchanged)
    with pytest.raises(UserError, match="the artifact store has other files"):
        register(in_bucket, candidate, tmp_path / "out")
    assert not (tmp_path / "out").exists()
