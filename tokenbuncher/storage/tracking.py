"""The tracking server and its registry: MLflow, quiet, and its errors in words."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlparse

from tokenbuncher.core.environment import swift_imports
from tokenbuncher.core.errors import UserError
from tokenbuncher.settings.tracking_uri import absolute, checked_tracking_uri, sqlite_path, sqlite_uri
from tokenbuncher.storage.s3 import bucket_advice, bucket_failures

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.tracking._model_registry.client import ModelRegistryClient

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
TRIES = 3
"""How often to send a request that changes the registry."""
LOOKS, PAUSE, PATIENCE = 5, 0.5, 60.0
"""How often to look what has become of it, seconds by which the pauses grow, and seconds after which none begins."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # With MLflow's own seven retries it takes minutes to notice that a server is down.
    RETRIES: "2",
}
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433}
REACH = 5.0
"""Seconds within which a database takes a connection, or that it does not is told."""
logger = logging.getLogger(__name__)
Value = TypeVar("Value")
_alone = Lock()


class Denied(UserError):
    """A server denies the move of an alias, as one with the guard does."""


@contextmanager
def connected(uri: str) -> Iterator[MlflowClient]:
    """A client of a tracking server and its registry, or of an sqlite file, which is made if there is none.

    Raises:
        Denied: If the server denies the move of an alias.
        UserError: If the URI is of no form that can be used, or the server, the database or the artifact store
            refuses, or cannot be reached.
    """
    uri = absolute(checked_tracking_uri(uri))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with swift_imports():
        from mlflow import MlflowClient

    failures = failures_of(uri)
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
    try:
        if file := sqlite_path(uri):
            _ensure_database(file)
        elif not uri.startswith("http"):
            _require_driver(uri)
            _tell_if_silent(uri)
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except failures as error:
        if is_denial(error):
            raise Denied(f"the server at {uri} denies it: {in_words(error)}") from error
        raise UserError(f"MLflow failed: {in_words(error)} (tracking URI {uri})") from error
    except bucket_failures() as error:
        raise UserError(f"MLflow's artifact store failed: {in_words(error)}{bucket_advice(error)}") from error


def require_registry(uri: str) -> None:
    """Checks that there is something to be asked; `connected` would make an empty database.

    Raises:
        UserError: If the tracking URI is of an sqlite file that is not there.
    """
    path = sqlite_path(uri)
    if path and not path.exists():
        raise UserError(
            f"nothing has been registered yet: there is no {path}; run the pipeline, or name another registry"
        )


def is_denial(error: Exception) -> bool:
    """Whether the server has denied it, as one with the guard does."""
    return getattr(error, "error_code", "") == "PERMISSION_DENIED"


def in_words(error: Exception) -> str:
    """What went wrong, in one line."""
    lines = str(getattr(error, "message", error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def failures_of(uri: str) -> tuple[type[Exception], ...]:
    """What MLflow lets through, and of SQLAlchemy only where a database is opened: images do without it."""
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
    from mlflow.exceptions import MlflowException
    from mlflow.store.db.db_types import DATABASE_ENGINES

    if urlparse(uri).scheme.partition("+")[0] not in DATABASE_ENGINES:
        return MlflowException, OSError, ParseError
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise UserError(
            f"{uri} is a database, and this installation has only MLflow's client; give the URL of an MLflow server, "
            "or install tokenbuncher[registry]"
        ) from error
    return MlflowException, SQLAlchemyError, OSError


def unanswered(client: MlflowClient) -> tuple[type[Exception], ...]:
    """How reading the registry fails: by MLflow's errors, and by answers about something else."""
    return (*failures_of(client.tracking_uri), UserError)


def settled(client: MlflowClient, act: Callable[[], object], done: Callable[[], bool]) -> None:
    """Does something in the registry and, if that seems to fail, looks whether it is done nevertheless.

    An answer can be lost, late or garbled after the server has acted. Where the server says what is wrong with the
    request, one look is enough; else it looks a few times, as the server may be at work still, and tries again only
    then: MLflow's own client would send the request again without looking, and make two versions for one.

    Args:
        client: Of the registry.
        act: Does it.
        done: Whether it is done, as the registry says now.

    Raises:
        Exception: That of the last try, if it is not done.
    """
    for left in reversed(range(TRIES)):
        try:
            with _sent_once():
                act()
            return
        except failures_of(client.tracking_uri) as error:
            if _seen(client, done, looks=1 if is_answer(error) else LOOKS):
                return
            if is_answer(error) or not left:
                raise


def _seen(client: MlflowClient, done: Callable[[], bool], looks: int) -> bool:
    for _ in _looks(looks):
        with suppress(*unanswered(client)):
            if done():
                return True
    return False


@contextmanager
def _sent_once() -> Iterator[None]:
    """Keeps MLflow's client from sending requests again by itself; one thread at a time, as the setting is for all."""
    with _alone:
        before = os.environ.get(RETRIES)
        os.environ[RETRIES] = "0"
        try:
            yield
        finally:
            if before is None:
                del os.environ[RETRIES]
            else:
                os.environ[RETRIES] = before


def looked_up(client: MlflowClient, read: Callable[[], Value]) -> Value:
    """What is read from the registry; tried a few times, as an answer can be lost, late or garbled.

    Raises:
        Exception: That of the last try.
    """
    failure: Exception | None = None
    for _ in _looks(LOOKS):
        try:
            return read()
        except unanswered(client) as error:
            failure = error
            if is_answer(error):
                break
    assert failure is not None
    raise failure


def _looks(most: int) -> Iterator[None]:
    deadline = time.monotonic() + PATIENCE
    for look in range(most):
        time.sleep(look * PAUSE)
        if look and time.monotonic() > deadline:
            return
        yield


def is_answer(error: Exception | None) -> bool:
    """Whether the server has understood the request and says what is wrong with it."""
    from mlflow.exceptions import MlflowException

    status = error.get_http_status_code() if isinstance(error, MlflowException) else None
    return status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS


def registry_of(client: MlflowClient) -> ModelRegistryClient:
    """The registry as the server has it.

    MLflow's client above says that there is no such model or version as soon as it has the tag of a prompt, which
    anybody can set.
    """
    return client._get_registry_client()


def model_of(client: MlflowClient, name: str) -> RegisteredModel:
    """A registered model, whatever its tags.

    Raises:
        UserError: If the answer is about no such model: an empty one would read as if no version had an alias.
    """
    model = registry_of(client).get_registered_model(name)
    if model.name != name:
        raise UserError(f"asked about {name}, MLflow at {client.tracking_uri} answers about {model.name or 'nothing'}")
    return model


def version_of(client: MlflowClient, name: str, version: str) -> ModelVersion:
    """A version of a registered model, whatever its tags.

    Raises:
        UserError: If the answer is about no such version.
    """
    found = registry_of(client).get_model_version(name, version)
    if (found.name, str(found.version)) != (name, version):
        raise UserError(
            f"asked about {name} version {version}, MLflow at {client.tracking_uri} answers about "
            f"{found.name or 'nothing'} version {found.version}"
        )
    return found


def alias_holder(client: MlflowClient, name: str, alias: str) -> str | None:
    """The version that has the alias; None if none has."""
    version = model_of(client, name).aliases.get(alias)
    return None if version is None else str(version)


def _require_driver(uri: str) -> None:
    """Checks that Python has the driver of a database; MLflow would try for minutes."""
    from sqlalchemy import create_engine

    try:
        create_engine(uri)
    except ImportError as error:
        raise UserError(
            f"MLflow cannot open {uri}: {error}; install the driver, or give the URL of an MLflow server"
        ) from error


def _tell_if_silent(uri: str) -> None:
    """Says that nothing answers where a database should be; MLflow tries for minutes, without a word."""
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    port = url.port or PORTS.get(url.get_backend_name())
    if not url.host or not port:
        return
    try:
        socket.create_connection((url.host, port), timeout=REACH).close()
    except OSError as error:
        said = f"MLflow's database at {url.host}:{port} does not answer ({error}); trying again for about two minutes"
        logger.warning(said)


def _ensure_database(path: Path) -> None:
    """Makes MLflow's database, whole or not at all: MLflow cannot open one whose making was cut short."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as scratch:
        made = Path(scratch) / path.name
        store = SqlAlchemyStore(sqlite_uri(made), (path.parent / "mlartifacts").as_uri())
        store.engine.dispose()
        with suppress(FileExistsError):  # another run was faster
            os.link(made, path)
