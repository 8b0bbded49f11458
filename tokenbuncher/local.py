"""The whole pipeline on this machine: the Kubeflow pipeline itself, run by kfp.local, made readable.

    verdict = run_local(load_spec("specs/organism.yaml"))

kfp runs in a child process that leads a process group of its own, so that everything it starts can be stopped.
What it prints goes to run.log; of that, the lines that the stages print are shown.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenbuncher.errors import UserError
from tokenbuncher.files import write_text
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.stage import Line, parse_line
from tokenbuncher.verdict import FILE_NAME, Outcome, Verdict, read_verdict

LOG = "run.log"
ARTIFACTS = "artifacts"
GRACE_SECONDS = 5.0
ENVIRONMENT = {
    # Two tasks run at once; more threads than that make each of them many times slower.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    # Packages in the working folder that are called components or pipelines are not ours.
    "PYTHONSAFEPATH": "1",
    "PYTHONHASHSEED": "0",
}
REPORT = "report.html"
VERDICT_FILES = ("summary.md", "card.md", "junit.xml", "attestation.json")
# What a task that could not speak for itself leaves in the log.
_ERROR = re.compile(r"\s*([\w.]*(?:Error|Exception): .+)")
_TASK_FAILED = re.compile(r"Task .* finished with status .*FAILURE")


@dataclass
class StageRun:
    """A stage of this run."""

    name: str
    began: float
    seconds: float = 0.0
    state: str = "running"
    result: str = ""

    def note(self, line: Line, now: float) -> str:
        """Takes in a line of the stage; returns what to show of it."""
        self.result = line.text or self.result
        if line.event in ("done", "failed"):
            self.state, self.seconds = line.event, now - self.began
        if line.event == "done":
            return f"done in {self.seconds:.1f} s"
        return f"{line.event}: {line.text}" if line.event == "failed" else line.event or line.text


@dataclass
class PipelineRun:
    """What a run of the pipeline came to."""

    stages: dict[str, StageRun] = field(default_factory=dict)
    error: str = ""


def run_local(spec: ReleaseSpec) -> Verdict:
    """Runs the release pipeline on this machine and prints its progress, a table of stages and the verdict.

    Leaves in `spec.output.root / spec.name`: spec.yaml, artifacts/, run.log, verdict.json, report.html.

    Args:
        spec: The release spec.

    Returns:
        The verdict. A PASS has moved the alias.

    Raises:
        UserError: If a stage fails, or another run uses the folder; names the stage and the log.
        OSError: If the folder cannot be written.
        KeyboardInterrupt: If interrupted; no process of the run is left by then.
    """
    folder = spec.output.root / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    with _in_use(folder):
        _clear(folder)
        write_text(folder / "spec.yaml", spec.to_yaml())
        run = _run_pipeline(folder)
        _print_table(run)
        verdict = _conclude(folder, run)
    print(f"\n{verdict.outcome}: {verdict.name} version {verdict.version}")
    for reason in verdict.reasons:
        print(f"  {reason}")
    print(f"report: {folder / REPORT}")
    return verdict


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is in use by another run; wait for it, or change the spec's name") from None
        yield


def _clear(folder: Path) -> None:
    """Removes what an earlier run of the name left, its verdict first."""
    for name in (FILE_NAME, REPORT, LOG, *VERDICT_FILES):
        (folder / name).unlink(missing_ok=True)
    if (folder / ARTIFACTS).exists():
        shutil.rmtree(folder / ARTIFACTS)


def _run_pipeline(folder: Path) -> PipelineRun:
    """Runs the pipeline to its end, or to the first stage that fails."""
    run = PipelineRun()
    began = time.monotonic()
    with (folder / LOG).open("wb", buffering=0) as log, _pipeline(folder) as process:
        assert process.stdout
        for text in process.stdout:
            with suppress(OSError):  # if the disk is full, the stage says so
                log.write(text.encode())
            line, now = parse_line(text), time.monotonic()
            if line is None:
                error = _ERROR.fullmatch(text.rstrip())
                run.error = run.error or (error[1] if error else "")
                if _TASK_FAILED.search(text):
                    break
                continue
            run.error = ""
            stage = run.stages.setdefault(line.stage, StageRun(line.stage, began=now))
            print(f"{now - began:6.1f} s  {line.stage:<18}  {stage.note(line, now)}", flush=True)
            if line.event == "failed":
                break
    for stage in run.stages.values():
        if stage.state == "running":
            stage.state, stage.seconds = "stopped", time.monotonic() - stage.began
    return run


@contextmanager
def _pipeline(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The pipeline in a child process; none of its processes is left when the block ends."""
    with TemporaryDirectory(prefix="tokenbuncher-") as scratch:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.local", folder / "spec.yaml", folder / ARTIFACTS],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            env={**os.environ, **ENVIRONMENT, "TMPDIR": scratch},
        )
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Ends the process group; returns when the last of it has closed the pipe they share."""
    assert process.stdout
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    last_resort = threading.Timer(GRACE_SECONDS, _signal_group, (process.pid, signal.SIGKILL))
    try:
        _signal_group(process.pid, signal.SIGTERM)
        last_resort.start()
        process.stdout.read()
        process.wait()
    finally:
        last_resort.cancel()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _print_table(run: PipelineRun) -> None:
    print(f"\n{'stage':<18}  {'time':>8}  result")
    for stage in run.stages.values():
        result = {"failed": f"failed: {stage.result}", "stopped": "stopped"}.get(stage.state, stage.result)
        print(f"{stage.name:<18}  {stage.seconds:6.1f} s  {textwrap.shorten(result or 'done', 80)}")


def _conclude(folder: Path, run: PipelineRun) -> Verdict:
    """Brings verdict and report up to the run's folder, or tells which stage failed."""
    judged = next((folder / ARTIFACTS).glob(f"*/gate/verdict/{FILE_NAME}"), None)
    verdict = read_verdict(judged) if judged else None
    if judged:
        for path in judged.parent.iterdir():
            write_text(folder / path.name, path.read_text())
    promoted = run.stages.get("promote")
    # A version without a PASS is refused by promote; one with a PASS must have been promoted.
    if verdict and promoted and (promoted.state == "done" or verdict.outcome is not Outcome.PASS):
        return verdict
    raise UserError(f"{_failure(run)}\nlog: {folder / LOG}")


def _failure(run: PipelineRun) -> str:
    for stage in run.stages.values():
        if stage.state == "failed":
            return f"stage {stage.name} failed: {stage.result}"
    stopped = " or ".join(stage.name for stage in run.stages.values() if stage.state == "stopped")
    if stopped:
        return f"stage {stopped} was killed; out of memory?"
    last = next(reversed(run.stages), None)
    return f"the pipeline failed {f'after {last}' if last else 'to start'}: {run.error or 'see the log'}"
