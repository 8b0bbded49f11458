"""A stage running as a task: its lines carry its name, and it ends in words, not in a traceback.

    with running("attack", "grpo-1000") as logger:    # [attack grpo-1000 started]
        logger.info("step 5 of 60")                   # [attack grpo-1000] step 5 of 60
                                                      # [attack grpo-1000 done]

Pods' logs read like this too, or are a JSON object a line where TOKENBUNCHER_LOG_FORMAT is json. Whoever runs the stage
as a process, and gives it a channel (`log.CHANNEL`), reads its events there by `read_event`, never from its output.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tokenbuncher.core.environment import quiet_libraries
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.exits import FAILED, REFUSED, print_traceback
from tokenbuncher.core.interrupts import terminations_interrupt
from tokenbuncher.core.log import (
    MANY,
    ROOT,
    LineHandler,
    channel_handlers,
    event,
    logging_to,
    printed_as_messages,
    stage_formatter,
)
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


class Event(NamedTuple):
    """What a running stage has said."""

    stage: str
    kind: str
    text: str
    fields: dict[str, Any]
    """All of it."""


def read_event(message: bytes) -> Event | None:
    """The event in a message of a channel; None if it is none."""
    try:
        fields = json.loads(message)
        stage, kind, text = (fields[name] for name in ("stage", "event", "text"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    known = isinstance(stage, str) and stage.partition(" ")[0] in STAGES and kind in (*EVENTS, *MANY)
    return Event(stage, kind, text, fields) if known and isinstance(text, str) else None


def log_name(stage: str) -> str:
    """Name of a stage's own log file."""
    return f"{stage.replace(' ', '-')}.log"


@contextmanager
def running(stage: str, key: str = "") -> Iterator[logging.Logger]:
    """Runs the block as a stage of the pipeline; SIGTERM, which ends a pod, interrupts it.

    Args:
        stage: Name of the stage, as in the command line.
        key: Which of the stage's tasks this is, if it has several.

    Yields:
        The logger of what the stage itself has to say.

    Raises:
        SystemExit: If the block fails: with 2 if it is the user's to mend, else 3; the reason has been printed, with a
            traceback if it is not the user's.
        KeyboardInterrupt: If it is interrupted.
    """
    quiet_libraries()
    before, name = worked(), f"{stage} {key}".strip()
    with logging_to(LineHandler(sys.stdout, stage_formatter(name)), *channel_handlers(name)):
        ROOT.info("", extra=event("started"))
        try:
            with printed_as_messages(), terminations_interrupt():
                yield ROOT
        except UserError as error:
            ROOT.error("; ".join(line.strip() for line in str(error).splitlines()), extra=event("failed"))
            raise SystemExit(REFUSED) from None
        except KeyboardInterrupt as interrupt:
            ROOT.info(str(interrupt), extra=event("interrupted"))
            raise
        except Exception as error:
            print_traceback()
            ROOT.error(" ".join(f"{type(error).__name__}: {error}".split()), extra=event("failed"))
            raise SystemExit(FAILED) from None
        seconds = worked() - before
        text = f"{seconds:.1f} s training and generating" if seconds else ""
        ROOT.info(text, extra=event("done", worked=seconds))
