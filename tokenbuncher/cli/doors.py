"""How commands are run, and how they end: with a status that says what happened, and in a line, not in a traceback."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.exits import FAILED, INTERRUPTED, REFUSED, exiting, fail_unexpectedly, flush_output
from tokenbuncher.core.files import check_output
from tokenbuncher.core.interrupts import terminations_interrupt
from tokenbuncher.core.log import logging_to, plain_handlers
from tokenbuncher.core.passwords import without_passwords

EXIT_CODES = {"PASS": 0, "BLOCK": 1, "INCONCLUSIVE": 2}


class PathOption(click.Path):
    """A path; of a leading ~ it is the user's home, which shells do not see in --out=~/name."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(path_type=Path, **limits)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        return super().convert(os.path.expanduser(value), param, ctx)


NEW_FOLDER = PathOption()
"""Of options that name the folder a command writes."""
GOING_ON = "nothing is left running; the same command starts again, a training from its last checkpoint"


class Door(click.Command):
    """A command whose output never takes the place of its input, nor of anything else but an earlier output."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command, unless what it would write is in the place of something else."""
        out = ctx.params.get("out")
        given = [value for name, value in ctx.params.items() if name != "out"]
        read = [path for value in given for path in (value if isinstance(value, tuple) else (value,))]
        if out and any(isinstance(path, Path) and path.resolve().is_relative_to(out.resolve()) for path in read):
            raise UserError(f"{out} would be replaced, and holds what the command reads; choose another --out")
        if out and any(option.name == "out" and option.type is NEW_FOLDER for option in self.params):
            check_output(out)
        return super().invoke(ctx)


class Doors(click.Group):
    """Commands in sections, whose errors are told in a line, without a traceback."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections: dict[str, list[str]] = {}

    def add_section(self, title: str, commands: Sequence[click.Command]) -> None:
        """Adds commands that the help shows together, in this order."""
        self.sections[title] = [command.name or "" for command in commands]
        for command in commands:
            self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands, section by section."""
        width = max(len(name) for name in self.commands)
        for title, names in self.sections.items():
            with formatter.section(title):
                rows = [(name.ljust(width), self.commands[name].get_short_help_str(105 - width)) for name in names]
                formatter.write_dl(rows)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Runs the command line; 1 is the status of a BLOCK, and of no error that nobody expected."""
        if not standalone_mode:
            return self._main(*args, standalone_mode=False, **extra)
        with exiting():
            status = self._status(*args, **extra)
            flush_output()
            raise SystemExit(status)

    def _main(self, *args: Any, **extra: Any) -> Any:
        main: Any = super().main
        return main(*args, **extra)

    def _status(self, *args: Any, **extra: Any) -> int:
        try:
            return self._main(*args, standalone_mode=False, **extra) or 0
        except click.ClickException as error:
            told = io.StringIO()
            error.show(told)
            click.echo(without_passwords(told.getvalue()), nl=False, err=True)
            return REFUSED
        except click.Abort:
            return INTERRUPTED
        except SystemExit as end:  # click's: of a shell's completion, or with 1 because nobody takes the output
            return end.code if isinstance(end.code, int) and end.code != 1 else FAILED

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; the errors that are the user's to mend are told in a line."""
        try:
            with logging_to(*plain_handlers()), terminations_interrupt():
                return super().invoke(ctx)
        except UserError as error:
            fail(ctx, f"error: {error}", REFUSED)
        except KeyboardInterrupt as interrupt:
            fail(ctx, f"interrupted; {str(interrupt) or GOING_ON}", INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            fail(ctx, f"error: {error}", REFUSED)
        except (SystemExit, EOFError):  # a library's, which click would take for its own
            fail_unexpectedly()


def fail(ctx: click.Context, message: str, status: int) -> NoReturn:
    """Ends the command with a message and a status."""
    click.echo(without_passwords(message), err=True)
    ctx.exit(status)


def wrote(path: Path) -> None:
    """Tells where the output is."""
    click.echo(f"wrote {path}")
