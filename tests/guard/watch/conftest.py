"""A real MLflow server that may send webhooks to this machine, in a process of its own, which can go down and up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from cryptography.fernet import Fernet
from mlflow import MlflowClient

from tokenbuncher.storage import tracking

SECONDS_TO_START = 400
SERVER = """
import sys
from mlflow.server import app
from mlflow.server.handlers import initialize_backend_stores
from werkzeug.serving import make_server

store, port = sys.argv[1:]
initialize_backend_stores(store, default_artifact_root="mlflow-artifacts:/")
make_server("127.0.0.1", int(port), app, threaded=True).serve_forever()
"""


def wait_until(true: Callable[[], object], seconds: float = 300) -> None:
    """Returns once it is true; fails if it is not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(url: str) -> bool:
    """Whether somebody answers there, with 200."""
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


@dataclass
class Mlflow:
    """The server."""

    folder: Path
    port: int
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> MlflowClient:
        """A client of it, as anyone has."""
        return MlflowClient(self.uri, self.uri)

    def start(self) -> None:
        """Starts it, with what it knew before."""
        command = [sys.executable, "-c", SERVER, f"sqlite:///{self.folder / 'mlflow.db'}", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self.process = process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        wait_until(lambda: process.poll() is not None or answers(f"{self.uri}/health"), SECONDS_TO_START)
        assert process.poll() is None, (self.folder / "log").read_text(encoding="utf-8")[-3000:]

    def kill(self) -> None:
        """Kills it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients give up at once when the server is down."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "PAUSE", 0.005)
    # Another fixture may have made a server of this very process, and servers do not read from other hosts.
    monkeypatch.setenv("MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES", "http,https")


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    """The server, up."""
    folder = tmp_path_factory.mktemp("watched-mlflow")
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_WEBHOOK_CACHE_TTL": "0",
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    server = Mlflow(folder, free_port(), {**os.environ, **settings})
    server.start()
    yield server
    server.kill()
