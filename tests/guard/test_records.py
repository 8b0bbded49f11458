"""An old PASS does not outlive what was said since: revoked attestations, a not-before, a refusal on record."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from mlflow.exceptions import RestException

from tests.guard.conftest import Guarded, every_database
from tests.guard.test_store import assert_denied, blocked, put_on_record
from tests.registry.conftest import Registered, judge_again
from tokenbuncher.attestation import FILE_NAME, REFUSED_TAG, TAG, attestation_digest, sign
from tokenbuncher.registry import Refused
from tokenbuncher.verdict import judge_release

__all__ = ["judge_again"]

Attested = Callable[..., Registered]


def moved(guarded: Guarded, name: str, version: str) -> bool:
    """Whether the alias goes there."""
    guarded.client.set_registered_model_alias(name, "champion", version)
    guarded.client.delete_registered_model_alias(name, "champion")
    return True


def test_a_revoked_attestation(guarded: Guarded, attested: Attested) -> None:
    registered = attested()
    name, version = put_on_record(registered)
    digest = attestation_digest((registered.verdict / FILE_NAME).read_text(encoding="utf-8"))
    with guarded.changed(revoked_attestations=[digest]):
        assert_denied(guarded, name, version, f"attestation {digest[:12]} is revoked")
    with guarded.changed(revoked_attestations=["0" * 64]):
        assert moved(guarded, name, version)


def test_what_was_signed_before_a_model_s_not_before(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    now = datetime.now(UTC)
    with guarded.changed(not_before={name: (now + timedelta(minutes=1)).isoformat()}):
        assert_denied(guarded, name, version, f"of {name} nothing counts that was made before")
    with guarded.changed(not_before={name: (now - timedelta(hours=1)).isoformat(), "other": now.isoformat()}):
        assert moved(guarded, name, version)


@every_database
def test_an_old_pass_does_not_outlive_a_block(guarded: Guarded, attested: Attested, judge_again: Attested) -> None:
    passed = attested()
    passed.promote()
    name, version = passed.release.registration.name, passed.release.registration.version
    attestation = passed.version.tags[TAG]
    refused = judge_again(passed, blocked, guarded.signer)
    with pytest.raises(Refused, match="It still has champion"):
        refused.promote()
    guarded.client.delete_registered_model_alias(name, "champion")
    assert_denied(guarded, name, version, "the verdict is FAILED")
    put_on_record(passed, attestation)
    assert_denied(
        guarded, name, version, "refused the version, or it was renamed; what was signed before counts no longer"
    )
    with pytest.raises(Refused, match="has refused the version"):
        passed.promote()

    again = judge_again(passed, lambda release: release, guarded.signer)
    again.promote()
    assert again.champion == version


def set_tag(guarded: Guarded, name: str, version: str, key: str, value: str) -> None:
    guarded.client.set_model_version_tag(name, version, key, value)


@every_database
def test_nobody_takes_a_refusal_back(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    now = datetime.now(UTC)
    set_tag(guarded, name, version, REFUSED_TAG, now.isoformat())
    attempts = [
        (now - timedelta(days=1)).isoformat(),
        (now - timedelta(hours=1)).astimezone().isoformat(),
        now.replace(tzinfo=None).isoformat(),
        "9999-01-01T00:00:00+00:00",
        "never",
        "",
    ]
    for value in attempts:
        with pytest.raises(RestException, match="the record stays"):
            set_tag(guarded, name, version, REFUSED_TAG, value)
    with pytest.raises(RestException, match="the record stays"):
        guarded.client.delete_model_version_tag(name, version, REFUSED_TAG)
    for key in (REFUSED_TAG.upper(), f"{REFUSED_TAG} ", REFUSED_TAG.replace("e", "é", 1)):
        with suppress(RestException):  # some databases take the key for another one
            set_tag(guarded, name, version, key, "2020-01-01T00:00:00+00:00")
        with suppress(RestException):
            guarded.client.delete_model_version_tag(name, version, key)
    assert guarded.client.get_model_version(name, version).tags[REFUSED_TAG] == now.isoformat()
    assert_denied(guarded, name, version, "refused the version")
    set_tag(guarded, name, version, REFUSED_TAG, (now + timedelta(seconds=1)).isoformat())


@every_database
def test_a_record_under_a_key_in_other_letters_hides_nothing(guarded: Guarded, attested: Attested) -> None:
    """Where the database takes the keys for one, what promote writes goes into the row that is there."""
    name, version = put_on_record(attested())
    set_tag(guarded, name, version, REFUSED_TAG.upper(), "2020-01-01T00:00:00+00:00")
    set_tag(guarded, name, version, REFUSED_TAG, datetime.now(UTC).isoformat())
    assert_denied(guarded, name, version, "refused the version")


@pytest.mark.parametrize("value", ["never", "9999-01-01T00:00:00+00:00", ""])
def test_a_record_without_sense_is_not_taken(value: str, guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    with pytest.raises(RestException, match="followed only by that of a later refusal, until now"):
        set_tag(guarded, name, version, REFUSED_TAG, value)
    assert moved(guarded, name, version)


@every_database
def test_other_tags_are_free(guarded: Guarded, attested: Attested) -> None:
    name, version = put_on_record(attested())
    set_tag(guarded, name, version, "note", "1")
    set_tag(guarded, name, version, "note", "2")
    guarded.client.delete_model_version_tag(name, version, "note")
    with pytest.raises(RestException) as error:
        set_tag(guarded, name, "99", "note", "1")
    assert error.value.error_code == "RESOURCE_DOES_NOT_EXIST"


@every_database
def test_a_version_that_was_made_again_has_no_past(guarded: Guarded, attested: Attested) -> None:
    """Deleting the model deletes the record of a refusal, and the next version 1 has the same name and files."""
    registered = attested()
    release, registration = registered.release, registered.release.registration
    before = datetime.now(UTC) - timedelta(minutes=10)
    verdict = judge_release(release.spec, release.evidence, registration, now=before)
    attestation = sign(release.spec, release.evidence, registration, verdict=verdict, signer=guarded.signer)
    name, version = put_on_record(registered, attestation)
    assert_denied(guarded, name, version, "before the version was")


@every_database
def test_a_name_that_another_model_takes_over_brings_no_past_along(guarded: Guarded, attested: Attested) -> None:
    """Version 1 of either has the same files; the one was refused, the other was made before the PASS was signed."""
    other = attested(name=f"other-{uuid4().hex}")
    name, version = put_on_record(attested())
    set_tag(guarded, name, version, REFUSED_TAG, datetime.now(UTC).isoformat())
    attestation = guarded.client.get_model_version(name, version).tags[TAG]
    guarded.client.rename_registered_model(name, f"{name}-away")
    guarded.client.rename_registered_model(other.release.registration.name, name)
    set_tag(guarded, name, "1", TAG, attestation)
    assert_denied(guarded, name, "1", "refused the version, or it was renamed")
    with pytest.raises(RestException, match="the record stays"):
        guarded.client.delete_model_version_tag(name, "1", REFUSED_TAG)
