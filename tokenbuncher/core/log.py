"""What a command or stage tells while it works: lines of text, or a JSON object a line.

    with redirect_stdout(JsonLog("defend", sys.stdout)):
        print("reading")                              # {"time": ..., "stage": "defend", "event": "message", ...}
        tell("5/60", "progress", done=5, steps=60)    # the same with done and steps

Whoever tells something needs not know which of them it is: `tell` prints the text alone where there is none.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.passwords import without_passwords

FORMAT = "TOKENBUNCHER_LOG_FORMAT"
"""Environment variable with one of the formats, which tasks and pods inherit."""
FORMATS = ("text", "json")
MESSAGE, PROGRESS, RESULT = "message", "progress", "result"
"""Events: most lines; how far it is; what it came to, which is told even if all else is not."""
MANY = (MESSAGE, PROGRESS, RESULT)
"""Events that a stage may have more than once."""


def log_format() -> str:
    """The format that the environment asks for: text, unless it says json.

    Raises:
        UserError: If it asks for another.
    """
    form = os.environ.get(FORMAT) or "text"
    if form not in FORMATS:
        raise UserError(f"{FORMAT} is {form}; it can be {' or '.join(FORMATS)}")
    return form


def tell(text: str, event: str = MESSAGE, /, **fields: Any) -> None:
    """Tells a line to whoever takes the place of stdout.

    Args:
        text: The line.
        event: What it is about.
        **fields: The same in figures, for programs; values of JSON.
    """
    out = sys.stdout
    if isinstance(out, Log):
        out.say(text, event, **fields)
    else:
        print(without_passwords(text), flush=True)


def tell_in_handler(text: str) -> None:
    """Tells a line from a signal handler, which may have come in the middle of another line's output."""
    try:
        tell(text)
    except RuntimeError:  # Python does not write to a stream within a write to it
        os.write(2, f"{text}\n".encode())


class Log(io.TextIOBase):
    """Takes the place of stdout: whatever is printed comes here, line by line."""

    def __init__(self, stage: str, out: TextIO | io.TextIOBase, quiet: bool = False) -> None:
        """
        Args:
            stage: Name of the stage, with the key of the task if it has several.
            out: Where the lines go.
            quiet: Whether only results are told.
        """
        self.stage, self.out, self.quiet, self._rest = stage, out, quiet, ""

    def write(self, text: str) -> int:
        """Takes in printed text."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line, MESSAGE, {})
        return len(text)

    def say(self, text: str, event: str = MESSAGE, /, **fields: Any) -> None:
        """Tells a line; see the function `tell`."""
        self._end_line()
        self._take(text, event, fields)

    def close(self) -> None:
        """Ends the last line."""
        self._end_line()
        super().close()

    def _end_line(self) -> None:
        if self._rest:
            self.write("\n")

    def _take(self, text: str, event: str, fields: dict[str, Any]) -> None:
        if event == RESULT or not self.quiet:
            self.put(without_passwords(text), event, fields)

    def put(self, text: str, event: str, fields: dict[str, Any]) -> None:
        """Puts out what was told."""
        raise NotImplementedError

    def _line(self, line: str) -> None:
        """Puts out a line at once: several may write to the same stream."""
        self.out.write(f"{line}\n")
        self.out.flush()


class TextLog(Log):
    """The text alone."""

    def put(self, text: str, event: str, fields: dict[str, Any]) -> None:
        self._line(text)


class StageLog(Log):
    """Text with the stage's name before every line; `stage.parse_line` takes them apart."""

    def put(self, text: str, event: str, fields: dict[str, Any]) -> None:
        named = self.stage if event in MANY else f"{self.stage} {event}"
        self._line(f"[{named}] {text}".rstrip(" "))


class JsonLog(Log):
    """A JSON object a line: time, stage, event, text, and figures."""

    def put(self, text: str, event: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "stage": self.stage, "event": event, "text": text, **fields}
        self._line(without_passwords(json.dumps(_finite(line))))


class ScreenLog(Log):
    """Text on a terminal, where the last line of each running stage is rewritten in its place, below all others."""

    def __init__(self, stage: str, out: TextIO | io.TextIOBase, quiet: bool = False) -> None:
        super().__init__(stage, out, quiet)
        self._running: dict[str, str] = {}

    def put(self, text: str, event: str, fields: dict[str, Any]) -> None:
        stage, relayed = fields.get("stage", self.stage), "stage" in fields
        ends = relayed and event not in (MESSAGE, PROGRESS, "started")
        goes_on = not ends and (relayed or (event == PROGRESS and fields["done"] < fields["steps"]))
        above = f"\x1b[{len(self._running)}F\x1b[J" if self._running else ""
        self._running.pop(stage, None)
        if goes_on:
            self._running[stage] = text
        columns = shutil.get_terminal_size().columns
        below = "".join(f"{line[: columns - 1]}\n" for line in self._running.values())
        self.out.write(above + ("" if goes_on else f"{text}\n") + below)
        self.out.flush()


def _finite(value: Any) -> Any:
    """A JSON value without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
