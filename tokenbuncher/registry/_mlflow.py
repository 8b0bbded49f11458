"""MLflow, quiet, and its errors in words."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tokenbuncher.errors import UserError
from tokenbuncher.settings import ReleaseSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # With MLflow's own seven retries it takes minutes to notice that a server is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


@contextmanager
def connected(spec: ReleaseSpec) -> Iterator[MlflowClient]:
    """A client of the spec's tracking server and registry.

    Raises:
        UserError: If the server, the database or the artifact store refuses, or cannot be reached.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
    uri = spec.tracking_uri()
    try:
        if spec.tracking.uri is None:
            _ensure_database(Path(uri.removeprefix("sqlite:///")))
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"MLflow failed: {reason} (tracking URI {uri})") from error


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
