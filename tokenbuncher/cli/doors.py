"""How commands are run, and how they end: with a status that says what happened, and in a line, not in a traceback."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from tokenbuncher.errors import UserError
from tokenbuncher.interrupts import terminations_interrupt

EXIT_CODES = {"PASS": 0, "BLOCK": 1, "INCONCLUSIVE": 2}
INTERRUPTED = 130
GOING_ON = "nothing is left running; the same command starts again, a training from its last checkpoint"


class Door(click.Command):
    """A command whose output never takes the place of its input."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command, unless the folder it would write holds what it would read."""
        out = ctx.params.get("out")
        given = [value for name, value in ctx.params.items() if name != "out"]
        read = [path for value in given for path in (value if isinstance(value, tuple) else (value,))]
        if out and any(isinstance(path, Path) and path.resolve().is_relative_to(out.resolve()) for path in read):
            raise UserError(f"{out} would be replaced, and holds what the command reads; choose another --out")
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

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; 2 on the user's error, 130 on an interrupt."""
        try:
            with terminations_interrupt():
                return super().invoke(ctx)
        except UserError as error:
            fail(ctx, f"error: {error}", 2)
        except KeyboardInterrupt as interrupt:
            fail(ctx, f"interrupted; {str(interrupt) or GOING_ON}", INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            fail(ctx, f"error: {error}", 2)


def fail(ctx: click.Context, message: str, status: int) -> NoReturn:
    """Ends the command with a message and a status."""
    click.echo(message, err=True)
    ctx.exit(status)


def wrote(path: Path) -> None:
    """Tells where the output is."""
    print(f"wrote {path}")
