"""The watcher's check from outside: the guard's, on versions as `promote` leaves them on a real server."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from tests.evidence_factory import changed, release_spec
from tests.guard.watch.conftest import Mlflow
from tests.registry.conftest import Registered, candidate, enter
from tokenbuncher.attestation import (
    REFUSED_TAG,
    TAG,
    attestation_digest,
    generate_key,
    load_private_key,
    sign,
)
from tokenbuncher.core.errors import UserError
from tokenbuncher.guard import load_guard
from tokenbuncher.guard.watch import Place, Report, Watcher, attestation_check

__all__ = ["candidate", "enter"]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Guard settings for `champion`, beside the key that is trusted."""
    folder = tmp_path / "guard"
    folder.mkdir()
    generate_key(folder / "release.pem")
    (folder / "policy.yaml").write_text(yaml.safe_dump(release_spec().policy.model_dump(mode="json")), encoding="utf-8")
    protected = {"policy": "policy.yaml", "keys": ["release.pub"]}
    (folder / "guard.yaml").write_text(
        yaml.safe_dump({"apiVersion": "tokenbuncher/v1", "aliases": {"champion": protected}}), encoding="utf-8"
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
    check = attestation_check(registered.client, settings)
    return check(registered.release.registration.name, version, Place("alias", alias))


def test_promoted_version_may_have_the_alias(promoted: Registered, settings: Path) -> None:
    assert reasons(promoted, settings) == []


def test_version_without_attestation_is_taken_back(promoted: Registered, settings: Path) -> None:
    client, name = promoted.client, promoted.release.registration.name
    reports: list[Report] = []
    check = attestation_check(client, settings)
    watcher = Watcher(client, lambda: load_guard(settings), check, revert=True, report=reports.append)
    watcher.look(name)
    foreign = client.create_model_version(name, source=promoted.version.source, run_id=promoted.version.run_id)
    client.set_registered_model_alias(name, "champion", foreign.version)
    watcher.look(name)
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


def changed_settings(settings: Path, **changes: object) -> None:
    settings.write_text(
        yaml.safe_dump(yaml.safe_load(settings.read_text(encoding="utf-8")) | changes), encoding="utf-8"
    )


@pytest.mark.parametrize("alias", ["Champion", "CHAMPION", "chámpion", "champion\u200b"])
def test_an_alias_counts_in_any_letters(alias: str, promoted: Registered, settings: Path) -> None:
    promoted.client.delete_model_version_tag(promoted.release.registration.name, "1", TAG)
    assert "has no attestation" in reasons(promoted, settings, alias=alias)[0]


def test_a_stage_is_checked_like_an_alias(promoted: Registered, settings: Path) -> None:
    changed_settings(settings, stages={"Production": {"policy": "policy.yaml", "keys": ["release.pub"]}})
    name, check = promoted.release.registration.name, attestation_check(promoted.client, settings)
    assert check(name, "1", Place("stage", "Production")) == []
    promoted.client.delete_model_version_tag(name, "1", TAG)
    assert "has no attestation" in check(name, "1", Place("stage", "Production"))[0]
    assert check(name, "1", Place("stage", "Staging")) == []


def test_what_is_withdrawn_does_not_count(promoted: Registered, settings: Path) -> None:
    name = promoted.release.registration.name
    digest = attestation_digest(promoted.version.tags[TAG])
    changed_settings(settings, revoked_attestations=[digest])
    assert reasons(promoted, settings) == [f"attestation {digest[:12]} is revoked"]
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    changed_settings(settings, revoked_attestations=[], not_before={name: later})
    assert "nothing counts that was made before" in reasons(promoted, settings)[0]
    changed_settings(settings, not_before={})
    assert reasons(promoted, settings) == []
    promoted.client.set_model_version_tag(name, "1", REFUSED_TAG, later)
    assert "refused the version" in reasons(promoted, settings)[0]


def test_the_tag_of_a_prompt_hides_no_version(promoted: Registered, settings: Path) -> None:
    name = promoted.release.registration.name
    promoted.client.set_model_version_tag(name, "1", "mlflow.prompt.is_prompt", "true")
    promoted.client.set_registered_model_tag(name, "mlflow.prompt.is_prompt", "true")
    assert reasons(promoted, settings) == []


@pytest.mark.parametrize("place", ["s3://elsewhere/model", "folder"])
def test_files_in_a_place_that_is_not_the_server_s(
    place: str, promoted: Registered, settings: Path, candidate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker changes them there after they were looked at."""
    attestation = signed_for(promoted, settings, "2")
    version = promoted.client.create_model_version(
        promoted.release.registration.name,
        source=promoted.version.source,
        run_id=promoted.version.run_id,
        tags={TAG: attestation},
    )
    location = candidate.as_uri() if place == "folder" else place
    monkeypatch.setattr("tokenbuncher.guard.watch.check.located", lambda *_: location)
    assert reasons(promoted, settings, str(version.version)) == [
        "its files lie outside of the server's artifact root and of artifact_roots"
    ]


def signed_for(registered: Registered, settings: Path, version: str) -> str:
    release = registered.release
    other = replace(release, registration=changed(release.registration, version=version))
    signer = load_private_key(settings.with_name("release.pem"))
    return sign(release.spec, release.evidence, other.registration, verdict=other.judge(), signer=signer)


def test_store_that_does_not_answer_is_nobodys_fault(
    promoted: Registered, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    changed_settings(settings, artifact_roots=["s3://bucket"])
    name, attestation = promoted.release.registration.name, signed_for(promoted, settings, "2")
    promoted.client.create_model_version(name, source="s3://bucket/model", tags={TAG: attestation})
    with pytest.raises(ConnectionError, match="s3://bucket/model/ cannot be read"):
        reasons(promoted, settings, "2")
