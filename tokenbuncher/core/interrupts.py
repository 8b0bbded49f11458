"""SIGINT and SIGTERM: the first lets a training finish its step and save, the second stops it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tokenbuncher.core.log import log_in_signal


@contextmanager
def terminations_interrupt() -> Iterator[None]:
    """SIGTERM, which ends a pod, raises KeyboardInterrupt like SIGINT, so that what must not be left is cleared."""
    with _handling((signal.SIGTERM,), signal.default_int_handler):
        yield


@contextmanager
def finishing_steps() -> Iterator[Callable[[], bool]]:
    """Within the block the first SIGINT or SIGTERM asks to stop; the second raises KeyboardInterrupt.

    Yields:
        Tells whether it was asked for.
    """
    asked = threading.Event()

    def ask(*_: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        log_in_signal("stopping: this step is finished and saved first; once more stops at once")

    with _handling((signal.SIGINT, signal.SIGTERM), ask):
        yield asked.is_set


@contextmanager
def _handling(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Handles signals in the block, but those that are ignored; in the main thread alone, which is where Python can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: former for number in numbers if (former := signal.getsignal(number)) != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
