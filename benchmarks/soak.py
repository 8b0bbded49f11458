"""Whether anything is left behind: releases in a row in one folder and on one MLflow server, then promotions in a row.

    .venv/bin/python benchmarks/soak.py [--runs 10] [--promotions 100]

Each run is the whole pipeline on the organism with the budget of a minute, which passes no policy; each promotion
registers, judges, signs, promotes and verifies a small release that passes. Memory of server and of this process may
not grow by more than 1 MB a run or 0.1 MB a promotion over the second half. Nothing else, but for what MLflow stores,
may be more throughout the last quarter than it ever was in the first two runs or ten promotions; exit status 1 if so.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from scipy.stats import linregress

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MARK = "TOKENBUNCHER_SOAK"
SPEC = """
name: soak
data:
  sizes: {defence: 32, attack: 32, safety: 20, benign: 32, utility: 24, tuning: 20, benign_test: 24, look_alikes: 20}
defence: {steps: 4, prompts_per_step: 4, anchor: {examples: 8}}
attacks:
  suite: [{algorithm: grpo, steps: 2, prompts_per_step: 4}, {algorithm: sft, steps: 2, prompts_per_step: 4}]
  probe_every: 2
  probe_prompts: 20
evaluation: {fine_tuning: {rl_steps: 2, sft_steps: 2, prompts_per_step: 4}}
policy:
  min_prompts: 20
  max_added_refusal: 0.5
  max_added_look_alike_refusal: 0.5
  max_added_gibberish: 0.5
  required_attacks: [grpo]
  attack_limits: {min_steps: 1, min_prompts_per_step: 1, min_prompts: 1}
"""
SECONDS_TO_START = 120
MB = 2**20
MEMORY = ("server MB", "this process MB")
STORED = ("MLflow's database MB", "MLflow's artifacts MB")


def main() -> None:
    """Runs both parts and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--promotions", type=int, default=100, help="default: %(default)s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        place = Place(Path(scratch))
        place.enter()
        with mlflow_server(place) as server:
            grown = runs(place, server, arguments.runs) + promotions(place, server, arguments.promotions)
        if left := place.processes():
            grown.append(f"{len(left)} processes are left after the server's end")
    print("\n".join(grown) or "nothing has grown")
    sys.exit(1 if grown else 0)


@dataclass(frozen=True)
class Server:
    """The MLflow server."""

    uri: str
    group: int


@dataclass(frozen=True)
class Place:
    """A folder that holds all that is written: output, temporary files, caches, the server's data."""

    root: Path

    def enter(self) -> None:
        """Has everything that starts from here write below the folder, and bear a mark."""
        for name in ("runs", "tmp", "home", "server", "server-tmp"):
            (self.root / name).mkdir()
        os.environ.update(
            {
                "TMPDIR": str(self.root / "tmp"),
                "HOME": str(self.root / "home"),
                "XDG_CACHE_HOME": str(self.root / "home" / ".cache"),
                "PYTHONPATH": str(ROOT),
                MARK: uuid.uuid4().hex,
            }
        )
        tempfile.tempdir = None

    def processes(self, group: int | None = None) -> list[int]:
        """Processes that were started from here, however they were detached; or those of one group."""
        mark, found = f"{MARK}={os.environ[MARK]}".encode(), []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
                if mark in (path / "environ").read_bytes().split(b"\0") and int(path.name) != os.getpid():
                    found.append(int(path.name))
        return [pid for pid in found if group is None or group_of(pid) == group]

    def left(self, server: Server) -> list[int]:
        """Processes beside this one and the server's."""
        return sorted(set(self.processes()) - set(self.processes(server.group)))

    def measured(self, server: Server) -> dict[str, float]:
        """All that might grow."""
        gc.collect()
        own, serving = [os.getpid()], self.processes(server.group)
        everyone = [*own, *self.processes()]
        output = [path for path in files(self.root / "runs") if "artifacts" not in path.parts]
        return {
            "processes left": len(self.left(server)),
            "ports": len(listening(everyone)),
            "temporary files": len(list((self.root / "tmp").rglob("*"))),
            "server's temporary files": len(list((self.root / "server-tmp").rglob("*"))),
            "caches MB": size(files(self.root / "home")),
            "files outside artifacts": len(output),
            "output outside artifacts MB": size(output),
            "threads": sum(threads(pid) for pid in own),
            "open files": sum(open_files(pid) for pid in own),
            "server's processes": len(serving),
            "server's threads": sum(threads(pid) for pid in serving),
            "server's open files": sum(open_files(pid) for pid in serving),
            "server MB": sum(map(memory, serving)) / MB,
            "this process MB": memory(os.getpid()) / MB,
            "MLflow's database MB": size([self.root / "server" / "mlflow.db"]),
            "MLflow's artifacts MB": size(files(self.root / "server" / "artifacts")),
        }


def runs(place: Place, server: Server, count: int) -> list[str]:
    """Runs the pipeline so many times; returns what has grown."""
    from pipelines.local import run_local
    from tokenbuncher.core.log import LineHandler, TextFormatter, logging_to
    from tokenbuncher.settings import parse_spec

    spec = parse_spec(SPEC, [f"output.root={place.root / 'runs'}", f"tracking.uri={server.uri}"])
    rows = []
    for number in range(count):
        began = time.monotonic()
        log = place.root / "runs" / "log"
        with log.open("w", encoding="utf-8") as out, logging_to(LineHandler(out, TextFormatter())):
            verdict = run_local(spec)
        assert verdict.version == str(number + 1)
        rows.append({"seconds": time.monotonic() - began, **place.measured(server)})
        show(rows, number + 1, "run")
    return growth(rows, warm=2, slope=1.0, what="runs")


def promotions(place: Place, server: Server, count: int) -> list[str]:
    """Judges, signs, promotes and verifies so many times in this process; returns what has grown."""
    from tests.fuzz.release import PASSING, write_model
    from tokenbuncher.attestation import generate_key, load_private_key, load_public_key
    from tokenbuncher.core.log import LineHandler, TextFormatter, logging_to
    from tokenbuncher.gate import gate
    from tokenbuncher.registry import promote, register, verify_version
    from tokenbuncher.settings import TrackingSpec

    folder = place.root / "promotions"
    public = generate_key(folder / "release.pem")
    signer, trusted = load_private_key(folder / "release.pem"), [load_public_key(public)]
    spec = PASSING.spec.model_copy(update={"tracking": TrackingSpec(uri=server.uri, model_name="promoted")})
    rows = []
    with (folder / "log").open("w", encoding="utf-8") as log:
        for number in range(count):
            with logging_to(LineHandler(log, TextFormatter())):
                registration = register(spec, write_model(folder / "model"), folder / "registration")
                evidence, registered = replace(PASSING, spec=spec, registration=registration).write(folder / "in")
                gate(spec, evidence, registered, out=folder / "verdict", signer=signer)
                promote(spec, evidence, registered, verdict=folder / "verdict")
                _, problems = verify_version("models:/promoted@champion", trusted, server.uri, out=folder / "out")
            assert not problems
            rows.append(place.measured(server))
            if (number + 1) % 10 == 0:
                show(rows, number + 1, "promotion")
    return growth(rows, warm=10, slope=0.1, what="promotions")


def growth(rows: list[dict[str, float]], warm: int, slope: float, what: str) -> list[str]:
    """What has grown, in words.

    Args:
        rows: The measurements.
        warm: After so many, everything is loaded that ever will be.
        slope: Most that memory may grow by each time, in MB, over the second half.
        what: What was done each time.
    """
    grown = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        before, after = values[:warm], values[warm:][-(len(values) // 4 + 1) :]
        if name in MEMORY:
            half = values[len(values) // 2 :]
            rate = linregress(range(len(half)), half).slope if len(half) > 1 else 0.0
            if rate > slope:
                grown.append(f"{name} grows by {rate:.2f} each of the last {len(half)} {what}")
        elif name not in (*STORED, "seconds") and after and min(after) > 1.01 * max(before):
            grown.append(f"{name}: at most {max(before):g} in the first {warm} {what}, in the end {min(after):g}")
    return grown


def show(rows: list[dict[str, float]], number: int, what: str) -> None:
    """Prints the last row, under the head if it is the first one that is printed."""
    if number in (1, 10):
        print(f"\n| {what} | {' | '.join(rows[0])} |\n|{'---|' * (len(rows[0]) + 1)}")
    print(f"| {number} | {' | '.join(f'{value:.4g}' for value in rows[-1].values())} |", flush=True)


@contextlib.contextmanager
def mlflow_server(place: Place) -> Iterator[Server]:
    """`mlflow server` in a process group of its own, once it answers."""
    from tests.guard.conftest import free_port

    uri, folder = f"http://127.0.0.1:{free_port()}", place.root / "server"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", uri.rpartition(":")[2]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--serve-artifacts"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **quiet, "TMPDIR": str(place.root / "server-tmp")},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not answers(f"{uri}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server did not start:\n{(folder / 'log').read_text(encoding='utf-8')[-3000:]}")
            time.sleep(0.2)
        yield Server(uri, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def answers(url: str) -> bool:
    """Whether somebody answers there."""
    try:
        with urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


def group_of(pid: int) -> int | None:
    """The process group of a process; None if it has ended."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def threads(pid: int) -> int:
    """Threads of a process."""
    return len(list(Path(f"/proc/{pid}/task").glob("*")))


def open_files(pid: int) -> int:
    """Open files, sockets and pipes of a process."""
    return len(list(Path(f"/proc/{pid}/fd").glob("*")))


def memory(pid: int) -> int:
    """Resident memory of a process in bytes."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def listening(pids: list[int]) -> set[str]:
    """Sockets on which the processes listen for TCP."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text(encoding="utf-8").splitlines()[1:]:
            cells = line.split()
            if cells[3] == "0A":
                sockets.add(f"socket:[{cells[9]}]")
    opened = set()
    for pid in pids:
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                opened.add(os.readlink(path))
    return sockets & opened


def files(folder: Path) -> list[Path]:
    """Every file below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def size(paths: list[Path]) -> float:
    """Of the files, in MB."""
    return sum(path.stat().st_size for path in paths) / MB


if __name__ == "__main__":
    main()
