"""The watcher, and its two ways to learn that an alias may have moved: MLflow's webhooks, and looking again."""

from __future__ import annotations

import logging
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from tokenbuncher.core.documents import Strict
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.passwords import without_passwords
from tokenbuncher.guard.settings import GuardSettings
from tokenbuncher.guard.watch.webhook import Rejected, SeenDeliveries, check_size, read_delivery
from tokenbuncher.storage.tracking import model_of, registry_of, settled

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

logger = logging.getLogger(__name__)

SHORTEST_SECRET = 16
REQUEST_SECONDS = 10
MODELS_PER_PAGE = 100
PROMPTS = "tag.`mlflow.prompt.is_prompt` = 'true'"
ARCHIVED = "Archived"


class Place(NamedTuple):
    """What a version of a model can have, and not every version may."""

    kind: Literal["alias", "stage"]
    name: str


Check = Callable[[str, str, Place], list[str]]
"""Why a version (model, version, place) must not be in a place; an error if that cannot be found out."""

Action = Literal["none", "moved back", "removed", "left, as it has moved on", "failed"]


class Report(Strict):
    """A report of the watcher."""

    what: Literal["unattested", "unknown"] = Field(
        description="Whether a version has an alias or stage that it must not have, or it could not be found out who "
        "has it and whether they may."
    )
    model: str | None = Field(None, description="None: of no model could it be found out.")
    alias: str | None = None
    stage: str | None = None
    version: str | None = Field(None, description="The version that had it.")
    reasons: list[str]
    action: Action = "none"
    back_to: str | None = Field(None, description="The version that has it again.")
    when: datetime = Field(default_factory=lambda: datetime.now(UTC))


def print_report(report: Report) -> None:
    """Prints a report as one line of JSON."""
    sys.stdout.write(report.model_dump_json(exclude_none=True) + "\n")
    sys.stdout.flush()


class Watcher:
    """Compares who has a protected alias or stage with who may have it."""

    def __init__(
        self,
        client: MlflowClient,
        settings: Callable[[], GuardSettings],
        check: Check,
        *,
        revert: bool,
        report: Callable[[Report], None] = print_report,
    ) -> None:
        """
        Args:
            client: A client of the registry.
            settings: Gives the guard's settings as they are now. They say what is protected.
            check: Gives the reasons why a version must not be in a place.
            revert: Whether to move an alias back to the last version known to be good, or remove it if there is none;
                stages alike.
            report: Gets each finding once, until it changes.
        """
        self._client = client
        self._settings = settings
        self._check = check
        self._revert = revert
        self._report = report
        self._good: dict[tuple[str, Place], list[str]] = {}  # earlier holders, the latest last
        self._reported: dict[tuple[str | None, Place | None], tuple[str, ...]] = {}
        self._known: set[str] = set()
        self._lock = Lock()

    def look(self, name: str) -> None:
        """Looks who has what is protected of a model, reports versions that must not have it, and takes it back if
        told to.

        An alias that somebody else moves in the meantime is left alone. MLflow cannot compare and swap, so a move in
        the milliseconds between this last reading and the writing is undone nevertheless, to a version that is good.
        Where it cannot be found out whether a version may have the alias, it keeps it.
        """
        with self._lock:
            try:
                held = self._held(name)
            except Exception as error:  # whatever it is, the watcher watches on
                self._say(None, Report(what="unknown", model=name, reasons=[_in_words(error)]))
                return
            for model, place in list(self._reported):
                if model == name and place not in held:
                    del self._reported[model, place]
            for place, holder in held.items():
                self._look_at(name, place, holder)

    def look_at_all(self, names: Collection[str] | None = None, stop: Event | None = None) -> None:
        """Looks at these models, or at all that are registered, until told to stop."""
        try:
            for name in self._registered() if names is None else names:
                if stop is not None and stop.is_set():
                    return
                self.look(name)
        except Exception as error:  # as above
            self._say(None, Report(what="unknown", reasons=[_in_words(error)]))
        else:
            self._reported.pop((None, None), None)

    def _look_at(self, name: str, place: Place, holder: str) -> None:
        try:
            report = self._judge(name, place, holder)
        except Exception as error:  # as above
            report = Report(what="unknown", model=name, reasons=[_in_words(error)], **_named(place))
        if report is not None:
            self._say(place, report)
        if report is None or report.action in ("moved back", "removed"):
            self._reported.pop((name, place), None)

    def _judge(self, name: str, place: Place, holder: str) -> Report | None:
        reasons = self._check(name, holder, place)
        if reasons:
            action, back_to = self._take_back(name, place, holder, reasons=reasons) if self._revert else ("none", None)
            return Report(
                what="unattested",
                model=name,
                version=holder,
                reasons=reasons,
                action=action,
                back_to=back_to,
                **_named(place),
            )
        good = self._good.setdefault((name, place), [])
        if holder in good:
            good.remove(holder)
        good.append(holder)
        return None

    def _take_back(self, name: str, place: Place, holder: str, *, reasons: list[str]) -> tuple[Action, str | None]:
        """What was done about it, and who has it again; `reasons` get that of a failure."""
        earlier = reversed(self._good.get((name, place), []))
        good = next(
            (version for version in earlier if version != holder and self._may_have(name, version, place)), None
        )
        try:
            if self._held(name).get(place) != holder:
                return "left, as it has moved on", None
            settled(
                self._client,
                lambda: self._move(name, place, holder, good=good),
                lambda: self._held(name).get(place) in (good, None),
            )
            return ("removed", None) if good is None else ("moved back", good)
        except Exception as error:  # it is reported, and tried again at the next look
            reasons.append(f"it cannot be taken back: {_in_words(error)}")
            return "failed", None

    def _move(self, name: str, place: Place, holder: str, *, good: str | None) -> None:
        registry = registry_of(self._client)
        match place, good:
            case Place("alias", alias), None:
                registry.delete_registered_model_alias(name, alias)
            case Place("alias", alias), _:
                registry.set_registered_model_alias(name, alias, good)
            case Place("stage", _), None:
                registry.transition_model_version_stage(name, holder, ARCHIVED)
            case Place("stage", stage), _:
                registry.transition_model_version_stage(name, good, stage, archive_existing_versions=True)

    def _may_have(self, name: str, version: str, place: Place) -> bool:
        """Whether an earlier holder is good still; one that cannot be checked, or is gone, is not."""
        try:
            return not self._check(name, version, place)
        except Exception:
            return False

    def _held(self, name: str) -> dict[Place, str]:
        """Who has what is protected of a model; nobody has anything of one that is gone."""
        from mlflow.exceptions import MlflowException

        try:
            return _protected(self._settings(), model_of(self._client, name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}

    def _registered(self) -> Iterator[str]:
        """Every model with something protected, and those that had it once: what hides from one search is there yet."""
        settings = self._settings()
        found = {model.name for model in self._searched() if _protected(settings, model)}
        self._known |= found
        yield from sorted(self._known)

    def _searched(self) -> Iterator[RegisteredModel]:
        """Every model: MLflow's search leaves out what has the tag of a prompt, which anybody can set."""
        for wanted in (None, PROMPTS):
            token = None
            while True:
                page = registry_of(self._client).search_registered_models(wanted, MODELS_PER_PAGE, page_token=token)
                yield from page
                if not (token := page.token):
                    break

    def _say(self, place: Place | None, report: Report) -> None:
        said = (report.what, report.version or "", report.action)
        if self._reported.get((report.model, place)) != said:
            self._reported[report.model, place] = said
            self._report(report)


def _protected(settings: GuardSettings, model: RegisteredModel) -> dict[Place, str]:
    """The holders of the protected aliases of a model, and of its protected stages: there clients get the latest."""
    aliases = {
        Place("alias", alias): str(version)
        for alias, version in model.aliases.items()
        if settings.protected(alias) is not None
    }
    stages = {
        Place("stage", version.current_stage): str(version.version)
        for version in model.latest_versions
        if version.current_stage in settings.stages
    }
    return aliases | stages


def _named(place: Place) -> dict[str, Any]:
    return {place.kind: place.name}


def poll(watcher: Watcher, names: Collection[str] | None, seconds: float, *, stop: Event) -> None:
    """Looks at all protected aliases, again and again.

    Args:
        watcher: The watcher.
        names: The models; all, if None.
        seconds: From the end of one round to the begin of the next.
        stop: Ends it.
    """
    while not stop.is_set():
        watcher.look_at_all(names, stop)
        stop.wait(seconds)


def serve(watcher: Watcher, address: str, port: int, *, secret: str, stop: Event) -> None:
    """Takes MLflow's webhooks at `/webhook`, and looks wherever they say that an alias was set.

    It looks at everything once, to learn which holders are good. `/healthz` answers as long as it runs. Deliveries
    can be lost, or the webhook deleted: `poll` beside it, in a thread of its own and with the same watcher, misses
    nothing.

    Args:
        watcher: The watcher.
        address: The address to listen on.
        port: The port to listen on.
        secret: The webhook's secret.
        stop: Ends it, after the looks under way.

    Raises:
        UserError: If the secret is too short, or it cannot listen there.
    """
    if len(secret) < SHORTEST_SECRET:
        raise UserError(f"the webhook's secret is shorter than {SHORTEST_SECRET} characters; take a random one")
    try:
        server = _Server(watcher, address, port, secret=secret)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {address} port {port}: {error}") from error
    thread = Thread(target=server.serve_forever, name="webhooks")
    thread.start()
    try:
        watcher.look_at_all(stop=stop)
        stop.wait()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def watch(watcher: Watcher, listen: str | None, every: float | None, *, secret: str, stop: Event) -> None:
    """Watches in one of the two ways, or in both at once: webhooks are fast, and looking again misses nothing.

    MLflow sends no webhook when a stage changes: stages are seen by looking again only.

    Args:
        watcher: The watcher.
        listen: Where to take webhooks, ADDRESS:PORT.
        every: Seconds between two looks at everything.
        secret: The webhooks' secret.
        stop: Ends it.

    Raises:
        UserError: If neither way is asked for, the secret is too short, or it cannot listen there.
    """
    if listen is None and every is None:
        raise UserError("say how to watch: by webhooks, every so many seconds, or both")
    polling = (
        Thread(target=poll, args=(watcher, None, every), kwargs={"stop": stop}, name="poll")
        if every is not None
        else None
    )
    if polling:
        polling.start()
    try:
        if listen is not None:
            address, _, port = listen.rpartition(":")
            if not address or not re.fullmatch(r"[0-9]{1,5}", port):
                raise UserError(f"{listen} is not ADDRESS:PORT")
            serve(watcher, address, int(port), secret=secret, stop=stop)
        stop.wait()
    finally:
        stop.set()
        if polling:
            polling.join()


@contextmanager
def stopped_by_signals() -> Iterator[Event]:
    """An event that SIGTERM and SIGINT set. For the main thread."""
    stop = Event()

    def handle(*_: Any) -> None:
        # In a thread, because the main one may be inside of stop.wait(), holding the lock that set() wants.
        Thread(target=stop.set).start()

    former = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the looks under way

    def __init__(self, watcher: Watcher, address: str, port: int, *, secret: str) -> None:
        self.watcher = watcher
        self.secret = secret
        self.seen = SeenDeliveries()
        super().__init__((address, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says which error it was; the traceback of a sender who hangs up is of no use."""
        logger.warning(f"webhook request from {client_address[0]}: {_in_words(sys.exception())}")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "tokenbuncher", ""
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(HTTPStatus.OK, "ok")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "there are /healthz and, for POST, /webhook")

    def do_POST(self) -> None:
        if self.path != "/webhook":
            self._answer(HTTPStatus.NOT_FOUND, "webhooks go to /webhook")
            return
        try:
            body = self._body()
            move = read_delivery(
                dict(self.headers.items()), body, self.server.secret, now=time.time(), seen=self.server.seen
            )
        except Rejected as rejected:
            self.log_error("delivery rejected: %s", rejected)
            self._answer(rejected.status, str(rejected))
            return
        # Answered first: hashing a model takes longer than MLflow waits, and it would send the delivery again.
        self._answer(HTTPStatus.NO_CONTENT)
        if move is not None:
            self.server.watcher.look(move.name)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Requests are not logged, but rejections are."""

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,12}", length):
            raise Rejected(HTTPStatus.BAD_REQUEST, "header Content-Length is missing or garbled")
        check_size(int(length))
        return self.rfile.read(int(length))

    def _answer(self, status: HTTPStatus, text: str = "") -> None:
        body = f"{text}\n".encode() if text else b""
        self.send_response(status)
        if body:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _in_words(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines() or [""]
    return without_passwords(f"{type(error).__name__}: {lines[0]}")
