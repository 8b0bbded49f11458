"""How a command logs what it does: as text, as a JSON object a line, or not at all."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.log import (
    FORMAT,
    FORMATS,
    ROOT,
    JsonFormatter,
    LineHandler,
    ScreenHandler,
    TextFormatter,
    current_format,
    event,
    logging_to,
    plain_handlers,
    printed_as_messages,
    warnings_handler,
)


def telling(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --log-format and --quiet to a command, and logs accordingly."""

    @click.option(
        "--log-format",
        type=click.Choice(FORMATS),
        default="text",
        show_default=True,
        envvar=FORMAT,
        help="Lines of text, or a JSON object a line with time, level, stage, event, text and figures.",
    )
    @click.option("--quiet", is_flag=True, help="Tell errors and results only.")
    @wraps(command)
    def told(*args: Any, log_format: str, quiet: bool, **given: Any) -> Any:
        key = given.get("key")
        stage = f"{click.get_current_context().info_name} {key if isinstance(key, str) else ''}".strip()
        with logging_to(*_handlers(stage, log_format, quiet)), _events(), printed_as_messages():
            return command(*args, **given)

    return told


def _handlers(stage: str, log_format: str, quiet: bool) -> list[logging.Handler]:
    messages: logging.Handler
    if log_format == "json":
        messages = LineHandler(sys.stdout, JsonFormatter(stage), quiet=quiet)
    elif sys.stdout.isatty():
        messages = ScreenHandler(sys.stdout, TextFormatter(stage), quiet=quiet)
    else:
        return plain_handlers(stage, quiet=quiet)
    return [messages, warnings_handler()] if quiet else [messages]


@contextmanager
def _events() -> Iterator[None]:
    """For programs: how the command began and ended; people see it."""
    if current_format() == "text":
        yield
        return
    ROOT.info("", extra=event("started"))
    try:
        yield
    except (UserError, OSError) as error:
        ROOT.error(str(error), extra=event("failed"))
        raise
    except KeyboardInterrupt as interrupt:
        ROOT.info(str(interrupt), extra=event("interrupted"))
        raise
    except click.exceptions.Exit as end:
        ROOT.info("", extra=event("done", status=end.exit_code))
        raise
    ROOT.info("", extra=event("done", status=0))
