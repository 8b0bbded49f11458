"""Ways past the guard that were once open, each tried on real servers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.server.handlers import ModelRegistryStoreRegistryWrapper
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tests.guard.conftest import Guarded, every_database, together
from tests.guard.test_store import Attested, assert_denied, put_on_record, weights_of
from tests.registry.conftest import Registered
from tokenbuncher.attestation import FILE_NAME, TAG

SAME_TO_SOME_DATABASES = [
    "chámpion",
    "CHAMPION",
    "champiôn",
    "ＣＨＡＭＰＩＯＮ",  # noqa: RUF001
    "ᶜhampion",
    "chåmpıon",  # noqa: RUF001
    "champion\n",
    "𝐜𝐡𝐚𝐦𝐩𝐢𝐨𝐧",  # noqa: RUF001
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that wait for an answer once, and no longer than a loaded server needs that does not hang."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def remade(guarded: Guarded, registered: Registered, source: str, run: str | None = None) -> tuple[str, str]:
    """The model once more, with the attestation of its first version on a first version made by an attacker."""
    name = registered.release.registration.name
    guarded.client.delete_registered_model(name)
    guarded.client.create_registered_model(name)
    tags = {TAG: (registered.verdict / FILE_NAME).read_text(encoding="utf-8")}
    made = guarded.client.create_model_version(name, source, run, tags)
    return name, str(made.version)


def other_run(guarded: Guarded, folder: Path, location: str | None = None) -> str:
    """A run of an attacker's, with other weights."""
    (folder / "evil").mkdir()
    (folder / "evil" / "model.safetensors").write_bytes(b"other weights")
    experiment = guarded.client.create_experiment(os.urandom(8).hex(), location)
    run = guarded.client.create_run(experiment).info.run_id
    guarded.client.log_artifacts(run, str(folder / "evil"), "model")
    return str(run)


def address(guarded: Guarded, run: str) -> str:
    return str(guarded.client.get_run(run).info.artifact_uri)


@every_database
def test_an_alias_that_a_database_takes_for_the_protected_one(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    guarded.client.set_registered_model_alias(name, "champion", version)
    unattested = guarded.client.create_model_version(name, "s3://bucket/evil").version
    for alias in SAME_TO_SOME_DATABASES:
        body = {"name": name, "alias": alias, "version": str(unattested)}
        answer = requests.post(f"{guarded.uri}/api/2.0/mlflow/registered-models/alias", json=body, timeout=30)
        assert answer.status_code == 403, (alias, answer.text)
        assert "is protected" in answer.text
        assert str(guarded.client.get_model_version_by_alias(name, "champion").version) == version


@every_database
def test_an_alias_that_only_the_database_takes_for_the_protected_one(guarded: Guarded, attested: Attested) -> None:
    """To MariaDB, one ß is one s; to the guard, two."""
    name, version = put_on_record(attested())
    protected = {"policy": "policy.yaml", "keys": ["trusted.pub"]}
    with guarded.changed(aliases={"boss": protected}):
        guarded.client.set_registered_model_alias(name, "boss", version)
        unattested = guarded.client.create_model_version(name, "s3://bucket/evil").version
        body = {"name": name, "alias": "boßs", "version": str(unattested)}
        answer = requests.post(f"{guarded.uri}/api/2.0/mlflow/registered-models/alias", json=body, timeout=30)
        assert (answer.status_code == 403) is guarded.folds, answer.text
        assert str(guarded.client.get_model_version_by_alias(name, "boss").version) == version


@every_database
def test_an_alias_given_to_nobody_yet_that_only_the_database_takes_for_it(guarded: Guarded, attested: Attested) -> None:
    name = attested().release.registration.name
    unattested = str(guarded.client.create_model_version(name, "s3://bucket/evil").version)
    protected = {"policy": "policy.yaml", "keys": ["trusted.pub"]}
    with guarded.changed(aliases={"boss": protected}):
        body = {"name": name, "alias": "boßs", "version": unattested}
        answer = requests.post(f"{guarded.uri}/api/2.0/mlflow/registered-models/alias", json=body, timeout=30)
        assert (answer.status_code == 403) is guarded.folds, answer.text
        with pytest.raises(MlflowException, match="not found"):
            guarded.client.get_model_version_by_alias(name, "boss")


@every_database
def test_a_model_s_name_in_another_way_of_writing(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    for other in (name.upper(), name.replace("e", "é"), f"{name} "):
        with pytest.raises(
            MlflowException, match="which this database takes for the same" if guarded.folds else "not found"
        ):
            guarded.client.set_registered_model_alias(other, "champion", version)
        with pytest.raises(
            MlflowException, match="which this database takes for the same" if guarded.folds else "not found"
        ):
            guarded.client.transition_model_version_stage(other, version, "Production")
    assert guarded.client.get_registered_model(name).aliases == {}


@every_database
def test_a_model_with_a_protected_alias_in_other_letters_is_not_renamed(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    guarded.client.set_registered_model_alias(name, "Champion", version)
    with pytest.raises(RestException, match="cannot be renamed"):
        guarded.client.rename_registered_model(name, f"{name}-renamed")


def test_a_run_s_path_that_is_absolute(guarded: Guarded, attested: Attested, tmp_path: Path) -> None:
    """The guard once hashed the server's folder of that path, and clients read the run."""
    registered = attested()
    folder = weights_of(guarded, registered).parent
    evil = other_run(guarded, tmp_path)
    name, version = remade(guarded, registered, f"runs:/{evil}/{folder}", evil)
    assert_denied(guarded, name, version, "its source has empty parts")


@pytest.mark.parametrize(
    "source",
    [
        "runs:/{run}/model?version=1",
        "runs:/{run}/model#part",
        "runs:/{run}/./model",
        "runs:/{run}/model/",
        "runs:/{run}/model;a",
        "runs:/{run}/%6dodel",
        "runs:/{run}/mod\\el",
        "{uri}/model?version=1",
        "{uri}//model",
        "{uri}/%6dodel",
        "mlflow-artifacts:/api/2.0/mlflow-artifacts/artifacts/1/{run}/artifacts/model",
        "models:/{name}/1",
    ],
)
def test_a_source_that_programs_read_differently(source: str, guarded: Guarded, attested: Attested) -> None:
    registered = attested()
    run, name = registered.version.run_id, registered.release.registration.name
    given = source.format(run=run, uri=address(guarded, run), name=f"{name}-first")
    guarded.client.copy_model_version(f"models:/{name}/1", f"{name}-first")
    try:
        name, version = remade(guarded, registered, given, run)
    except MlflowException:  # MLflow itself refuses some
        return
    assert_denied(guarded, name, version, "its source")


@every_database
def test_a_logged_model_laid_over_the_run_s_files(guarded: Guarded, attested: Attested, tmp_path: Path) -> None:
    registered = attested()
    run = guarded.client.get_run(registered.version.run_id).info
    name, version = remade(guarded, registered, f"runs:/{run.run_id}/model", run.run_id)
    model = guarded.client.create_logged_model(run.experiment_id, name="model", source_run_id=run.run_id)
    (tmp_path / "laid").mkdir()
    (tmp_path / "laid" / "model.safetensors").write_bytes(b"other weights")
    repository = get_artifact_repository(model.artifact_location, guarded.uri)
    repository.log_artifacts(str(tmp_path / "laid"))
    assert_denied(guarded, name, version, "which MLflow's client lays over the files")


@every_database
def test_a_run_s_files_that_nothing_is_laid_over(guarded: Guarded, attested: Attested) -> None:
    """Versions that were registered by earlier releases of tokenbuncher."""
    registered = attested()
    run = registered.version.run_id
    name, version = remade(guarded, registered, f"runs:/{run}/model", run)
    guarded.client.set_registered_model_alias(name, "champion", version)


@pytest.mark.parametrize("store", ["s3://others/model", "gs://others/model", "wasbs://others@example.org/model"])
def test_files_in_an_attacker_s_own_store(store: str, guarded: Guarded, attested: Attested, impatient: None) -> None:
    """They may be the judged ones at the move, and others afterwards. Nobody asks that store, which may hang."""
    name, version = remade(guarded, attested(), store)
    assert_denied(guarded, name, version, "lie outside of the server's artifact root")


def test_files_in_a_folder_of_the_server_unless_it_is_trusted(
    guarded: Guarded, attested: Attested, candidate: Path, tmp_path: Path
) -> None:
    registered = attested()
    experiment = guarded.client.create_experiment(os.urandom(8).hex(), (tmp_path / "own").as_uri())
    run = guarded.client.create_run(experiment).info
    shutil.copytree(candidate, tmp_path / "own" / run.run_id / "artifacts" / "model")
    name, version = remade(guarded, registered, f"{run.artifact_uri}/model", run.run_id)
    assert_denied(guarded, name, version, "lie outside of the server's artifact root")
    with guarded.changed(artifact_roots=[str(tmp_path / "own")]):
        guarded.client.set_registered_model_alias(name, "champion", version)


def pipe(weights: Path) -> None:
    weights.unlink()
    os.mkfifo(weights)


def device(weights: Path) -> None:
    weights.unlink()
    os.mknod(weights, 0o600 | 0o020000, os.makedev(1, 5))  # zeros without end


def link_outside(weights: Path) -> None:
    moved = weights.parents[5] / "moved"
    shutil.move(weights, moved)
    weights.symlink_to(moved)


def link_of_the_folder(weights: Path) -> None:
    moved = weights.parents[5] / "moved-folder"
    shutil.rmtree(moved, ignore_errors=True)
    shutil.move(weights.parent, moved)
    weights.parent.symlink_to(moved)


def huge(weights: Path) -> None:
    os.truncate(weights, 2**40)


def many(weights: Path) -> None:
    for number in range(20):
        weights.with_name(f"more-{number}").touch()


@pytest.mark.parametrize(
    "spoil", [pipe, device, link_outside, link_of_the_folder, huge, many], ids=lambda f: f.__name__
)
def test_files_that_cannot_be_read_to_their_end_are_not(
    spoil: Callable[[Path], None], guarded: Guarded, attested: Attested, impatient: None
) -> None:
    registered = attested()
    name, version = put_on_record(registered)
    try:
        spoil(weights_of(guarded, registered))
    except PermissionError:
        pytest.skip("needs root to make a device")
    assert_denied(guarded, name, version, "does not get it")


def test_a_folder_of_many_files_is_not_listed_to_whoever_asks(guarded: Guarded, attested: Attested) -> None:
    registered = attested()
    name, version = put_on_record(registered)
    many(weights_of(guarded, registered))
    with pytest.raises(RestException, match="and 15 more"):
        guarded.client.set_registered_model_alias(name, "champion", version)
    with guarded.changed(max_files=10):
        assert_denied(guarded, name, version, "it has more than 10 files")


def test_a_version_larger_than_the_guard_reads(guarded: Guarded, attested: Attested, candidate: Path) -> None:
    (candidate / "model.safetensors").write_bytes(bytes(3 * 2**20))
    name, version = put_on_record(attested())
    with guarded.changed(max_mb=2):
        assert_denied(guarded, name, version, "more than the 2 MB that the guard reads")
    with guarded.changed(max_files=1):
        assert_denied(guarded, name, version, "more than the 1 files that the guard takes")
    guarded.client.set_registered_model_alias(name, "champion", version)


@every_database
def test_many_moves_at_once_are_all_answered(guarded: Guarded, attested: Attested, candidate: Path) -> None:
    (candidate / "model.safetensors").write_bytes(bytes(8 * 2**20))
    name, version = put_on_record(attested())
    body = {"name": name, "alias": "champion", "version": version}
    answers = together(
        24, lambda _: requests.post(f"{guarded.uri}/api/2.0/mlflow/registered-models/alias", json=body, timeout=60)
    )
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert guarded.client.get_registered_model(name).aliases == {"champion": version}


def test_a_driver_that_is_not_supported_is_no_guard_at_all() -> None:
    """The server then has no registry, rather than one without a guard."""
    with pytest.raises(MlflowException, match="unsupported URI"):
        ModelRegistryStoreRegistryWrapper().get_store("guarded-mysql+nosuch://root@127.0.0.1/mlflow")
