"""A stage running as a task: its lines carry its name, and it ends in words, not in a traceback.

    with running("attack", "grpo-1000"):     # [attack grpo-1000 started]
        print("step 5 of 60")                # [attack grpo-1000] step 5 of 60
                                             # [attack grpo-1000 done]

Pods' logs read like this too, or are a JSON object a line where TOKENBUNCHER_LOG_FORMAT is json; `parse_line` takes
either apart again.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple, TextIO

from tokenbuncher.core.environment import quiet_libraries
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.exits import FAILED, REFUSED, print_traceback
from tokenbuncher.core.interrupts import terminations_interrupt
from tokenbuncher.core.log import MANY, JsonLog, Log, StageLog, log_format
from tokenbuncher.core.stopwatch import worked

STAGES = (
    "fetch-model",
    "prepare-data",
    "defend",
    "controls",
    "attack",
    "evaluate-safety",
    "evaluate-utility",
    "register",
    "gate",
    "promote",
)
ENDS = ("done", "failed", "interrupted", "killed", "kept")
"""How a stage ends; `killed` is told by who ran it, `kept` of one that was done before and is not run again."""
EVENTS = ("command", "started", *ENDS)
"""What is told of a stage once; `command` is what runs it alone."""
_NAME = rf"(?:{'|'.join(STAGES)})(?: [a-z0-9-]*\d)?"
_LINE = re.compile(rf"\s*\[(?P<stage>{_NAME})(?: (?P<event>{'|'.join(EVENTS)}))?\] ?(?P<text>.*)")


class Line(NamedTuple):
    """One line of a running stage."""

    stage: str
    event: str | None
    text: str
    fields: dict[str, Any] = {}  # noqa: RUF012 - never changed
    """What a line of JSON has: all of it."""


def parse_line(text: str) -> Line | None:
    """The stage, event (of `EVENTS` or None) and text of a line; None if no stage wrote it."""
    text = text.rstrip()
    if match := _LINE.fullmatch(text):
        return Line(match["stage"], match["event"], match["text"])
    if not text.endswith("}"):
        return None
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not {"stage", "event", "text"} <= fields.keys():
        return None
    if not re.fullmatch(_NAME, str(fields["stage"])) or fields["event"] not in (*EVENTS, *MANY):
        return None
    return Line(fields["stage"], fields["event"] if fields["event"] in EVENTS else None, str(fields["text"]), fields)


def log_name(stage: str) -> str:
    """Name of a stage's own log file."""
    return f"{stage.replace(' ', '-')}.log"


def stage_log(stage: str, out: TextIO | io.TextIOBase) -> Log:
    """A log of a stage's lines, in the format that the environment asks for."""
    return (JsonLog if log_format() == "json" else StageLog)(stage, out)


@contextmanager
def running(stage: str, key: str = "") -> Iterator[None]:
    """Runs the block as a stage of the pipeline; SIGTERM, which ends a pod, interrupts it.

    Args:
        stage: Name of the stage, as in the command line.
        key: Key of the task, if the stage has several.

    Raises:
        SystemExit: If the block fails: with 2 if it is the user's to mend, else 3; the reason has been printed, with a
            traceback if it is not the user's.
        KeyboardInterrupt: If it is interrupted.
    """
    quiet_libraries()
    before = worked()
    with stage_log(f"{stage} {key}".strip(), sys.stdout) as log:
        log.say("", "started")
        try:
            with redirect_stdout(log), terminations_interrupt():
                yield
        except UserError as error:
            log.say("; ".join(line.strip() for line in str(error).splitlines()), "failed")
            raise SystemExit(REFUSED) from None
        except KeyboardInterrupt as interrupt:
            log.say(str(interrupt), "interrupted")
            raise
        except Exception as error:
            print_traceback()
            log.say(" ".join(f"{type(error).__name__}: {error}".split()), "failed")
            raise SystemExit(FAILED) from None
        seconds = worked() - before
        log.say(f"{seconds:.1f} s training and generating" if seconds else "", "done", worked=seconds)
