"""The library's log: standard `logging` below the logger `tokenbuncher`, as lines of text or of JSON.

    logger = logging.getLogger(__name__)
    logger.info("reading")                                             # a message
    logger.info("5/60", extra=event(PROGRESS, done=5, steps=60))       # an event, with figures for programs

Programs set up where it goes by `logging_to`. Whoever imports the library as a part of theirs sets up `logging`
as they like.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import shutil
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import UTC, datetime
from typing import Any, TextIO

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.passwords import without_passwords

ROOT = logging.getLogger("tokenbuncher")
FORMAT = "TOKENBUNCHER_LOG_FORMAT"
"""Environment variable with one of the formats, which tasks and pods inherit."""
FORMATS = ("text", "json")
CHANNEL = "TOKENBUNCHER_EVENTS"
"""Environment variable with the file descriptor of the socket to which a process sends its events."""
MESSAGE, PROGRESS, RESULT = "message", "progress", "result"
"""Events: most lines; how far the work is; what it came to, which is shown even if all else is not."""
MANY = (MESSAGE, PROGRESS, RESULT)
"""Events that a stage may have more than once."""
PATIENCE = 5
"""Seconds that a message waits for a reader that does not read; it is in the log as well."""
LONGEST = 32_768
"""Characters of an event that are sent to another process; the socket takes no message of any length."""


def event(kind: str, /, **fields: Any) -> dict[str, Any]:
    """What `extra` of a log call takes to make its record an event.

    Args:
        kind: What the record is about.
        **fields: The same in figures, for programs; values of JSON.
    """
    return {"event": kind, "fields": fields}


def record_of(text: str, kind: str = MESSAGE, /, **fields: Any) -> logging.LogRecord:
    """A record outside of all loggers and their locks."""
    return logging.makeLogRecord(
        {"name": ROOT.name, "levelno": logging.INFO, "levelname": "INFO", "msg": text, **event(kind, **fields)}
    )


def log_format() -> str:
    """The format that the environment asks for: text, unless it says json.

    Raises:
        UserError: If it asks for another.
    """
    form = os.environ.get(FORMAT) or "text"
    if form not in FORMATS:
        raise UserError(f"{FORMAT} is {form}; it can be {' or '.join(FORMATS)}")
    return form


def current_format() -> str:
    """The format that this program logs in."""
    return (
        "json"
        if any(
            isinstance(handler, LineHandler) and isinstance(handler.formatter, JsonFormatter)
            for handler in ROOT.handlers
        )
        else "text"
    )


class TextFormatter(logging.Formatter):
    """The text alone, without the passwords of addresses."""

    def __init__(self, stage: str = "") -> None:
        """
        Args:
            stage: Name of the stage, with the key of the task if it has several.
        """
        super().__init__()
        self.stage = stage

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record."""
        return without_passwords(super().format(record))

    def event_of(self, record: logging.LogRecord) -> tuple[str, str, dict[str, Any]]:
        """The stage, the event and the fields of a record; other programs' records are messages."""
        fields = getattr(record, "fields", {})
        return fields.get("stage", self.stage), getattr(record, "event", MESSAGE), fields


class StageFormatter(TextFormatter):
    """Text with the stage's name before every line, if it is a stage's."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record."""
        stage, kind, _ = self.event_of(record)
        if not stage:
            return super().format(record)
        named = stage if kind in MANY else f"{stage} {kind}"
        return "\n".join(f"[{named}] {line}".rstrip(" ") for line in super().format(record).split("\n"))


class JsonFormatter(TextFormatter):
    """A JSON object: time, level, stage, event, text, and figures."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        stage, kind, fields = self.event_of(record)
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "stage": stage, "event": kind}
        return without_passwords(json.dumps(_finite({**line, "text": super().format(record), **fields}), default=str))


def stage_formatter(stage: str) -> TextFormatter:
    """A formatter of a stage's lines, in the format that the environment asks for."""
    return (JsonFormatter if log_format() == "json" else StageFormatter)(stage)


class LineHandler(logging.StreamHandler[Any]):
    """Writes each record at once; output that nobody takes is an error of the program."""

    def __init__(self, out: TextIO | io.TextIOBase, formatter: TextFormatter, *, quiet: bool = False) -> None:
        """
        Args:
            out: Where the lines go.
            formatter: What makes lines of records.
            quiet: Whether only results are written.
        """
        super().__init__(out)
        self.setFormatter(formatter)
        if quiet:
            self.addFilter(lambda record: getattr(record, "event", MESSAGE) == RESULT)

    def handleError(self, record: logging.LogRecord) -> None:
        """Raises what went wrong."""
        raise

    def emit_in_signal(self, record: logging.LogRecord) -> None:
        """Writes a record from a signal handler: without a lock, and beside the stream, which may be in a write."""
        if record.levelno >= self.level and self.filter(record):
            os.write(self.stream.fileno(), f"{self.format(record)}\n".encode())


class ScreenHandler(LineHandler):
    """Writes to a terminal, where the last line of each running stage is rewritten in its place, below all others."""

    def __init__(self, out: TextIO | io.TextIOBase, formatter: TextFormatter, *, quiet: bool = False) -> None:
        super().__init__(out, formatter, quiet=quiet)
        self._running: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, and the lines of the running stages again."""
        text, (stage, kind, fields) = self.format(record), self.formatter.event_of(record)  # type: ignore[union-attr]
        relayed = "stage" in fields
        ends = relayed and kind not in (MESSAGE, PROGRESS, "started")
        goes_on = not ends and (relayed or (kind == PROGRESS and fields["done"] < fields["steps"]))
        above = f"\x1b[{len(self._running)}F\x1b[J" if self._running else ""
        self._running.pop(stage, None)
        if goes_on:
            self._running[stage] = text
        columns = shutil.get_terminal_size().columns
        below = "".join(f"{line[: columns - 1]}\n" for line in self._running.values())
        self.stream.write(above + ("" if goes_on else f"{text}\n") + below)
        self.flush()

    def emit_in_signal(self, record: logging.LogRecord) -> None:
        """Writes a record from a signal handler, below the running stages, whose lines then stay as they are."""
        super().emit_in_signal(record)
        self._running = {}


class ChannelHandler(logging.Handler):
    """Sends each record of a stage to the process that runs this one, as one message of JSON."""

    def __init__(self, channel: int, stage: str = "") -> None:
        """
        Args:
            channel: File descriptor of a socket that keeps messages whole (SOCK_SEQPACKET).
            stage: Name of the stage, with the key of the task if it has several.
        """
        super().__init__()
        formatter = JsonFormatter(stage)
        self.setFormatter(formatter)
        end = socket.socket(fileno=channel)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", PATIENCE, 0))
        self.channel = end.detach()
        self.addFilter(lambda record: bool(formatter.event_of(record)[0]))

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a record; if nobody takes it, the log is all there is."""
        text = self.format(record)
        if len(text) > LONGEST:
            kept = {name: value for name, value in getattr(record, "fields", {}).items() if name == "stage"}
            start = without_passwords(record.getMessage())[: LONGEST // 8]
            text = self.format(record_of(f"{start}...", getattr(record, "event", MESSAGE), **kept))
        with suppress(OSError):
            os.write(self.channel, text.encode())

    emit_in_signal = emit


def channel_handlers(stage: str = "") -> list[logging.Handler]:
    """The handler of the channel that the environment names, if it names one; it names it to this process alone."""
    if not (number := os.environ.pop(CHANNEL, "")):
        return []
    with suppress(OSError, ValueError):  # a number that is no socket of ours is none
        os.set_inheritable(int(number), False)
        return [ChannelHandler(int(number), stage)]
    return []


def plain_handlers(stage: str = "", *, quiet: bool = False) -> list[logging.Handler]:
    """Messages as lines on stdout, of which `quiet` leaves the results, and warnings on stderr."""
    messages = LineHandler(sys.stdout, TextFormatter(stage), quiet=quiet)
    messages.addFilter(lambda record: record.levelno < logging.WARNING)
    return [messages, warnings_handler()]


def warnings_handler() -> logging.Handler:
    """Warnings as lines on stderr."""
    warnings = LineHandler(sys.stderr, TextFormatter())
    warnings.setLevel(logging.WARNING)
    warnings.addFilter(lambda record: getattr(record, "event", MESSAGE) == MESSAGE)  # the door tells how it ended
    return warnings


@contextmanager
def logging_to(*handlers: logging.Handler) -> Iterator[None]:
    """In the block, the library's records go to these handlers and nowhere else."""
    before, level = (ROOT.handlers, ROOT.propagate), ROOT.level
    ROOT.handlers, ROOT.propagate = list(handlers), False
    ROOT.setLevel(logging.INFO)
    try:
        yield
    finally:
        ROOT.handlers, ROOT.propagate = before
        ROOT.setLevel(level)


@contextmanager
def printed_as_messages() -> Iterator[None]:
    """In the block, what other libraries print becomes messages, so that each line is one of the log."""
    with _Printed() as printed, redirect_stdout(printed):
        yield


class _Printed(io.TextIOBase):
    """Takes the place of stdout."""

    _rest = ""

    def write(self, text: str) -> int:
        """Takes in printed text."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            ROOT.info("%s", line)
        return len(text)

    def close(self) -> None:
        """Ends the last line."""
        if self._rest:
            self.write("\n")
        super().close()


def log_in_signal(text: str) -> None:
    """Logs a message from a signal handler, which may have come while a lock of `logging` is held."""
    if ROOT.level > logging.INFO:
        return
    record, written = record_of(text), False
    for handler in ROOT.handlers:
        if isinstance(handler, LineHandler | ChannelHandler):
            with suppress(OSError):
                handler.emit_in_signal(record)
                written = True
    if not written:
        os.write(2, f"{text}\n".encode())


def _finite(value: Any) -> Any:
    """A JSON value without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
