"""The watcher against a real MLflow server, by real webhooks and by polling."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from threading import Event, Thread, Timer

import pytest
import requests
from mlflow import MlflowClient

from tests.guard.watch.conftest import Mlflow, answers, free_port, wait_until
from tests.guard.watch.test_webhook import EVENT, signed
from tests.storage.faulty_proxy import Proxy, hang_up, hang_up_when_done
from tokenbuncher.core.errors import UserError
from tokenbuncher.guard import GuardSettings, Protected
from tokenbuncher.guard.watch import Place, Report, Watcher, poll, serve, stopped_by_signals
from tokenbuncher.guard.watch.service import Check
from tokenbuncher.storage.tracking import TRIES, alias_holder, registry_of

PROTECTED = Protected(policy=Path("policy.yaml"), keys=[Path("release.pub")])
SECRET = "the secret of these webhooks"


def settings() -> GuardSettings:
    """What is protected."""
    return GuardSettings(
        apiVersion="tokenbuncher/v1", aliases={"champion": PROTECTED}, stages={"Production": PROTECTED}
    )


@dataclass
class Scene:
    """A model whose versions 1 and 2 may have the alias and 3 and 4 must not, and all that a watcher did there."""

    client: MlflowClient
    name: str
    good: set[str] = field(default_factory=lambda: {"1", "2"})
    checked: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def check(self, name: str, version: str, place: Place) -> list[str]:
        """What the watcher asks; of other tests' models it knows nothing bad."""
        if name != self.name:
            return []
        self.checked.append(version)
        return [] if version in self.good else ["it has no attestation"]

    def watcher(self, revert: bool = True, check: Check | None = None) -> Watcher:
        """A watcher of the alias."""
        return Watcher(self.client, settings, check or self.check, revert=revert, report=self.reports.append)

    def move(self, version: str, alias: str = "champion") -> None:
        """Moves the alias, as anyone can; also of what has the tag of a prompt."""
        registry_of(self.client).set_registered_model_alias(self.name, alias, version)

    @property
    def seen(self) -> list[str]:
        """The versions checked, without repeats: the start, or the webhook of another alias, can find one first."""
        return [version for version, _ in groupby(self.checked)]

    @property
    def champion(self) -> str | None:
        """The version that has the alias."""
        return alias_holder(self.client, self.name, "champion")

    @property
    def actions(self) -> list[tuple[str | None, str, str | None]]:
        """What was reported: version, what was done, who has the alias again."""
        return [(report.version, report.action, report.back_to) for report in self.reports]


@pytest.fixture
def scene(mlflow: Mlflow, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A model with four versions, of which later tests' watchers see nothing."""
    scene = Scene(mlflow.client, re.sub(r"\W+", "-", request.node.name))
    scene.client.create_registered_model(scene.name)
    for _ in range(4):
        scene.client.create_model_version(scene.name, source="s3://bucket/model")
    yield scene
    registry = registry_of(mlflow.client)
    others = [model.name for model in registry.search_registered_models() if model.name.startswith(f"{scene.name}-")]
    for name in (scene.name, *others):
        registry.delete_registered_model(name)


def event(name: str) -> bytes:
    """The body of a webhook: the alias of a model was set."""
    return json.dumps({**EVENT, "data": {"name": name, "alias": "champion", "version": "1"}}).encode()


@contextmanager
def serving(watcher: Watcher) -> Iterator[str]:
    """The watcher's service; gives its address."""
    port, stop = free_port(), Event()
    thread = Thread(target=serve, args=(watcher, "127.0.0.1", port), kwargs={"secret": SECRET, "stop": stop})
    thread.start()
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"))
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        thread.join()


@contextmanager
def hooked(scene: Scene, watcher: Watcher) -> Iterator[str]:
    """The service, with MLflow sending its webhooks to it."""
    with serving(watcher) as url:
        hook = scene.client.create_webhook("watch", f"{url}/webhook", ["model_version_alias.created"], secret=SECRET)
        try:
            yield url
        finally:
            scene.client.delete_webhook(hook.webhook_id)


@contextmanager
def polling(watcher: Watcher) -> Iterator[None]:
    """The watcher polling all models, fast."""
    stop = Event()
    thread = Thread(target=poll, args=(watcher, None, 0.05), kwargs={"stop": stop})
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_foreign_move_is_reported_and_reverted_once(scene: Scene) -> None:
    with hooked(scene, scene.watcher()):
        scene.move("1")
        wait_until(lambda: scene.seen == ["1"])
        scene.move("3")
        # 3 is found bad, 1 still good; then the revert's own event comes in, and 1 is good.
        wait_until(lambda: scene.checked[-3:] == ["3", "1", "1"])
    assert scene.champion == "1"
    assert scene.actions == [("3", "moved back", "1")]
    (report,) = scene.reports
    assert (report.what, report.model, report.alias) == ("unattested", scene.name, "champion")
    assert report.reasons == ["it has no attestation"]
    assert scene.seen == ["1", "3", "1"]


def test_every_foreign_move_is_reported(scene: Scene) -> None:
    with hooked(scene, scene.watcher()):
        scene.move("1")
        wait_until(lambda: scene.seen == ["1"])
        for times in (1, 2, 3):
            scene.move("3")
            wait_until(lambda times=times: len(scene.reports) == times and scene.champion == "1")
    assert scene.actions == [("3", "moved back", "1")] * 3


def test_good_move_is_left_alone(scene: Scene) -> None:
    with hooked(scene, scene.watcher()):
        scene.move("1")
        wait_until(lambda: scene.seen == ["1"])
        scene.move("2")
        wait_until(lambda: scene.seen == ["1", "2"])
    assert scene.champion == "2"
    assert scene.reports == []


def test_holder_before_the_start_is_gone_back_to(scene: Scene) -> None:
    scene.move("2")
    with hooked(scene, scene.watcher()):
        wait_until(lambda: scene.seen == ["2"])
        scene.move("3")
        wait_until(lambda: scene.reports)
    assert scene.champion == "2"


def test_alias_is_removed_if_no_good_holder_is_known(scene: Scene) -> None:
    with hooked(scene, scene.watcher()):
        scene.move("3")
        wait_until(lambda: scene.reports)
    assert scene.champion is None
    assert scene.actions == [("3", "removed", None)]


def test_other_aliases_are_not_watched(scene: Scene) -> None:
    with hooked(scene, scene.watcher()):
        scene.move("3", alias="challenger")
        scene.move("1")
        wait_until(lambda: scene.seen == ["1"])
    assert scene.client.get_registered_model(scene.name).aliases["challenger"] == "3"
    assert scene.reports == []


def test_without_revert_it_only_reports_and_once(scene: Scene) -> None:
    watcher = scene.watcher(revert=False)
    scene.move("3")
    watcher.look(scene.name)
    watcher.look(scene.name)
    assert scene.champion == "3"
    assert scene.actions == [("3", "none", None)]
    scene.move("4")
    watcher.look(scene.name)
    scene.move("1")
    watcher.look(scene.name)
    scene.move("4")
    watcher.look(scene.name)
    assert scene.actions == [("3", "none", None), ("4", "none", None), ("4", "none", None)]


def test_move_in_the_meantime_is_not_undone(scene: Scene) -> None:
    def check(name: str, version: str, place: Place) -> list[str]:
        if version == "3":
            scene.move("2")
        return scene.check(name, version, place)

    watcher = scene.watcher(check=check)
    scene.move("1")
    watcher.look(scene.name)
    scene.move("3")
    watcher.look(scene.name)
    assert scene.champion == "2"
    assert scene.actions == [("3", "left, as it has moved on", None)]


def test_revoked_holder_gives_way_to_the_one_before(scene: Scene) -> None:
    watcher = scene.watcher()
    for version in ("1", "2"):
        scene.move(version)
        watcher.look(scene.name)
    scene.good.remove("2")
    watcher.look(scene.name)
    assert scene.champion == "1"
    scene.good.remove("1")
    watcher.look(scene.name)
    assert scene.champion is None
    assert scene.actions == [("2", "moved back", "1"), ("1", "removed", None)]


def test_deleted_version_is_not_gone_back_to(scene: Scene) -> None:
    def check(name: str, version: str, place: Place) -> list[str]:
        scene.client.get_model_version(name, version)  # an error, if there is none
        return scene.check(name, version, place)

    watcher = scene.watcher(check=check)
    for version in ("1", "2"):
        scene.move(version)
        watcher.look(scene.name)
    scene.move("3")
    scene.client.delete_model_version(scene.name, "2")
    watcher.look(scene.name)
    assert scene.champion == "1"


def test_what_cannot_be_checked_keeps_the_alias(scene: Scene) -> None:
    def check(name: str, version: str, place: Place) -> list[str]:
        raise UserError("the artifact store is down")

    watcher = scene.watcher(check=check)
    scene.move("3")
    watcher.look(scene.name)
    watcher.look(scene.name)
    assert scene.champion == "3"
    (report,) = scene.reports
    assert (report.what, report.reasons) == ("unknown", ["UserError: the artifact store is down"])


def test_model_that_is_not_there_is_no_news(scene: Scene) -> None:
    scene.watcher().look("no-such-model")
    assert scene.reports == []


def test_report_is_one_line_of_json(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    scene.move("3")
    Watcher(scene.client, settings, scene.check, revert=False).look(scene.name)
    (line,) = capfd.readouterr().out.splitlines()
    report = Report.model_validate_json(line)
    assert (report.version, report.action, report.reasons) == ("3", "none", ["it has no attestation"])


def test_poll_reverts_without_webhooks(scene: Scene) -> None:
    scene.move("1")
    with polling(scene.watcher()):
        wait_until(lambda: scene.checked)
        scene.move("3")
        wait_until(lambda: scene.champion == "1")
    assert scene.actions == [("3", "moved back", "1")]


def test_poll_looks_at_the_models_of_every_page(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenbuncher.guard.watch.service.MODELS_PER_PAGE", 2)
    for number in range(5):
        other = scene.client.create_registered_model(f"{scene.name}-{number}")
        scene.client.create_model_version(other.name, source="s3://bucket/model")
        scene.client.set_registered_model_alias(other.name, "champion", "1")
    looked_at = []

    def check(name: str, version: str, place: Place) -> list[str]:
        looked_at.append(name)
        return []

    scene.watcher(check=check).look_at_all()
    assert {f"{scene.name}-{number}" for number in range(5)} <= set(looked_at)


def test_named_models_only(scene: Scene) -> None:
    looked_at = []

    def check(name: str, version: str, place: Place) -> list[str]:
        looked_at.append(name)
        return []

    scene.move("1")
    scene.watcher(check=check).look_at_all([scene.name, "no-such-model"])
    assert looked_at == [scene.name]


@pytest.mark.parametrize("alias", ["Champion", "chámpion"])
def test_an_alias_in_other_letters_is_taken_away(scene: Scene, alias: str) -> None:
    """To some databases it is the same alias. MLflow's server may refuse what is no letter to it."""
    scene.client.set_registered_model_alias(scene.name, alias, "3")
    scene.watcher().look_at_all()
    assert scene.client.get_registered_model(scene.name).aliases == {}
    assert [(report.alias, report.action) for report in scene.reports] == [(alias, "removed")]


@pytest.mark.parametrize("value", ["true", "True", "TRUE", "false", "yes"])
@pytest.mark.parametrize("on_version", [False, True])
def test_the_tag_of_a_prompt_hides_nothing(scene: Scene, value: str, on_version: bool) -> None:
    scene.move("1")
    watcher = scene.watcher()
    watcher.look_at_all()
    if on_version:
        scene.client.set_model_version_tag(scene.name, "3", "mlflow.prompt.is_prompt", value)
    scene.client.set_registered_model_tag(scene.name, "mlflow.prompt.is_prompt", value)
    scene.move("3")
    watcher.look_at_all()
    assert scene.champion == "1"
    assert scene.actions == [("3", "moved back", "1")]


def test_a_watcher_that_knows_nothing_yet_sees_what_is_tagged_as_a_prompt(scene: Scene) -> None:
    scene.client.set_registered_model_tag(scene.name, "mlflow.prompt.is_prompt", "true")
    scene.move("3")
    scene.watcher().look_at_all()
    assert scene.champion is None


def test_a_model_that_hides_from_one_search_is_looked_at_nevertheless(scene: Scene, monkeypatch) -> None:
    """The tag can change between the two searches of a round."""
    watcher = scene.watcher()
    scene.move("1")
    watcher.look_at_all()
    monkeypatch.setattr(watcher, "_searched", lambda: iter(()))
    scene.move("3")
    watcher.look_at_all()
    assert scene.champion == "1"


def test_a_webhook_tells_of_what_is_tagged_as_a_prompt(scene: Scene) -> None:
    with serving(scene.watcher()) as url:
        events = ["model_version_alias.created", "prompt_alias.created"]
        hook = scene.client.create_webhook("watch", f"{url}/webhook", events, secret=SECRET)
        scene.client.set_registered_model_tag(scene.name, "mlflow.prompt.is_prompt", "true")
        scene.move("3")
        wait_until(lambda: scene.reports)
        scene.client.delete_webhook(hook.webhook_id)
    assert scene.champion is None


def staged(scene: Scene) -> dict[str, str]:
    """The stages of the versions that are in one."""
    versions = (scene.client.get_model_version(scene.name, str(number)) for number in range(1, 5))
    return {str(v.version): v.current_stage for v in versions if v.current_stage != "None"}


@pytest.mark.parametrize("archive", [True, False])
def test_a_stage_is_given_back(scene: Scene, archive: bool) -> None:
    watcher = scene.watcher()
    scene.client.transition_model_version_stage(scene.name, "2", "Production")
    watcher.look_at_all()
    scene.client.transition_model_version_stage(scene.name, "3", "Production", archive)
    watcher.look_at_all()
    assert staged(scene) == {"2": "Production", "3": "Archived"}
    (report,) = scene.reports
    assert (report.stage, report.alias, report.version, report.action) == ("Production", None, "3", "moved back")
    assert report.back_to == "2"


def test_a_stage_is_emptied_if_no_good_holder_is_known(scene: Scene) -> None:
    scene.client.transition_model_version_stage(scene.name, "3", "Production")
    scene.client.transition_model_version_stage(scene.name, "4", "Staging")
    scene.watcher().look_at_all()
    assert staged(scene) == {"3": "Archived", "4": "Staging"}
    assert scene.actions == [("3", "removed", None)]


def test_a_version_below_a_bad_one_of_a_stage_is_looked_at_next(scene: Scene) -> None:
    for version in ("3", "4"):
        scene.client.transition_model_version_stage(scene.name, version, "Production")
    watcher = scene.watcher()
    watcher.look_at_all()
    watcher.look_at_all()
    assert staged(scene) == {"3": "Archived", "4": "Archived"}


def test_alias_and_stage_of_one_version_are_reported_each(scene: Scene) -> None:
    scene.move("3")
    scene.client.transition_model_version_stage(scene.name, "3", "Production")
    scene.watcher(revert=False).look_at_all()
    assert {(report.alias, report.stage) for report in scene.reports} == {("champion", None), (None, "Production")}


def test_settings_are_read_at_every_look(scene: Scene) -> None:
    protects = ["challenger"]

    def settings_now() -> GuardSettings:
        return GuardSettings(apiVersion="tokenbuncher/v1", aliases=dict.fromkeys(protects, PROTECTED))

    watcher = Watcher(scene.client, settings_now, scene.check, revert=True, report=scene.reports.append)
    scene.move("3")
    watcher.look_at_all()
    assert scene.champion == "3"
    protects.append("champion")
    watcher.look_at_all()
    assert scene.champion is None


@pytest.mark.parametrize("known", [True, False], ids=["moved-back", "removed"])
def test_a_take_back_whose_answer_is_lost_is_told_as_done(scene: Scene, mlflow: Mlflow, known: bool) -> None:
    proxy = Proxy(mlflow.uri.removeprefix("http://"))
    Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        scene.client = MlflowClient(proxy.url, proxy.url)
        watcher = scene.watcher()
        if known:
            scene.move("1")
            watcher.look(scene.name)
        scene.move("3")
        proxy.fault("(POST|DELETE) .*registered-models/alias", hang_up_when_done, 1000)
        watcher.look(scene.name)
        assert scene.actions == [("3", "moved back", "1") if known else ("3", "removed", None)]
        assert scene.champion == ("1" if known else None)
    finally:
        proxy.shutdown()
        proxy.server_close()


def test_a_take_back_that_fails_is_told_and_tried_again(scene: Scene, mlflow: Mlflow) -> None:
    proxy = Proxy(mlflow.uri.removeprefix("http://"))
    Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        scene.client = MlflowClient(proxy.url, proxy.url)
        watcher = scene.watcher()
        scene.move("3")
        proxy.fault("DELETE .*registered-models/alias", hang_up, TRIES)
        watcher.look(scene.name)
        watcher.look(scene.name)
        assert [action for _, action, _ in scene.actions] == ["failed", "removed"]
        assert "it cannot be taken back" in scene.reports[0].reasons[-1]
    finally:
        proxy.shutdown()
        proxy.server_close()


def test_poll_survives_mlflow(scene: Scene, mlflow: Mlflow) -> None:
    scene.move("1")
    with polling(scene.watcher()):
        wait_until(lambda: scene.checked)
        mlflow.kill()
        wait_until(lambda: scene.reports)
        rounds = time.monotonic() + 1
        wait_until(lambda: time.monotonic() > rounds)
        # The round that the kill cut short may have told of the model; the rounds since tell of all, and once.
        assert [report.model for report in scene.reports].count(None) == 1
        assert {report.what for report in scene.reports} == {"unknown"}
        mlflow.start()
        scene.move("3")
        wait_until(lambda: scene.champion == "1")
    assert scene.actions[-1] == ("3", "moved back", "1")


def test_only_signed_deliveries_are_acted_on(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    body = event(scene.name)
    with serving(scene.watcher()) as url:
        scene.move("3")  # no webhook tells of it

        def post(headers: dict[str, str], body: bytes = body, path: str = "/webhook") -> int:
            return requests.post(url + path, data=body, headers=headers, timeout=10).status_code

        now = int(time.time())
        genuine = signed(body, SECRET, "once", now)
        assert post({}) == 400
        assert post(signed(body, "a forger's own secret", "forged", now)) == 401
        assert post(signed(body, SECRET, "late", now - 400)) == 401
        assert post(genuine, body + b" ") == 401
        assert post(signed(b"{}", SECRET, "empty", now), b"{}") == 400
        assert post(genuine, path="/elsewhere") == 404
        assert scene.checked == []
        assert scene.champion == "3"

        assert post(genuine) == 204
        assert post(genuine) == 409
        wait_until(lambda: scene.champion is None)
    assert len(scene.reports) == 1
    log = capfd.readouterr().err
    assert "wrong signature" in log
    assert SECRET not in log


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("POST /webhook HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413),
        ("POST /webhook HTTP/1.1\r\n\r\n", 400),
        ("POST /webhook HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (f"POST /webhook HTTP/1.1\r\nContent-Length: {'9' * 5000}\r\n\r\n", 400),
        ("POST /webhook HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
        ("DELETE /webhook HTTP/1.1\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\n\r\n", 404),
        ("\x00\xff /webhook HTTP/1.1\r\n\r\n", 501),
    ],
)
def test_malformed_requests_are_answered(mlflow: Mlflow, request_text: str, status: int) -> None:
    watcher = Watcher(mlflow.client, settings, lambda *_: [], revert=False)
    with serving(watcher) as url, socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10) as sender:
        sender.sendall(request_text.encode("latin-1"))
        assert f" {status} " in sender.makefile(encoding="latin-1").read().splitlines()[0]


def test_sender_who_hangs_up_leaves_no_traceback(mlflow: Mlflow, capfd: pytest.CaptureFixture[str]) -> None:
    watcher = Watcher(mlflow.client, settings, lambda *_: [], revert=False)
    with serving(watcher) as url:
        for text in (b"", b"POST", b"POST /webhook HTTP/1.1\r\nContent-Length: 500\r\n\r\n{"):
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10) as sender:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not goodbye
                sender.sendall(text)
        assert answers(f"{url}/healthz")
    assert "Traceback" not in capfd.readouterr().err


def test_signal_stops_it_after_the_look_under_way(scene: Scene) -> None:
    port = free_port()

    def check(name: str, version: str, place: Place) -> list[str]:
        if (name, version) == (scene.name, "3"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        return scene.check(name, version, place)

    def move() -> None:
        wait_until(lambda: scene.checked)
        scene.move("3")
        body = event(scene.name)
        requests.post(
            f"http://127.0.0.1:{port}/webhook", body, headers=signed(body, SECRET, "x", int(time.time())), timeout=10
        )

    scene.move("1")
    before = signal.getsignal(signal.SIGTERM)
    timer = Timer(0, move)
    timer.start()
    with stopped_by_signals() as stop:
        serve(scene.watcher(check=check), "127.0.0.1", port, secret=SECRET, stop=stop)
    timer.join()
    assert scene.champion == "1"
    assert scene.actions == [("3", "moved back", "1")]
    assert signal.getsignal(signal.SIGTERM) == before
    assert not answers(f"http://127.0.0.1:{port}/healthz")


def test_it_does_not_start_where_it_cannot_work(mlflow: Mlflow) -> None:
    watcher = Watcher(mlflow.client, settings, lambda *_: [], revert=False)
    with pytest.raises(UserError, match="cannot listen on"):
        serve(watcher, "127.0.0.1", mlflow.port, secret=SECRET, stop=Event())
    with pytest.raises(UserError, match="shorter than 16"):
        serve(watcher, "127.0.0.1", free_port(), secret="short", stop=Event())
