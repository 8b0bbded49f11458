"""The tracking server and its registry: MLflow, quiet, and its errors in words."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from tokenbuncher.environment import swift_imports
from tokenbuncher.errors import UserError
from tokenbuncher.verdict import Outcome

if TYPE_CHECKING:
    from mlflow import MlflowClient

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # With MLflow's own seven retries it takes minutes to notice that a server is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


class Refused(UserError):
    """The alias was not moved; `outcome` is what the release came to."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(f"{outcome}: {message}")
        self.outcome = outcome


@contextmanager
def connected(uri: str) -> Iterator[MlflowClient]:
    """A client of a tracking server and its registry, or of an sqlite file, which is made if there is none.

    Raises:
        Refused: If the server denies the move of an alias, as one with the guard does.
        UserError: If the server, the database or the artifact store refuses, or cannot be reached.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with swift_imports():
        from mlflow import MlflowClient

    failures = _failures(uri)
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
    try:
        if uri.startswith("sqlite:///"):
            _ensure_database(Path(uri.removeprefix("sqlite:///")))
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except failures as error:
        if getattr(error, "error_code", "") == "PERMISSION_DENIED":
            raise Refused(
                Outcome.INCONCLUSIVE, f"the server at {uri} denies it: {getattr(error, 'message', error)}"
            ) from error
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"MLflow failed: {reason} (tracking URI {uri})") from error


def require_registry(uri: str) -> None:
    """Checks that there is something to be asked; `connected` would make an empty database.

    Raises:
        UserError: If the tracking URI is of an sqlite file that is not there.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        raise UserError(
            f"nothing has been registered yet: there is no {path}; run the pipeline, or name another registry"
        )


def _failures(uri: str) -> tuple[type[Exception], ...]:
    """What MLflow lets through, and of SQLAlchemy only where a database is opened: images do without it."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.db.db_types import DATABASE_ENGINES

    if urlparse(uri).scheme.partition("+")[0] not in DATABASE_ENGINES:
        return MlflowException, OSError
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise UserError(
            f"{uri} is a database, and this installation has only MLflow's client; give the URL of an MLflow server, "
            "or install tokenbuncher[registry]"
        ) from error
    return MlflowException, SQLAlchemyError, OSError


def _ensure_database(path: Path) -> None:
    """Makes MLflow's database, whole or not at all: MLflow cannot open one whose making was cut short."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as scratch:
        made = Path(scratch) / path.name
        store = SqlAlchemyStore(f"sqlite:///{made}", (path.parent / "mlartifacts").as_uri())
        store.engine.dispose()
        with suppress(FileExistsError):  # another run was faster
            os.link(made, path)
