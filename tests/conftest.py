"""Fixtures that several rooms share."""

from __future__ import annotations

import gc
import inspect
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from socketserver import BaseServer
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine

from tokenbuncher.core.environment import quiet_libraries
from tokenbuncher.core.log import LineHandler, TextFormatter, logging_to
from tokenbuncher.settings import ReleaseSpec, parse_spec

quiet_libraries()

# The same examples at every run, and no limit in seconds: on a machine at other work all takes longer.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("random", settings.get_profile("steady"), derandomize=False)
settings.load_profile("steady")


def pytest_collection_finish() -> None:
    """The garbage collector leaves alone what the imports have made, and comes seldom: it took a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> None:
    """SQLite does not wait until what tests write has reached the disk."""

    @event.listens_for(Engine, "connect")
    def connect(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(scope="session", autouse=True)
def migrated_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A new SQLite database is a copy of MLflow's first, which it makes in fifty migrations."""
    first = tmp_path_factory.mktemp("migrated") / "mlflow.db"

    @event.listens_for(Engine, "do_connect")
    def connect(dialect: Any, record: object, args: list[Any], options: object) -> None:
        if dialect.name == "sqlite" and args[0] not in (":memory:", str(first)) and not Path(args[0]).exists():
            if not first.exists():
                from mlflow.store.db.utils import _initialize_tables

                engine = create_engine(f"sqlite:///{first}")
                _initialize_tables(engine)
                engine.dispose()
            shutil.copyfile(first, args[0])


@pytest.fixture(scope="session", autouse=True)
def short_stacks() -> Iterator[None]:
    """kfp looks up who calls it with the source of every frame, of which pytest has many; it uses the name alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", partial(inspect.stack, context=0))
        yield


@pytest.fixture(scope="session", autouse=True)
def known_to_be_absent() -> Iterator[None]:
    """MLflow looks for Databricks' modules at every request, five times each."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("dbruntime", "IPython", "pyspark"):
            if find_spec(name) is None:
                patch.setitem(sys.modules, name, None)
        yield


@pytest.fixture(scope="session", autouse=True)
def servers_that_stop_at_once() -> Iterator[None]:
    """Servers of the standard library look twice a second whether they shall stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseServer.serve_forever, "__defaults__", (0.01,))
        yield


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each wait; nothing waits."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


class _Stdout(LineHandler):
    """Writes to what stdout is at the time."""

    @property
    def stream(self) -> Any:
        return sys.stdout

    @stream.setter
    def stream(self, _: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def logged_lines() -> Iterator[None]:
    """What the library logs stands on stdout, as in its programs."""
    with logging_to(_Stdout(sys.stdout, TextFormatter())):
        yield


@pytest.fixture(scope="session")
def embedded_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output root with an embedded database, made once because that takes seconds."""
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture(scope="session")
def stages_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Socket of a process that runs tasks with stages that take no time (see fast_stages) in its forks."""
    path = str(tmp_path_factory.mktemp("stages") / "server")
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests / "fast_stages"), str(tests.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "0"}
    command = [sys.executable, str(tests / "fast_stages" / "forked.py"), path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        yield path
        server.communicate()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a real MLflow server in this process, which stores artifacts for its clients."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_LOGGING_LEVEL": "ERROR",
            "_MLFLOW_SERVER_FILE_STORE": store,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }.items():
            patch.setenv(name, value)
        # It cannot be imported here, which each search tries; of two at once one would find it half made.
        patch.setitem(sys.modules, "mlflow.server.auth", None)
        from mlflow.server import app
        from mlflow.server.handlers import initialize_backend_stores
        from werkzeug.serving import make_server

        initialize_backend_stores(store, default_artifact_root="mlflow-artifacts:/")
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def s3_settings() -> Iterator[dict[str, str]]:
    """The environment variables that name a real S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()


@pytest.fixture(scope="session")
def s3_client(s3_settings: dict[str, str]) -> Any:
    """A client of that server, whatever the environment says."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=s3_settings["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=s3_settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=s3_settings["AWS_SECRET_ACCESS_KEY"],
        region_name=s3_settings["AWS_DEFAULT_REGION"],
    )


@pytest.fixture
def s3(s3_client: Any, s3_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a real S3 server, which the environment names during the test."""
    for name, value in s3_settings.items():
        monkeypatch.setenv(name, value)
    return s3_client


@pytest.fixture(scope="session")
def tiny_spec() -> ReleaseSpec:
    """A release of the organism with a budget of seconds; big enough to train, too small to prove anything."""
    return parse_spec(
        """
        data:
          sizes:
            {defence: 32, attack: 32, safety: 20, benign: 32, utility: 24, tuning: 20, benign_test: 24, look_alikes: 20}
        defence: {recipe: log-entropy, steps: 4, prompts_per_step: 4, anchor: {examples: 8}}
        attacks:
          suite:
            - {algorithm: grpo, steps: 2, prompts_per_step: 4}
            - {algorithm: sft, steps: 2, prompts_per_step: 4}
          probe_every: 2
          probe_prompts: 20
        evaluation: {fine_tuning: {rl_steps: 2, sft_steps: 2, prompts_per_step: 4}}
        policy:
          name: tiny
          min_prompts: 20
          max_escape: null
          max_added_refusal: 0.5
          max_added_look_alike_refusal: 0.5
          max_added_gibberish: 0.5
          required_attacks: [grpo]
          attack_limits:
            min_steps: 1
            min_prompts_per_step: 1
            min_rollouts: 2
            min_prompts: 1
            learning_rate: [1.0e-12, 1.0]
            temperature: [0.1, 10.0]
            max_kl_coefficient: 1.0
            min_lora_rank: 1
        """
    )


@pytest.fixture(scope="session")
def organism_data(tiny_spec: ReleaseSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompt sets of `tiny_spec`."""
    from tokenbuncher.inputs import prepare_data

    folder = tmp_path_factory.mktemp("organism") / "data"
    prepare_data(tiny_spec, folder)
    return folder


@pytest.fixture(scope="session")
def organism_base(tiny_spec: ReleaseSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The organism's aligned model in a folder."""
    from tokenbuncher.inputs.fetch import fetch_model

    folder = tmp_path_factory.mktemp("organism") / "base"
    fetch_model(tiny_spec, folder)
    return folder
