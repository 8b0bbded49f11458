"""What is fuzzed: a kind of file, the inputs for it, and what must hold whatever is in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hypothesis.strategies import SearchStrategy

from tokenbuncher.core.errors import UserError

T = TypeVar("T")

MOST_SECONDS = 2.0
"""Processor time that an input may take."""


class Kind(NamedTuple):
    """A kind of file."""

    inputs: SearchStrategy[Any]
    read: Callable[[Any], bool]
    """Reads an input and says whether it was accepted; raises if anything else than a refusal in words comes of it, or
    a PASS that is none."""


Opened = Callable[[Path], AbstractContextManager[Kind]]
"""Opens a kind with a scratch folder for its files."""


def timed(kind: Kind, given: Any) -> tuple[bool, float]:
    """Whether an input is accepted, and the seconds of processor time that it takes.

    What takes long is read again, and the shorter time counts: the first may have been that of something else.
    """
    began = time.process_time()
    accepted, seconds = kind.read(given), time.process_time() - began
    if seconds > MOST_SECONDS:
        began = time.process_time()
        kind.read(given)
        seconds = min(seconds, time.process_time() - began)
    return accepted, seconds


def unless_refused(read: Callable[[], T], named: str = "") -> T | None:
    """What is read; None if it is refused with a message that can be printed and names the file."""
    try:
        return read()
    except UserError as error:
        message = str(error)
        assert message.strip()
        assert named in message, "the file is not named"
        message.encode()
        return None
