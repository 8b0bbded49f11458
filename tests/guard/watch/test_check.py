"""The watcher's check from outside: the guard's, on versions as `promote` leaves them on a real server."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.evidence_factory import changed, release_spec
from tests.guard.watch.conftest import Mlflow
from tests.registry.conftest import Registered, candidate, enter
from tokenbuncher.attestation import TAG, generate_key, load_private_key, sign
from tokenbuncher.errors import UserError
from tokenbuncher.guard.watch import Report, Watcher, attestation_check

__all__ = ["candidate", "enter"]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Guard settings for `champion`, beside the key that is trusted."""
    folder = tmp_path / "guard"
    folder.mkdir()
    generate_key(folder / "release.pem")
    (folder / "policy.yaml").write_text(yaml.safe_dump(release_spec().policy.model_dump(mode="json")))
    protected = {"policy": "policy.yaml", "keys": ["release.pub"]}
    (folder / "guard.yaml").write_text(
        yaml.safe_dump({"apiVersion": "tokenbuncher/v1", "aliases": {"champion": protected}})
    )
    return folder / "guard.yaml"


@pytest.fixture
def promoted(
    mlflow: Mlflow, settings: Path, enter: Callable[..., Registered], request: pytest.FixtureRequest
) -> Registered:
    """A version that has the alias rightly."""
    name = re.sub(r"\W+", "-", request.node.name)
    spec = release_spec(tracking={"uri": mlflow.uri, "model_name": name, "alias": "champion"})
    registered = enter(spec, signer=load_private_key(settings.with_name("release.pem")))
    registered.promote()
    return registered


def reasons(registered: Registered, settings: Path, version: str = "1", alias: str = "champion") -> list[str]:
    return attestation_check(registered.client, settings)(registered.release.registration.name, version, alias)


def test_promoted_version_may_have_the_alias(promoted: Registered, settings: Path) -> None:
    assert reasons(promoted, settings) == []


def test_version_without_attestation_is_taken_back(promoted: Registered, settings: Path) -> None:
    client, name = promoted.client, promoted.release.registration.name
    reports: list[Report] = []
    watcher = Watcher(client, ["champion"], attestation_check(client, settings), True, reports.append)
    watcher.look(name, "champion")
    foreign = client.create_model_version(name, source=promoted.version.source, run_id=promoted.version.run_id)
    client.set_registered_model_alias(name, "champion", foreign.version)
    watcher.look(name, "champion")
    assert promoted.champion == "1"
    assert [report.action for report in reports] == ["moved back"]
    assert "has no attestation" in reports[0].reasons[0]


def test_copied_attestation_does_not_count(promoted: Registered, settings: Path) -> None:
    client, name = promoted.client, promoted.release.registration.name
    foreign = client.create_model_version(
        name,
        source=promoted.version.source,
        run_id=promoted.version.run_id,
        tags={TAG: promoted.version.tags[TAG]},
    )
    assert "about version 1, not 2" in reasons(promoted, settings, str(foreign.version))[0]


def test_exchanged_file_does_not_count(promoted: Registered, settings: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    promoted.client.log_artifact(promoted.version.run_id, str(tmp_path / "model.safetensors"), "model")
    assert "model.safetensors has sha256" in reasons(promoted, settings)[0]


def test_other_aliases_are_free(promoted: Registered, settings: Path) -> None:
    assert reasons(promoted, settings, alias="challenger") == []


def test_unreadable_settings_are_nobodys_fault(promoted: Registered, settings: Path) -> None:
    settings.with_name("policy.yaml").unlink()
    with pytest.raises(UserError, match="policy"):
        reasons(promoted, settings)


def test_store_that_does_not_answer_is_nobodys_fault(
    promoted: Registered, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    release = promoted.release
    elsewhere = replace(release, registration=changed(release.registration, version="2"))
    signer = load_private_key(settings.with_name("release.pem"))
    attestation = sign(release.spec, release.evidence, elsewhere.registration, elsewhere.judge(), signer)
    promoted.client.create_model_version(release.registration.name, source="s3://bucket/model", tags={TAG: attestation})
    with pytest.raises(ConnectionError, match="s3://bucket/model/ cannot be read"):
        reasons(promoted, settings, "2")
