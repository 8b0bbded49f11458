"""How long this process has trained and generated; what is left of its time could be saved.

with working():
    trainer.train()
worked()                # seconds
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_seconds = 0.0
_depth = 0


@contextmanager
def working() -> Iterator[None]:
    """Counts the time of the block, or of a function that it decorates; once, if there are such blocks inside."""
    global _seconds, _depth
    began = time.monotonic()
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _seconds += time.monotonic() - began


def worked() -> float:
    """Seconds so far."""
    return _seconds
