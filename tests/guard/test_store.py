"""What a guarded server refuses, whoever asks; only the first tests go through tokenbuncher's own promote."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException

from tests.evidence_factory import CANDIDATE, Release, broken_arm
from tests.guard.conftest import Guarded, every_database
from tests.registry.conftest import Registered
from tokenbuncher.attestation import FILE_NAME, TAG, generate_key, load_private_key
from tokenbuncher.core.errors import UserError
from tokenbuncher.guard.store import _location
from tokenbuncher.registry import Refused

Attested = Callable[..., Registered]


def put_on_record(registered: Registered, attestation: str | None = None) -> tuple[str, str]:
    """Sets the attestation's tag as any client can; returns name and version."""
    name, version = registered.release.registration.name, registered.release.registration.version
    text = attestation or (registered.verdict / FILE_NAME).read_text(encoding="utf-8")
    registered.client.set_model_version_tag(name, version, TAG, text)
    return name, version


def assert_denied(guarded: Guarded, name: str, version: str, telling: str) -> None:
    """By alias and by stage, with the reason, as 403."""
    with pytest.raises(RestException, match="tokenbuncher guard") as alias:
        guarded.client.set_registered_model_alias(name, "champion", version)
    with pytest.raises(RestException, match="tokenbuncher guard") as stage:
        guarded.client.transition_model_version_stage(name, version, "Production")
    for refusal in (alias.value, stage.value):
        assert telling in str(refusal)
        assert str(guarded.folder) not in str(refusal)
        assert str(guarded.artifacts.parent) not in str(refusal)
        assert (refusal.error_code, refusal.get_http_status_code()) == ("PERMISSION_DENIED", 403)
    assert "champion" not in guarded.client.get_registered_model(name).aliases
    assert guarded.client.get_model_version(name, version).current_stage == "None"


def weights_of(guarded: Guarded, registered: Registered) -> object:
    run = registered.version.run_id
    return next(guarded.artifacts.glob(f"*/{run}/artifacts/model/model.safetensors"))


def blocked(release: Release) -> Release:
    return release.with_piece("grpo-1000", candidate_arm=broken_arm(release.spec, model=CANDIDATE))


@every_database
def test_promote_moves_the_alias_with_a_signed_pass(attested: Attested) -> None:
    registered = attested()
    registered.promote()
    assert registered.champion == registered.release.registration.version


@every_database
def test_any_client_may_move_it_once_the_attestation_is_on_record(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    guarded.client.set_registered_model_alias(name, "champion", version)
    guarded.client.transition_model_version_stage(name, version, "Production")
    assert guarded.client.get_model_version(name, version).current_stage == "Production"


def test_unsigned_promote_is_refused_with_the_reason(guarded: Guarded, attested: Attested) -> None:
    registered = attested()
    (registered.verdict / FILE_NAME).unlink()
    with pytest.raises(Refused, match="has no attestation"):
        registered.promote()
    assert registered.champion is None


@every_database
def test_without_an_attestation(guarded: Guarded, attested: Attested) -> None:
    registration = attested().release.registration
    assert_denied(guarded, registration.name, registration.version, "has no attestation")


@pytest.mark.parametrize("api", ["api", "ajax-api"])
def test_raw_rest_and_the_user_interface_s_own_api(api: str, guarded: Guarded, attested: Attested) -> None:
    registration = attested().release.registration
    root = f"{guarded.uri}/{api}/2.0/mlflow"
    body = {"name": registration.name, "alias": "champion", "version": registration.version}
    alias = requests.post(f"{root}/registered-models/alias", json=body, timeout=30)
    body = {"name": registration.name, "version": registration.version, "stage": "production"}
    stage = requests.post(f"{root}/model-versions/transition-stage", json=body, timeout=30)
    assert (alias.status_code, stage.status_code) == (403, 403)
    assert "has no attestation" in alias.json()["message"]


def test_signed_by_a_key_that_is_not_trusted(guarded: Guarded, attested: Attested, tmp_path) -> None:
    generate_key(tmp_path / "other.pem")
    name, version = put_on_record(attested(signer=load_private_key(tmp_path / "other.pem")))
    assert_denied(guarded, name, version, "no trusted key has signed")


def test_a_blocked_release(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested(blocked))
    assert_denied(guarded, name, version, "the verdict is FAILED")


def test_the_tag_of_a_version_that_passed(guarded: Guarded, attested: Attested) -> None:
    good = attested()
    other = attested(blocked)
    name, version = put_on_record(other, (good.verdict / FILE_NAME).read_text(encoding="utf-8"))
    assert_denied(guarded, name, version, "it is about version 1, not 2")


@pytest.mark.parametrize("text", ["PASS", "{}", "null", '{"payload": "", "payloadType": "", "signatures": []}'])
def test_forged_tags(text: str, guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested(), text)
    assert_denied(guarded, name, version, "does not get it")


def test_one_bit_of_the_weights(guarded: Guarded, attested: Attested) -> None:
    registered = attested()
    name, version = put_on_record(registered)
    weights = weights_of(guarded, registered)
    content = bytearray(weights.read_bytes())
    content[17] ^= 1
    weights.write_bytes(content)
    assert_denied(guarded, name, version, "file model.safetensors has sha256")


def test_a_file_added_after_the_gate(guarded: Guarded, attested: Attested) -> None:
    registered = attested()
    name, version = put_on_record(registered)
    weights_of(guarded, registered).with_name("modeling.py").write_text("import os", encoding="utf-8")
    assert_denied(guarded, name, version, "file modeling.py was not judged")


def test_a_file_removed_after_the_gate(guarded: Guarded, attested: Attested) -> None:
    registered = attested()
    name, version = put_on_record(registered)
    weights_of(guarded, registered).unlink()
    assert_denied(guarded, name, version, "file model.safetensors is missing")


def test_a_copy_under_another_name(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    copy = guarded.client.copy_model_version(f"models:/{name}/{version}", f"{name}-copy")
    assert_denied(guarded, copy.name, str(copy.version), f"it is about model {name}, not {name}-copy")


@every_database
def test_deleted_and_made_again_with_other_files(guarded: Guarded, attested: Attested, candidate) -> None:
    registered = attested()
    name, _ = put_on_record(registered)
    attestation = (registered.verdict / FILE_NAME).read_text(encoding="utf-8")
    guarded.client.delete_registered_model(name)
    (candidate / "model.safetensors").write_bytes(b"other weights")
    again = attested()
    assert again.release.registration.version == "1"
    name, version = put_on_record(again, attestation)
    assert_denied(guarded, name, version, "file model.safetensors has sha256")


@every_database
def test_a_model_with_a_protected_alias_is_not_renamed(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    guarded.client.set_registered_model_alias(name, "champion", version)
    with pytest.raises(RestException, match="cannot be renamed"):
        guarded.client.rename_registered_model(name, f"{name}-renamed")


@every_database
def test_renamed_before_the_move(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    guarded.client.rename_registered_model(name, f"{name}-renamed")
    assert_denied(guarded, f"{name}-renamed", version, f"it is about model {name}, not {name}-renamed")


def test_a_revoked_key(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    with guarded.changed(revoked=[guarded.signer.public_key.keyid]):
        assert_denied(guarded, name, version, "no key is trusted")


def test_another_policy_than_the_one_configured(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    policy = (guarded.folder / "policy.yaml").read_text(encoding="utf-8")
    (guarded.folder / "other.yaml").write_text(policy.replace("valid_days: 90", "valid_days: 91"), encoding="utf-8")
    protected = {"policy": "other.yaml", "keys": ["trusted.pub"]}
    with guarded.changed(aliases={"champion": protected}, stages={"Production": protected}):
        assert_denied(guarded, name, version, "it was judged by policy")


def test_users_that_may_not(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    protected = {"policy": "policy.yaml", "keys": ["trusted.pub"], "users": ["release-bot"]}
    with guarded.changed(aliases={"champion": protected}, stages={"Production": protected}):
        assert_denied(guarded, name, version, "only release-bot may move it, not somebody without a name")


@pytest.mark.parametrize("change", [{"revoked": ["x"]}, {"aliases": {"champion": {"policy": "none.yaml", "keys": []}}}])
def test_settings_that_cannot_be_read_move_nothing(change: dict, guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    with guarded.changed(**change):
        assert_denied(guarded, name, version, "not a valid guard document")


@every_database
def test_what_is_not_protected_moves_freely(guarded: Guarded, attested: Attested) -> None:
    registration = attested().release.registration
    guarded.client.set_registered_model_alias(registration.name, "challenger", registration.version)
    guarded.client.transition_model_version_stage(registration.name, registration.version, "Staging")
    assert guarded.client.get_registered_model(registration.name).aliases == {"challenger": registration.version}


@every_database
def test_a_missing_version_is_no_way_in(guarded: Guarded, attested: Attested) -> None:
    name = attested().release.registration.name
    with pytest.raises(MlflowException):
        guarded.client.set_registered_model_alias(name, "champion", "99")
    assert guarded.client.get_registered_model(name).aliases == {}


@pytest.mark.parametrize(
    "host", ["http://127.0.0.1:9/api/2.0/mlflow-artifacts/artifacts", "mlflow-artifacts://127.0.0.1:9"]
)
def test_the_same_path_on_another_host(host: str, guarded: Guarded, attested: Attested) -> None:
    """Clients would read there, and the guard in its own store, where the files are the judged ones."""
    registered = attested()
    name, _ = put_on_record(registered)
    path = guarded.client.get_run(registered.version.run_id).info.artifact_uri.partition(":/")[2]
    body = {"name": name, "source": f"{host}/{path.strip('/')}/model", "run_id": registered.version.run_id}
    made = requests.post(f"{guarded.uri}/api/2.0/mlflow/model-versions/create", json=body, timeout=30)
    if made.ok:  # MLflow itself refuses most of these
        assert_denied(guarded, name, made.json()["model_version"]["version"], "does not get it")
    with pytest.raises(UserError, match="another server's"):
        _location(body["source"])
