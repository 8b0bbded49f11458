"""What is done with versions after the gate: a race for the alias, the way back, the overview."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.evidence_factory import CANDIDATE, Release, broken_arm, release_spec, scores
from tests.registry.conftest import Registered
from tokenbuncher.attestation import generate_key, load_private_key
from tokenbuncher.errors import UserError
from tokenbuncher.registry import Refused, rollback, status
from tokenbuncher.registry import _promote as promotion
from tokenbuncher.settings import ReleaseSpec

Enter = Callable[..., Registered]


def broken(release: Release) -> Release:
    return release.with_piece("grpo-1000", candidate_arm=broken_arm(release.spec, model=CANDIDATE))


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


def test_fifty_promotions_at_once_leave_one_champion_and_a_consistent_record(enter: Enter, mlflow_server: str) -> None:
    spec = release_spec(tracking={"uri": mlflow_server, "model_name": "fifty"})
    contenders = [enter(spec) for _ in range(5)]
    together = threading.Barrier(50)

    def contend(number: int) -> bool:
        together.wait()
        try:
            contenders[number % 5].promote()
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(50) as pool:
        won = list(pool.map(contend, range(50)))
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


def test_rollback_goes_back_one_by_one(enter: Enter, spec: ReleaseSpec) -> None:
    versions = [enter(spec) for _ in range(3)]
    for registered in versions:
        registered.promote()
    rollback(spec)
    assert versions[0].champion == "2"
    rollback(spec)
    assert versions[0].champion == "1"
    with pytest.raises(Refused, match="was champion before version 1"):
        rollback(spec)
    assert versions[0].champion == "1"


def test_rollback_undoes_a_move_by_other_means(enter: Enter, spec: ReleaseSpec) -> None:
    judged, other = enter(spec), enter(spec)
    judged.promote()
    judged.client.set_registered_model_alias(spec.tracking.model_name, "champion", other.release.registration.version)
    rollback(spec)
    assert judged.champion == "1"


def test_rollback_from_nothing(enter: Enter, spec: ReleaseSpec) -> None:
    enter(spec)
    with pytest.raises(Refused, match="nothing to go back from"):
        rollback(spec)


def test_rollback_does_not_go_to_a_version_that_was_changed(enter: Enter, spec: ReleaseSpec) -> None:
    first, second = enter(spec), enter(spec)
    first.promote()
    second.promote()
    model = spec.output.root / "mlartifacts" / first.version.run_id / "artifacts" / "model"
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(Refused, match="its files are not those that were judged"):
        rollback(spec)
    assert first.champion == "2"


@pytest.mark.parametrize(("field", "value"), [("outcome", "BLOCK"), ("version", "7")])
def test_rollback_does_not_believe_another_verdict(field: str, value: str, enter: Enter, spec: ReleaseSpec) -> None:
    first, second, blocked = enter(spec), enter(spec), enter(spec, broken)
    first.promote()
    second.promote()
    kept = spec.output.root / "mlartifacts" / first.version.run_id / "artifacts" / "verdict.json"
    text = kept.read_text()
    kept.write_text(
        (blocked.verdict / "verdict.json").read_text()
        if field == "outcome"
        else text.replace('"version": "1"', f'"version": "{value}"')
    )
    with pytest.raises(Refused, match="its verdict is"):
        rollback(spec)
    assert first.champion == "2"


def test_rollback_does_not_go_to_an_expired_verdict(enter: Enter, spec: ReleaseSpec) -> None:
    first, second = enter(spec), enter(spec)
    first.promote()
    second.promote()
    kept = spec.output.root / "mlartifacts" / first.version.run_id / "artifacts" / "verdict.json"
    kept.write_text(re.sub(r'"expires": "20\d\d', '"expires": "2020', kept.read_text()))
    with pytest.raises(Refused, match="its verdict expired at 2020"):
        rollback(spec)


def test_rollback_does_not_go_to_a_verdict_by_another_policy(enter: Enter, spec: ReleaseSpec) -> None:
    first, second = enter(spec), enter(spec)
    first.promote()
    second.promote()
    tightened = spec.model_copy(update={"policy": spec.policy.model_copy(update={"max_gibberish": 0.01})})
    with pytest.raises(Refused, match="its verdict is by policy"):
        rollback(tightened)
    assert first.champion == "2"


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

    def prudish(release: Release) -> Release:
        return release.with_piece("safety", candidate_benign=scores(release.spec, 420, refused=100))

    enter(waived, prudish).promote()
    assert "PASS with 1 rule waived  promoted  champion" in status(spec)


def test_status_shows_versions_verdicts_and_aliases(enter: Enter, spec: ReleaseSpec, tmp_path: Path) -> None:
    generate_key(tmp_path / "key.pem")
    enter(spec).promote()
    enter(spec, signer=load_private_key(tmp_path / "key.pem")).promote()
    with pytest.raises(Refused):
        enter(spec, broken).promote()
    enter(spec)
    name, _, *lines = status(spec).splitlines()
    assert name == spec.tracking.model_name
    cells = [line.split() for line in lines]
    assert [row[:4] for row in cells] == [
        ["4", "-", "pending", "-"],
        ["3", "BLOCK", "refused", "-"],
        ["2", "PASS", "promoted", "champion"],
        ["1", "PASS", "superseded", "-"],
    ]
    assert [row[-2] for row in cells] == ["no", "no", "yes", "no"]
