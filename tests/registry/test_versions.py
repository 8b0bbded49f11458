"""What is done with versions after the gate: a race for the alias, the way back, the overview."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from tests.evidence_factory import CANDIDATE, Release, broken_arm, changed, prudish, release_spec
from tests.registry.conftest import Registered
from tokenbuncher.attestation import (
    FILE_NAME,
    REFUSED_TAG,
    TAG,
    envelope,
    generate_key,
    load_private_key,
    load_public_key,
)
from tokenbuncher.core.errors import UserError
from tokenbuncher.registry import Refused, rollback, status
from tokenbuncher.registry import _promote as promotion
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import read_verdict

Enter = Callable[..., Registered]


def broken(release: Release) -> Release:
    return release.with_piece("grpo-1000", candidate_arm=broken_arm(release.spec, model=CANDIDATE))


def refusing(release: Release) -> Release:
    """A release that needs a waiver."""
    return prudish(release, refused=100)


def test_a_champion_that_moves_meanwhile_is_left(enter: Enter, spec: ReleaseSpec, monkeypatch) -> None:
    first, second, late = enter(spec), enter(spec), enter(spec)
    first.promote()

    def changes(*_: object) -> list[str]:  # while the late one is being checked, the second gets there
        monkeypatch.undo()
        second.promote()
        return []

    monkeypatch.setattr(promotion, "_changes", changes)
    with pytest.raises(Refused, match="it went from version 1 to version 2 in the meantime"):
        late.promote()
    assert late.champion == "2"
    assert "tokenbuncher.promoted.champion" not in late.version.tags


def test_many_promotions_at_once_leave_one_champion_and_a_consistent_record(enter: Enter, mlflow_server: str) -> None:
    spec = release_spec(tracking={"uri": mlflow_server, "model_name": "many"})
    contenders = [enter(spec) for _ in range(5)]
    together = threading.Barrier(20)

    def contend(number: int) -> bool:
        together.wait()
        try:
            contenders[number % 5].promote()
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(contend, range(20)))
    promoted = {number % 5 for number, success in enumerate(won) if success}
    recorded = {n for n, one in enumerate(contenders) if one.version.tags["tokenbuncher.status"] == "promoted"}
    assert recorded == promoted
    assert int(contenders[0].champion) - 1 in promoted
    rows = [line.split() for line in status(spec).splitlines()[2:]]
    assert [row[0] for row in rows if "champion" in row] == [contenders[0].champion]
    assert all(row[2] in ("promoted", "superseded", "pending") for row in rows)
    assert sum(row[2] == "promoted" for row in rows) == 1


@pytest.mark.parametrize("ask", [status, rollback])
def test_where_nothing_was_registered_nothing_is_made(ask: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing has been registered yet: there is no .*mlflow\.db"):
        ask(release_spec(output={"root": str(tmp_path / "runs")}))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def key(tmp_path: Path) -> CryptoSigner:
    """A key to sign with."""
    generate_key(tmp_path / "key.pem")
    return load_private_key(tmp_path / "key.pem")


@pytest.fixture
def two(enter: Enter, spec: ReleaseSpec, key: CryptoSigner) -> list[Registered]:
    """Two signed versions, promoted one after the other."""
    versions = [enter(spec, signer=key) for _ in range(2)]
    for registered in versions:
        registered.promote()
    return versions


def set_tag(registered: Registered, key: str, value: str) -> None:
    registration = registered.release.registration
    registered.client.set_model_version_tag(registration.name, registration.version, key, value)


def assert_no_way_back(registered: Registered, spec: ReleaseSpec, key: CryptoSigner, telling: str) -> None:
    with pytest.raises(Refused, match=telling):
        rollback(spec, [key.public_key])
    assert registered.champion == "2"


def test_rollback_goes_back_one_by_one(enter: Enter, spec: ReleaseSpec, two: list[Registered], key) -> None:
    enter(spec, signer=key).promote()
    rollback(spec, [key.public_key])
    assert two[0].champion == "2"
    rollback(spec, [key.public_key])
    assert two[0].champion == "1"
    with pytest.raises(Refused, match="was champion before version 1"):
        rollback(spec, [key.public_key])
    assert two[0].champion == "1"


def test_rollback_undoes_a_move_by_other_means(enter: Enter, spec: ReleaseSpec, key: CryptoSigner) -> None:
    judged, other = enter(spec, signer=key), enter(spec)
    judged.promote()
    judged.client.set_registered_model_alias(spec.tracking.model_name, "champion", other.release.registration.version)
    rollback(spec, [key.public_key])
    assert judged.champion == "1"


def test_rollback_from_nothing(enter: Enter, spec: ReleaseSpec) -> None:
    enter(spec)
    with pytest.raises(Refused, match="nothing to go back from"):
        rollback(spec)


def test_rollback_does_not_go_to_a_version_that_was_changed(two: list[Registered], spec: ReleaseSpec, key) -> None:
    model = spec.output.root / "mlartifacts" / two[0].version.run_id / "artifacts" / "model"
    (model / "model.safetensors").write_bytes(b"other weights")
    assert_no_way_back(two[1], spec, key, "file model.safetensors has sha256")


def test_rollback_believes_no_word_that_a_trusted_key_has_not_signed(two: list[Registered], spec: ReleaseSpec) -> None:
    """Whoever may write to the artifact store can put any verdict beside a version."""
    with pytest.raises(Refused, match=r"no key is trusted.* promote the recorded release of version 1 again"):
        rollback(spec)
    assert two[1].champion == "2"
    two[0].promote()
    assert two[1].champion == "1"


def test_rollback_does_not_go_to_a_version_without_an_attestation(enter: Enter, spec: ReleaseSpec, key) -> None:
    forged, second = enter(spec, broken), enter(spec, signer=key)
    second.promote()
    passing = read_verdict(second.verdict)
    registration = forged.release.registration
    verdict = changed(passing, version="1", candidate=registration.digest)
    forged.client.log_text(forged.version.run_id, verdict.model_dump_json(), "verdict.json")
    third = enter(spec, signer=key)
    third.promote()
    set_tag(forged, "tokenbuncher.promoted.champion", "2026-01-01T00:00:00+00:00")
    set_tag(second, "tokenbuncher.promoted.champion", "2025-01-01T00:00:00+00:00")
    with pytest.raises(Refused, match="version 1: it has no attestation"):
        rollback(spec, [key.public_key])
    assert third.champion == "3"


def test_rollback_does_not_go_to_an_attestation_by_another_key(two: list[Registered], spec, key, tmp_path) -> None:
    other = load_public_key(generate_key(tmp_path / "other.pem"))
    with pytest.raises(Refused, match="no trusted key has signed"):
        rollback(spec, [other])
    assert two[1].champion == "2"


def test_rollback_does_not_go_to_the_attestation_of_another_version(two: list[Registered], spec, key) -> None:
    set_tag(two[0], TAG, two[1].version.tags[TAG])
    assert_no_way_back(two[1], spec, key, "it is about version 2, not 1")


@pytest.mark.parametrize("text", ["", "PASS", "{}"], ids=["empty", "word", "bare"])
def test_rollback_does_not_go_to_garbage(text: str, two: list[Registered], spec: ReleaseSpec, key) -> None:
    set_tag(two[0], TAG, text)
    assert_no_way_back(two[1], spec, key, "is not a DSSE envelope")


def test_rollback_does_not_go_to_a_version_that_was_refused_since(two: list[Registered], spec, key) -> None:
    set_tag(two[0], REFUSED_TAG, datetime.now(UTC).isoformat())
    assert_no_way_back(two[1], spec, key, "refused the version")


class Tomorrow(datetime):
    """The clock of the day after."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime.now(tz) + timedelta(days=1)


def test_rollback_does_not_go_to_an_expired_verdict(
    enter: Enter, spec: ReleaseSpec, key: CryptoSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    waiver = {"rule": "over-refusal", "approver": "jane", "reason": "on purpose", "expires": soon}
    brief = release_spec(
        tracking={"model_name": spec.tracking.model_name},
        output={"root": str(spec.output.root)},
        policy={**spec.policy.model_dump(), "waivers": [waiver]},
    )
    first, second = (enter(brief, refusing, signer=key) for _ in range(2))
    first.promote()
    second.promote()
    monkeypatch.setattr(envelope, "datetime", Tomorrow)
    assert_no_way_back(second, brief, key, "it expired at")


def test_rollback_does_not_go_to_a_verdict_by_another_policy(two: list[Registered], spec: ReleaseSpec, key) -> None:
    tightened = spec.model_copy(update={"policy": spec.policy.model_copy(update={"max_gibberish": 0.01})})
    assert_no_way_back(two[1], tightened, key, "it was judged by policy")


def test_rollback_does_not_go_to_a_version_that_had_another_alias(enter: Enter, spec: ReleaseSpec) -> None:
    canary = spec.model_copy(update={"tracking": spec.tracking.model_copy(update={"alias": "canary"})})
    enter(spec).promote(canary)
    champion = enter(spec)
    champion.promote()
    with pytest.raises(Refused, match="was champion before version 2"):
        rollback(spec)
    assert champion.champion == "2"


def test_status_calls_no_waived_pass_a_plain_one(enter: Enter, spec: ReleaseSpec) -> None:
    waiver = {"rule": "over-refusal", "approver": "jane", "reason": "on purpose"}
    ends = datetime.now(UTC) + timedelta(days=10)
    policy = {**spec.policy.model_dump(mode="json"), "waivers": [{**waiver, "expires": ends.isoformat()}]}
    waived = ReleaseSpec.model_validate({**spec.model_dump(mode="json"), "policy": policy})

    enter(waived, refusing).promote()
    assert "PASS with 1 rule waived  promoted  champion" in status(spec)


def test_status_shows_versions_verdicts_and_aliases(enter: Enter, spec: ReleaseSpec, key: CryptoSigner) -> None:
    enter(spec).promote()
    enter(spec, signer=key).promote()
    with pytest.raises(Refused):
        enter(spec, broken).promote()
    enter(spec)
    name, *_ = status(spec).splitlines()
    assert name == spec.tracking.model_name
    cells = rows(spec, key)
    assert [row[:4] for row in cells] == [
        ["4", "-", "pending", "-"],
        ["3", "BLOCK", "refused", "-"],
        ["2", "PASS", "promoted", "champion"],
        ["1", "PASS", "superseded", "-"],
    ]
    assert [row[-2] for row in cells] == ["no", "no", "yes", "no"]


def rows(spec: ReleaseSpec, *keys: CryptoSigner) -> list[list[str]]:
    """The cells of what status shows, row by row."""
    return [line.split() for line in status(spec, [key.public_key for key in keys]).splitlines()[2:]]


def test_status_says_what_a_signature_is_worth(enter: Enter, spec: ReleaseSpec, key, tmp_path: Path) -> None:
    generate_key(tmp_path / "other.pem")
    good, by_other = enter(spec, signer=key), enter(spec, signer=load_private_key(tmp_path / "other.pem"))
    for registered in (good, by_other):
        set_tag(registered, TAG, (registered.verdict / FILE_NAME).read_text(encoding="utf-8"))
    spoilt = {
        "copied": (good.verdict / FILE_NAME).read_text(encoding="utf-8"),
        "word": "PASS",
        "empty": "",
        "bare": "{}",
    }
    for text in spoilt.values():
        set_tag(enter(spec), TAG, text)
    worth = {row[0]: row[-2] for row in rows(spec, key)}
    assert worth == {"1": "yes", "2": "untrusted", "3": "another's", "4": "garbage", "5": "garbage", "6": "garbage"}
    assert {row[-2] for row in rows(spec)} == {"unverified", "another's", "garbage"}


@pytest.mark.parametrize("value", ["true", "True", "false"])
def test_no_version_hides_behind_the_tag_of_a_prompt(value: str, two: list[Registered], spec: ReleaseSpec, key) -> None:
    set_tag(two[1], "mlflow.prompt.is_prompt", value)
    two[0].client.set_registered_model_tag(spec.tracking.model_name, "mlflow.prompt.is_prompt", value)
    assert [row[0] for row in rows(spec)] == ["2", "1"]
    rollback(spec, [key.public_key])
    assert two[1].champion == "1"
