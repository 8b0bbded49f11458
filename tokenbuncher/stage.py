"""A stage running as a task: its lines carry its name, and it ends in words, not in a traceback.

    with running("attack", "grpo-1000"):     # [attack grpo-1000 started]
        print("step 5 of 60")                # [attack grpo-1000] step 5 of 60
                                             # [attack grpo-1000 done]

Pods' logs read like this too; `parse_line` takes such a line apart again.
"""

from __future__ import annotations

import io
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import NamedTuple, TextIO

from tokenbuncher.environment import quiet_libraries
from tokenbuncher.errors import UserError

STAGES = (
    "fetch-model",
    "prepare-data",
    "defend",
    "attack",
    "evaluate-safety",
    "evaluate-utility",
    "register",
    "gate",
    "promote",
)
_LINE = re.compile(
    rf"\s*\[(?P<stage>(?:{'|'.join(STAGES)})(?: [a-z0-9-]*\d)?)"
    r"(?: (?P<event>started|done|failed))?\] ?(?P<text>.*)"
)


class Line(NamedTuple):
    """One line of a running stage."""

    stage: str
    event: str | None
    text: str


def parse_line(text: str) -> Line | None:
    """The stage, event (`started`, `done`, `failed` or None) and text of a line; None if no stage wrote it."""
    match = _LINE.fullmatch(text.rstrip())
    return Line(match["stage"], match["event"], match["text"]) if match else None


@contextmanager
def running(stage: str, key: str = "") -> Iterator[None]:
    """Runs the block as a stage of the pipeline.

    Args:
        stage: Name of the stage, as in the command line.
        key: Which of the stage's tasks this is, if it has several.

    Raises:
        SystemExit: If the block fails; the reason has been printed, with a traceback if it is not the user's.
    """
    quiet_libraries()
    name = f"{stage} {key}".strip()
    out = sys.stdout

    def tell(event: str, text: str = "") -> None:
        print(f"[{name} {event}] {text}".rstrip(), file=out, flush=True)

    tell("started")
    try:
        with _Named(name, out) as named, redirect_stdout(named):
            yield
    except UserError as error:
        tell("failed", "; ".join(line.strip() for line in str(error).splitlines()))
        raise SystemExit(1) from None
    except Exception as error:
        traceback.print_exc()
        tell("failed", " ".join(f"{type(error).__name__}: {error}".split()))
        raise SystemExit(1) from None
    tell("done")


class _Named(io.TextIOBase):
    """Puts the stage's name before every line."""

    def __init__(self, name: str, out: TextIO) -> None:
        self._name, self._out, self._rest = name, out, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            print(f"[{self._name}] {line}", file=self._out, flush=True)
        return len(text)

    def close(self) -> None:
        if self._rest:
            self.write("\n")
        super().close()
