"""How a command tells what it does: as text, as a JSON object a line, or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from typing import Any

import click

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.log import FORMAT, FORMATS, JsonLog, Log, ScreenLog, TextLog


def telling(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --log-format and --quiet to a command, and tells its lines accordingly."""

    @click.option(
        "--log-format",
        type=click.Choice(FORMATS),
        default="text",
        show_default=True,
        envvar=FORMAT,
        help="Lines of text, or a JSON object a line with time, stage, event, text and figures.",
    )
    @click.option("--quiet", is_flag=True, help="Tell errors and results only.")
    @wraps(command)
    def told(*args: Any, log_format: str, quiet: bool, **given: Any) -> Any:
        key = given.get("key")
        stage = f"{click.get_current_context().info_name} {key if isinstance(key, str) else ''}".strip()
        with _log(stage, log_format, quiet) as log, redirect_stdout(log), _events(log):
            return command(*args, **given)

    return told


def _log(stage: str, log_format: str, quiet: bool) -> Log:
    if log_format == "json":
        return JsonLog(stage, sys.stdout, quiet)
    return (ScreenLog if sys.stdout.isatty() else TextLog)(stage, sys.stdout, quiet)


@contextmanager
def _events(log: Log) -> Iterator[None]:
    """For programs: how the command began and ended; people see it."""
    if not isinstance(log, JsonLog):
        yield
        return
    log.say("", "started")
    try:
        yield
    except (UserError, OSError) as error:
        log.say(str(error), "failed")
        raise
    except KeyboardInterrupt as interrupt:
        log.say(str(interrupt), "interrupted")
        raise
    except click.exceptions.Exit as end:
        log.say("", "done", status=end.exit_code)
        raise
    log.say("", "done", status=0)
