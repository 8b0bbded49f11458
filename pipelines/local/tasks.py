"""A task of the pipeline on this machine: a process, a log of its own, and the command that runs it alone.

kfp.local has tasks run by the class here. Its own way rewrites the word python3 wherever a command has it, even in the
spec, and does not stop before the last task.
"""

from __future__ import annotations

import io
import json
import logging
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kfp.local.status import Status

from pipelines.local.child import child
from tokenbuncher.core.log import record_of, stage_formatter
from tokenbuncher.core.stage import ENDS, Event, log_name

_JUDGED = {"attacks": "evidence", "safety": "evidence", "utility": "evidence", "registration": "registration"}
OPTIONS: dict[str, dict[str, str]] = {
    "fetch-model": {"model": "out"},
    "prepare-data": {"data": "out"},
    "defend": {"data": "data", "base": "base", "candidate": "out"},
    "controls": {"data": "data", "base": "base", "summary": "out"},
    "attack": {"data": "data", "base": "base", "candidate": "candidate", "evidence": "out"},
    "evaluate-safety": {"data": "data", "base": "base", "candidate": "candidate", "evidence": "out"},
    "evaluate-utility": {"data": "data", "base": "base", "candidate": "candidate", "evidence": "out"},
    "register": {"candidate": "candidate", "attacks": "attack", "registration": "out"},
    "gate": {**_JUDGED, "verdict": "out"},
    "promote": {**_JUDGED, "verdict": "verdict"},
}
"""By stage, which option of its command takes an input or output of its component."""


class Tasks:
    """The tasks of one run."""

    def __init__(self, spec: Path, logs: Path, channel: Sequence[logging.Handler] = ()) -> None:
        """
        Args:
            spec: The release spec, a YAML file.
            logs: Folder for a log of each stage.
            channel: Handlers of what the caller is told about the tasks.
        """
        self.spec, self.logs, self._channel = spec, logs, channel
        self._stopping = threading.Event()
        self._printing = threading.Lock()

    def stop(self, *_: Any) -> None:
        """No task is started any more; those that run have to be told by a signal of their own."""
        self._stopping.set()

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> Status:
        """Runs a task to its end.

        Args:
            command: kfp's command of a component.
            environment: Variables that the task has beside those of this process.
        """
        if self._stopping.is_set():
            return Status.FAILURE
        stage, alone = _read(command, self.spec)
        with (
            _Log(self.logs / log_name(stage), self._printing) as log,
            child(list(command), log.write, environment, stdin=subprocess.DEVNULL) as task,
        ):
            self._tell(log, stage, "command", text=shlex.join(alone))
            failed = False
            for event in task.events():
                if event.stage == stage:
                    failed = failed or (event.kind in ENDS and event.kind != "done")
                    self._relay(event)
            status = task.process.wait()
            if status != 0 and not failed and not self._stopping.is_set():
                text, kind = _end(status, task.last)
                self._tell(log, stage, kind, text=text)
            return Status.SUCCESS if status == 0 else Status.FAILURE

    def _tell(self, log: _Log, stage: str, kind: str, *, text: str) -> None:
        """Tells what is to be told of a task from outside, in its log and to the caller."""
        record = record_of(text, kind, stage=stage)
        log.write(f"{stage_formatter(stage).format(record)}\n")
        for handler in self._channel:
            handler.handle(record)

    def _relay(self, event: Event) -> None:
        for handler in self._channel:
            handler.handle(record_of(event.text, event.kind, **event.fields))


class _Log:
    """Puts whole lines into a file, as long as it can be written, and among those of the other tasks."""

    def __init__(self, path: Path, printing: threading.Lock) -> None:
        self._printing = printing
        self._file: io.FileIO | None = None
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def write(self, lines: str) -> None:
        """Writes one line, or several."""
        with self._printing:
            sys.stdout.write(lines)
            sys.stdout.flush()
        with suppress(OSError):  # if the disk is full, the stage says so
            if self._file:
                self._file.write(lines.encode())


def _end(status: int, last: str) -> tuple[str, str]:
    """Text and event of the end of a task that has not told it itself, from its exit status and its last line."""
    number = -status if status < 0 else status - 128  # sh adds 128 to the number of the signal that ended its child
    if number in map(int, signal.Signals):
        return f"by {signal.Signals(number).name}", "killed"
    return f"exit status {status}: {last}", "failed"


def _read(command: Sequence[str], spec: Path) -> tuple[str, list[str]]:
    """The stage, with its key, that a command of kfp runs; and the command of ours that runs it alone."""
    given = json.loads(command[command.index("--executor_input") + 1])
    stage = command[command.index("--function_to_execute") + 1].replace("_", "-")
    key = given["inputs"].get("parameterValues", {}).get("key")
    alone = ["tokenbuncher", stage, "--spec", str(spec), *(["--key", key] if key else [])]
    artifacts = {**given["inputs"].get("artifacts", {}), **given["outputs"].get("artifacts", {})}
    for name, option in OPTIONS.get(stage, {}).items():
        for artifact in artifacts.get(name, {}).get("artifacts", []):
            alone += [f"--{option}", artifact["uri"]]
    return f"{stage} {key}" if key else stage, alone
