"""What promote, rollback and register tell when MLflow's answers are lost, late or garbled: the truth."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.evidence_factory import release_spec
from tests.registry.conftest import Registered
from tests.storage.faulty_proxy import Forward, Proxy, hang_up, hang_up_halfway, hang_up_when_done
from tokenbuncher.attestation import generate_key, load_private_key
from tokenbuncher.core.errors import UserError
from tokenbuncher.registry import Refused, register, rollback
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.storage import tracking

Enter = Callable[..., Registered]
Fault = Callable[[Forward], None]

MOVE = r"POST .*/registered-models/alias"
READ = r"GET .*/registered-models/get"
TAG = r"POST .*/model-versions/set-tag"
CREATE = r"POST .*/model-versions/create"
ALWAYS = 1000


def answer(status: int, body: bytes, acts: bool) -> Fault:
    """Answers like this, after or instead of acting."""

    def act(forward: Forward) -> None:
        if acts:
            forward.fetch()
        forward.reply(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))], body)

    return act


def late(forward: Forward) -> None:
    """Acts at once, and does not answer as long as anybody waits."""
    forward.fetch()
    forward.rfile.read(1)


AFTER_ACTING = {
    "lost": hang_up_when_done,
    "half": hang_up_halfway,
    "late": late,
    "500": answer(500, b"", acts=True),
    "502": answer(502, b"<html>bad gateway</html>", acts=True),
    "504": answer(504, json.dumps({"error_code": "INTERNAL_ERROR", "message": "too late"}).encode(), acts=True),
    "garbled": answer(200, b'{"registered_mod', acts=True),
    "list": answer(200, b"[]", acts=True),
    "page": answer(200, b"<html>log in</html>", acts=True),
    "403": answer(403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', acts=True),
}
WITHOUT_ACTING = {
    "hang-up": hang_up,
    "500": answer(500, b"", acts=False),
    "503": answer(503, b"", acts=False),
    "empty": answer(200, b"", acts=False),
    "lie": answer(200, b"{}", acts=False),
    "garbled": answer(200, b"{", acts=False),
    "404": answer(404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}', acts=False),
}


@pytest.fixture
def proxy(mlflow_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """Stands before the real server; clients give up on an answer that comes late, and only there soon."""
    late = "late" in request.node.name
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2" if late else "60")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    monkeypatch.setattr(tracking, "PAUSE", 0.005)
    proxy = Proxy(mlflow_server.removeprefix("http://"))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def spec(proxy: Proxy, request: pytest.FixtureRequest) -> ReleaseSpec:
    """A release whose registry is behind the proxy."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return release_spec(tracking={"uri": proxy.url, "model_name": name})


def status_tag(registered: Registered) -> str:
    return registered.version.tags["tokenbuncher.status"]


@pytest.mark.parametrize("fault", AFTER_ACTING)
def test_an_alias_that_was_moved_is_told_as_moved(fault: str, proxy: Proxy, enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    proxy.fault(MOVE, AFTER_ACTING[fault], ALWAYS)
    registered.promote()
    assert (registered.champion, status_tag(registered)) == ("1", "promoted")
    assert "tokenbuncher.promoted.champion" in registered.version.tags


def has_a_champion(spec: ReleaseSpec) -> None:
    """Version 1, which anybody made, has the alias."""
    name = spec.tracking.model_name
    with tracking.connected(spec.tracking_uri()) as mlflow:
        mlflow.create_registered_model(name)
        mlflow.create_model_version(name, source="s3://bucket/model")
        mlflow.set_registered_model_alias(name, spec.tracking.alias, "1")


@pytest.mark.parametrize("fault", WITHOUT_ACTING)
def test_an_alias_that_was_not_moved_is_told_as_where_it_is(
    fault: str, proxy: Proxy, enter: Enter, spec: ReleaseSpec
) -> None:
    has_a_champion(spec)
    second = enter(spec)
    proxy.fault(MOVE, WITHOUT_ACTING[fault], ALWAYS)
    with pytest.raises(Refused, match=r"was not moved to .* version 2: .*It is on version 1"):
        second.promote()
    assert (second.champion, status_tag(second)) == ("1", "pending")
    assert "tokenbuncher.promoted.champion" not in second.version.tags


@pytest.mark.parametrize("fault", ["hang-up", "503", "garbled"])
def test_a_move_that_fails_once_is_tried_again(fault: str, proxy: Proxy, enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    proxy.fault(MOVE, WITHOUT_ACTING[fault], 1)
    registered.promote()
    assert (registered.champion, status_tag(registered)) == ("1", "promoted")
    assert proxy.count(MOVE) == 2


def test_a_move_that_was_done_is_not_sent_again(proxy: Proxy, enter: Enter, spec: ReleaseSpec) -> None:
    """Somebody may have moved the alias on since."""
    registered = enter(spec)
    proxy.fault(MOVE, hang_up_when_done, ALWAYS)
    registered.promote()
    assert proxy.count(MOVE) == 1


def test_a_denial_is_on_record(proxy: Proxy, enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    proxy.fault(MOVE, answer(403, b'{"error_code": "PERMISSION_DENIED", "message": "guard"}', acts=False), ALWAYS)
    with pytest.raises(Refused, match=r"guard\. It is on no version"):
        registered.promote()
    assert (registered.champion, status_tag(registered)) == (None, "refused")


def test_an_alias_that_moves_a_moment_later_is_waited_for(
    proxy: Proxy, enter: Enter, spec: ReleaseSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "PAUSE", 0.5)
    registered = enter(spec)

    def act_later(forward: Forward) -> None:
        threading.Timer(0.1, forward.fetch).start()
        forward.close_connection = True

    proxy.fault(MOVE, act_later, ALWAYS)
    registered.promote()
    assert (registered.champion, status_tag(registered)) == ("1", "promoted")


def lost_and_then(proxy: Proxy, asked: str, fault: Fault, times: int) -> Fault:
    """Acts without an answer; from then on there is another fault."""

    def act(forward: Forward) -> None:
        proxy.fault(asked, fault, times)
        hang_up_when_done(forward)

    return act


@pytest.mark.parametrize("empty", [b"", b"{}", b'{"registered_model": {}}', b'{"registered_model": {"name": "other"}}'])
def test_an_empty_answer_is_not_read_as_no_version(empty: bytes, proxy: Proxy, enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    proxy.fault(MOVE, lost_and_then(proxy, READ, answer(200, empty, acts=False), 3))
    proxy.fault(MOVE, hang_up, ALWAYS)
    registered.promote()
    assert (registered.champion, status_tag(registered)) == ("1", "promoted")


def test_where_the_alias_is_can_remain_unknown(proxy: Proxy, enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    proxy.fault(MOVE, lost_and_then(proxy, READ, hang_up, ALWAYS))
    proxy.fault(MOVE, hang_up, ALWAYS)
    with pytest.raises(Refused, match=r"whether champion is on .* version 1 is not known"):
        registered.promote()
    proxy.faults.clear()
    assert (registered.champion, status_tag(registered)) == ("1", "pending")


def test_a_record_that_cannot_be_written_is_told_beside_the_move(proxy: Proxy, enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)

    def no_more_tags(forward: Forward) -> None:
        proxy.fault(TAG, hang_up, ALWAYS)
        forward.pass_on()

    proxy.fault(MOVE, no_more_tags)
    with pytest.raises(UserError, match=r"champion is .* version 1, but this could not be written down"):
        registered.promote()
    assert (registered.champion, status_tag(registered)) == ("1", "pending")
    proxy.faults.clear()
    registered.promote()
    assert (registered.champion, status_tag(registered)) == ("1", "promoted")


@pytest.mark.parametrize("fault", ["lost", "504", "garbled"])
def test_a_tag_that_was_set_is_set(fault: str, proxy: Proxy, enter: Enter, spec: ReleaseSpec) -> None:
    registered = enter(spec)
    proxy.fault(TAG, AFTER_ACTING[fault], ALWAYS)
    registered.promote()
    assert (registered.champion, status_tag(registered)) == ("1", "promoted")


@pytest.mark.parametrize("fault", ["hang-up", "500", "garbled", "list"])
def test_a_registry_that_cannot_be_read_is_told_before_anything_is_written(
    fault: str, proxy: Proxy, enter: Enter, spec: ReleaseSpec
) -> None:
    registered = enter(spec)
    proxy.fault(READ, (WITHOUT_ACTING | AFTER_ACTING)[fault], ALWAYS)
    with pytest.raises(UserError, match="MLflow failed"):
        registered.promote()
    proxy.faults.clear()
    assert (registered.champion, status_tag(registered)) == (None, "pending")


@pytest.fixture
def two(enter: Enter, spec: ReleaseSpec, tmp_path: Path) -> list[Registered]:
    """Two signed versions, promoted one after the other."""
    generate_key(tmp_path / "key.pem")
    versions = [enter(spec, signer=load_private_key(tmp_path / "key.pem")) for _ in range(2)]
    for registered in versions:
        registered.promote()
    return versions


@pytest.mark.parametrize("fault", ["lost", "late", "502", "garbled"])
def test_a_rollback_that_was_done_is_told_as_done(
    fault: str, proxy: Proxy, two: list[Registered], spec: ReleaseSpec, tmp_path: Path, capsys
) -> None:
    proxy.fault(MOVE, AFTER_ACTING[fault], ALWAYS)
    rollback(spec, [load_private_key(tmp_path / "key.pem").public_key])
    assert two[0].champion == "1"
    assert "version 1 again, after version 2" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["hang-up", "lie"])
def test_a_rollback_that_was_not_done_is_told(
    fault: str, proxy: Proxy, two: list[Registered], spec: ReleaseSpec, tmp_path: Path
) -> None:
    proxy.fault(MOVE, WITHOUT_ACTING[fault], ALWAYS)
    with pytest.raises(Refused, match="It is on version 2"):
        rollback(spec, [load_private_key(tmp_path / "key.pem").public_key])
    assert two[0].champion == "2"


@pytest.mark.parametrize(("fault", "times"), [("lost", 1), ("lost", 2), ("late", 1), ("502", ALWAYS), ("garbled", 1)])
def test_a_version_is_made_once_and_found_whatever_the_answer(
    fault: str, times: int, proxy: Proxy, spec: ReleaseSpec, candidate: Path, tmp_path: Path
) -> None:
    proxy.fault(CREATE, AFTER_ACTING[fault], times)
    registration = register(spec, candidate, tmp_path / "out")
    with tracking.connected(spec.tracking_uri()) as mlflow:
        [version] = mlflow.search_model_versions(f"name = '{registration.name}'")
    assert (str(version.version), version.tags["tokenbuncher.status"]) == (registration.version, "pending")
    assert registration.version == "1"


@pytest.mark.parametrize("fault", ["hang-up", "lie", "500"])
def test_a_version_that_was_not_made_is_not_registered(
    fault: str, proxy: Proxy, spec: ReleaseSpec, candidate: Path, tmp_path: Path
) -> None:
    proxy.fault(CREATE, WITHOUT_ACTING[fault], ALWAYS)
    with pytest.raises(UserError, match="MLflow"):
        register(spec, candidate, tmp_path / "out")
    assert not (tmp_path / "out").exists()
