"""Real MLflow servers with the guard, on sqlite, PostgreSQL and MariaDB, and attested versions in them."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import pymysql
import pytest
import requests
import yaml
from mlflow import MlflowClient
from securesystemslib.signer import CryptoSigner

from tests.evidence_factory import Release, release_spec
from tests.registry.conftest import Registered, candidate, enter
from tokenbuncher.attestation import generate_key, load_private_key

__all__ = ["candidate", "enter"]

POLICY = release_spec().policy
SECONDS_TO_START = 400


@dataclass
class Guarded:
    """A guarded server, and what its settings file is made of."""

    uri: str
    folder: Path
    artifacts: Path
    folds: bool
    """Whether the database takes names for the same that are written differently."""

    @property
    def client(self) -> MlflowClient:
        """A plain client, as anyone has."""
        return MlflowClient(self.uri, self.uri)

    @property
    def signer(self) -> CryptoSigner:
        """The key that the guard trusts."""
        return load_private_key(self.folder / "trusted.pem")

    @contextmanager
    def changed(self, **changes: object) -> Iterator[None]:
        """Other guard settings for a while; the server reads them at every move."""
        before = (self.folder / "guard.yaml").read_text(encoding="utf-8")
        (self.folder / "guard.yaml").write_text(yaml.safe_dump({**yaml.safe_load(before), **changes}), encoding="utf-8")
        try:
            yield
        finally:
            (self.folder / "guard.yaml").write_text(before, encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs these servers comes first: so it goes to one of xdist's workers, and no other starts them too."""
    items.sort(key=lambda item: Path(__file__).parent not in item.path.parents)


@pytest.fixture(scope="session")
def guard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Guard settings, the policy and the key they name."""
    return write_guard(tmp_path_factory.mktemp("guard"))


def write_guard(folder: Path) -> Path:
    """Writes guard settings, the policy and the key they name into a folder."""
    generate_key(folder / "trusted.pem")
    (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY.model_dump(mode="json")), encoding="utf-8")
    protected = {"policy": "policy.yaml", "keys": ["trusted.pub"]}
    settings = {
        "apiVersion": "tokenbuncher/v1",
        "aliases": {"champion": protected},
        "stages": {"Production": protected},
    }
    (folder / "guard.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


every_database = pytest.mark.parametrize("guarded", ["sqlite", "postgresql", "mariadb"], indirect=True)
"""For what a database can change: how it compares names, locks rows, isolates transactions and keeps versions."""


@pytest.fixture
def guarded(request: pytest.FixtureRequest) -> Guarded:
    """A guarded MLflow server on sqlite, unless the test is for every database; once up it stays."""
    return request.getfixturevalue(f"guarded_{getattr(request, 'param', 'sqlite')}")


@pytest.fixture(scope="session")
def guarded_sqlite(guard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The server on sqlite."""
    folder = tmp_path_factory.mktemp("guarded-sqlite")
    with guarded_server(f"sqlite:///{folder / 'db'}", guard_folder, folder) as server:
        yield server


@pytest.fixture(scope="session")
def guarded_postgresql(
    postgresql: str, guard_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    """The server on PostgreSQL."""
    with guarded_server(postgresql, guard_folder, tmp_path_factory.mktemp("guarded-postgresql")) as server:
        yield server


@pytest.fixture(scope="session")
def guarded_mariadb(mariadb: str, guard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The server on MariaDB, which takes names for the same that are written differently."""
    with guarded_server(mariadb, guard_folder, tmp_path_factory.mktemp("guarded-mariadb"), folds=True) as server:
        yield server


@contextmanager
def guarded_server(database: str, settings: Path, folder: Path, *, folds: bool = False) -> Iterator[Guarded]:
    """A guarded MLflow server on a database, with its artifacts and its log in a folder."""
    artifacts = folder / "artifacts"
    with mlflow_server(database, str(artifacts), settings / "guard.yaml", folder / "log", workers=2) as uri:
        yield Guarded(uri, settings, artifacts, folds)


@contextmanager
def mlflow_server(
    database: str, artifacts: str, settings: Path, log: Path, *, workers: int = 1, **variables: str
) -> Iterator[str]:
    """`mlflow server` with a guarded registry; gives its address once it answers."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", str(workers)]
    command += ["--backend-store-uri", database, "--registry-store-uri", f"guarded-{database}"]
    command += ["--artifacts-destination", artifacts, "--serve-artifacts"]
    environment = {
        **os.environ,
        "TOKENBUNCHER_GUARD": str(settings),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **variables,
    }
    with log.open("wb") as stream:
        server = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        wait_until_it_answers(server, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def wait_until_it_answers(server: subprocess.Popen[bytes], uri: str, log: Path) -> None:
    """Returns once the server is up; fails with its log if it ends or takes too long."""
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if requests.get(f"{uri}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a database in a PostgreSQL server of our own."""
    binaries = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    if binaries is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="tokenbuncher-postgres-", dir="/tmp"))
    as_owner = []
    if os.getuid() == 0:  # PostgreSQL does not run as root
        shutil.chown(folder, "postgres", "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]
    data, port = folder / "data", free_port()

    def run(*command: object) -> None:
        subprocess.run([*as_owner, *map(str, command)], check=True, capture_output=True, cwd="/")

    run(binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run(binaries / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", options, "start")
    try:
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a database in a MariaDB server of our own, which compares names as Debian's does."""
    programs = [
        shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("mariadbd", "mariadb-install-db")
    ]
    if None in programs:
        pytest.skip("needs MariaDB: apt-get install mariadb-server")
    server, install = programs
    folder, port = Path(tempfile.mkdtemp(prefix="tokenbuncher-mariadb-", dir="/tmp")), free_port()
    user = "mysql" if os.getuid() == 0 else getpass.getuser()  # MariaDB does not run as root
    if os.getuid() == 0:
        shutil.chown(folder, user, user)
    here = ["--no-defaults", f"--datadir={folder / 'data'}", f"--user={user}", "--innodb-flush-method=nosync"]
    made = [install, *here, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(made, check=True, capture_output=True)
    options = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 'socket'}"]
    options += ["--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([server, *here, *options], stdout=log, stderr=log)
    try:
        statement("CREATE DATABASE mlflow", port)
        yield f"mysql+pymysql://root@127.0.0.1:{port}/mlflow"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def statement(text: str, port: int) -> None:
    """Has a MariaDB server execute something, once it answers."""
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            with pymysql.connect(host="127.0.0.1", port=port, user="root") as connection:
                connection.cursor().execute(text)
                return
        except pymysql.err.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def together(number: int, act: Callable[[int], Any]) -> list[Any]:
    """What so many threads get, which begin at the same time; each is given its number."""
    barrier = Barrier(number)

    def begin(each: int) -> Any:
        barrier.wait()
        return act(each)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(begin, range(number)))


@pytest.fixture
def attested(
    guarded: Guarded, enter: Callable[..., Registered], request: pytest.FixtureRequest
) -> Callable[..., Registered]:
    """Registers a version on the guarded server and judges it, signed by the trusted key or another."""
    name = re.sub(r"\W+", "-", request.node.name)

    def make(
        spoil: Callable[[Release], Release] = lambda release: release,
        signer: CryptoSigner | None = None,
        name: str = name,
    ) -> Registered:
        spec = release_spec(tracking={"uri": guarded.uri, "model_name": name})
        return enter(spec, spoil, signer or guarded.signer)

    return make
