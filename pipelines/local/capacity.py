"""The capacity of this machine: how many tasks it runs at a time, and never more than its memory holds."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 1.0
_MEMORY = Path("/proc/meminfo")
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True, eq=False)
class Need:
    """What one task takes."""

    seconds: float
    """Expected; of several that wait, the longest goes first."""
    memory: float
    """Bytes at most; infinite if not known."""


class Capacity:
    """Lets tasks begin when there is capacity for them. One that needs more than there is has the machine to itself."""

    def __init__(self, tasks: int, free_memory: Callable[[], float]) -> None:
        """
        Args:
            tasks: How many at a time.
            free_memory: Returns how many bytes are free now.
        """
        self._tasks, self._free_memory = tasks, free_memory
        self._memory = free_memory()
        self._changed = threading.Condition()
        self._waiting: list[Need] = []
        self._running: list[Need] = []

    @contextmanager
    def taken(self, need: Need) -> Iterator[None]:
        """Waits until there is capacity for a task, and holds it during the block."""
        with self._changed:
            self._waiting.append(need)
            while self._next() is not need:
                self._changed.wait(POLL_SECONDS)  # other programs end too
            self._waiting.remove(need)
            self._running.append(need)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(need)
                self._changed.notify_all()

    def _next(self) -> Need | None:
        """Which of those that wait begins now."""
        if len(self._running) >= self._tasks:
            return None
        fitting = [need for need in self._waiting if self._fits(need)]
        return max(fitting, key=lambda need: need.seconds, default=None)

    def _fits(self, need: Need) -> bool:
        if not self._running:
            return True
        # Those that run may not have taken yet what they need.
        promised = sum(other.memory for other in self._running)
        return need.memory <= min(self._memory - promised, self._free_memory())


def free_memory() -> float:
    """Bytes that are free on this machine, in its container, and on its GPU if it has one."""
    return min(_machine(), _container(), _gpu())


def _machine() -> float:
    lines = (line.split() for line in _MEMORY.read_text(encoding="utf-8").splitlines())
    return next(float(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:")


def _container() -> float:
    try:
        return float(_LIMIT.read_text(encoding="utf-8")) - float(_USED.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no container, or none with a limit
        return float("inf")


def _gpu() -> float:
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    if not shutil.which(command[0]):
        return float("inf")
    found = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    try:
        return float(found.stdout.split()[0]) * 2**20
    except (IndexError, ValueError):  # installed, but without a GPU
        return float("inf")
