"""The pipeline in a child process, which leads a process group of its own, so that all it starts can be stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.local.child import Child, child
from tokenbuncher.core.log import FORMAT, current_format, log_in_signal

GRACE_SECONDS = 5.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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


class PipelineProcess:
    """The running pipeline."""

    def __init__(self, running: Child) -> None:
        self.child, self.process = running, running.process
        self.stopping = False
        """Whether it was asked to stop."""

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """In the block, the first signal lets the running stages save and end; the second raises KeyboardInterrupt."""

        def stop(*_: object) -> None:
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            log_in_signal("stopping: steps that run are finished and saved first; once more stops at once")
            self._signal(signal.SIGTERM)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            for number, former in before.items():
                if number != signal.SIGHUP or former != signal.SIG_IGN:  # under nohup it stays ignored
                    signal.signal(number, stop)
            yield
        finally:
            for number, former in before.items():
                signal.signal(number, former)

    def end(self) -> None:
        """Ends what still runs; returns when the last of it has closed what they share."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        last_resort = threading.Timer(GRACE_SECONDS, self._signal, (signal.SIGKILL,))
        try:
            self._signal(signal.SIGTERM)
            last_resort.start()
            for _ in self.child.events():
                pass
            self.process.wait()
        finally:
            last_resort.cancel()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@contextmanager
def pipeline(
    spec: Path, artifacts: Path, logs: Path, *, interrupted: Path, take: Callable[[str], object]
) -> Iterator[PipelineProcess]:
    """Starts the pipeline; none of its processes is left when the block ends, nor when this process is killed.

    Args:
        spec: The release spec, a YAML file.
        artifacts: Folder for the outputs of the tasks.
        logs: Folder for a log of each stage.
        interrupted: Folder with outputs of an earlier run that are not made anew.
        take: Takes the lines that its processes put out.
    """
    with (
        TemporaryDirectory(prefix="tokenbuncher-") as scratch,
        child(
            [sys.executable, "-m", "pipelines.local", spec, artifacts, logs, interrupted],
            take,
            {**ENVIRONMENT, FORMAT: current_format(), "TMPDIR": scratch},
            stdin=subprocess.PIPE,  # its end tells the child that this process is gone
            start_new_session=True,
        ) as started,
    ):
        running = PipelineProcess(started)
        try:
            yield running
        finally:
            running.end()
