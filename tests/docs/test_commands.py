"""Every command in the documents is run, in a workshop (see conftest.py), or accounted for in one of the tables here.

What no table names is run as it stands, and must end with 0. Blocks of one document are run in their order.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

from tests.docs.markdown import ROOT, Block, Command, Document, commands, documents
from tokenbuncher.cli import main
from tokenbuncher.settings import load_spec

SHELLS = {"", "sh", "bash", "console", "indented"}
# Blocks without a language that are no commands: what something prints.
PRINTED = {"stage                            time  result"}
# Its commands are those of examples/demo.py: see test_demo.py.
DEMO = "docs/demo.md"


class Change(NamedTuple):
    """Commands that are run with a change."""

    pattern: str
    """Found in the command, after make has been asked what it would run."""
    instead: str
    """What is put in the place of what was found; the pattern's groups are \\1, \\2."""
    why: str
    status: int = 0
    only_in: str = ""
    """A document."""


class Check(NamedTuple):
    """Commands that are not run: options are read by the program's own parser, files must be there."""

    pattern: str
    why: str


FAST = "PYTHONPATH=tests/fast_stages:."
CHANGED = [
    Change(
        r"^(\S*tokenbuncher run-local --spec specs/organism.yaml)$",
        rf"{FAST} \1",
        "minutes: stages that train or evaluate are replaced by ones that take no time (tests/fast_stages)",
        only_in="docs/guard.md",
    ),
    Change(
        r"^(\S*tokenbuncher run-local --spec specs/organism.yaml --set defence.recipe=none)$",
        rf"{FAST} \1 --set 'attacks.suite=[{{algorithm: grpo}}]' --set policy.required_attacks=[grpo]",
        "as above, and with one attack; the gate must block it",
        status=1,
    ),
    Change(
        r"^(\S*tokenbuncher run-local --spec specs/organism.yaml.*)$",
        r"\1 --dry-run",
        "minutes: all is checked, nothing is run; docs/guard.md has one that is",
    ),
    Change(
        r"^(tokenbuncher verify models:.* --tracking-uri) http://mlflow:5000",
        r"\1 sqlite:///runs/mlflow.db",
        "the server is somebody else's; the same version is in the workshop's registry",
    ),
    Change(r"^(tokenbuncher keygen --out) \S+", r"\1 keys/new/release.pem", "a key is there, and never replaced"),
]
CHECKED = [
    Check(r"run-local\b", "needs a model or prompts that are not here; the spec is read, with all changes"),
    Check(r"submit\b", "needs a Kubeflow server: tests/pipelines/test_submit.py has one; the spec is read"),
    Check(r"tokenbuncher watch\b", "runs until it is stopped: tests/guard/watch"),
    Check(r"tokenbuncher doctor .*--(host|kubernetes)", "needs a cluster: tests/doctor has one"),
    Check(r"benchmarks/(?!plan)\w+\.py", "minutes to hours: tables over seeds, timings"),
    Check(r"\bmlflow server\b", "needs PostgreSQL and runs until it is stopped: tests/guard"),
    Check(r"^(\S+/)?(pytest|ruff|mypy|lint-imports)\b", "is this very test suite"),
    Check(r"^kubectl\b", "needs a cluster: tests/manifests"),
    Check(r"\bdocker build\b", "needs Docker: tests/images"),
    Check(r"^TEST_\w+=\S* .*make\b", "needs Docker or a cluster, and an S3 server"),
]
RUN = {"tokenbuncher", "python", "cp"}


def blocks_of_commands(document: Document) -> list[Block]:
    return [
        block
        for block in document.blocks
        if block.language in SHELLS and not block.lines[0].startswith(tuple(PRINTED)) and document.name != DEMO
    ]


DOCUMENTS = [document for document in documents() if blocks_of_commands(document)]


class Shell:
    """Runs commands one by one; what they export stays."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environment = folder, dict(os.environ)

    def follow(self, command: Command) -> None:
        """Runs or checks a command."""
        if exported := re.fullmatch(r"export (\w+)=(\S+)", command.text):
            self.environment[exported[1]] = exported[2]
            return
        for text in self._recipe(command.text):
            self._follow(command, text)

    def _recipe(self, text: str) -> list[str]:
        """What make would run; else the command itself."""
        if shlex.split(text)[0] != "make":
            return [text]
        # .venv is set up already; what sets up the wheel of SmolLM2 is the same for whoever runs it.
        made = [
            "make",
            "--dry-run",
            "--no-print-directory",
            "-o",
            ".venv/installed",
            "-o",
            ".venv/smollm2",
            *shlex.split(text)[1:],
        ]
        done = subprocess.run(made, cwd=self.folder, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, f"{text}: {done.stderr}"
        return [line.strip() for line in re.sub(r"\\\n\s*", " ", done.stdout).splitlines()]

    def _follow(self, command: Command, text: str) -> None:
        for change in CHANGED:
            if re.search(change.pattern, text) and change.only_in in command.place:
                self._run(command, re.sub(change.pattern, change.instead, text), change.status)
                return
        if any(re.search(check.pattern, text) for check in CHECKED):
            check_usage(text, self.folder)
            return
        program = Path(shlex.split(text)[0]).name
        assert program in RUN, f"{command.place}: `{text}` is accounted for by no table of {__name__}"
        self._run(command, text)

    def _run(self, command: Command, text: str, status: int = 0) -> None:
        run = self._in_process if shlex.split(text)[0].endswith("tokenbuncher") else self._in_bash
        ended, output = run(text)
        assert ended == status, f"{command.place}: `{text}` ended with {ended}\n{output}"
        printed = iter(output.splitlines())
        for line in command.shown:  # in this order, whatever else is printed between
            assert line in printed, f"{command.place}: `{text}` does not print\n{line}\nbut\n{output}"

    def _in_process(self, text: str) -> tuple[int, str]:
        """As the installed command does, without the seconds in which it would import."""
        result = CliRunner(env=self.environment).invoke(main, shlex.split(text)[1:])
        unexpected = result.exception and not isinstance(result.exception, SystemExit)
        return result.exit_code, result.output + (repr(result.exception) if unexpected else "")

    def _in_bash(self, text: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        return done.returncode, done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_commands(document: Document, workshop: Path) -> None:
    shell = Shell(workshop)
    for block in blocks_of_commands(document):
        for command in commands(block):
            shell.follow(command)


def every_command() -> Iterator[str]:
    """All commands, as make would run them."""
    shell = Shell(ROOT)
    for document in DOCUMENTS:
        for block in blocks_of_commands(document):
            for command in commands(block):
                yield from shell._recipe(command.text)


def test_the_tables_name_nothing_that_is_gone() -> None:
    found = list(every_command())
    for entry in [*CHANGED, *CHECKED]:
        assert any(re.search(entry.pattern, text) for text in found), f"no command of the documents has {entry.pattern}"


@pytest.mark.parametrize("document", documents(), ids=str)
def test_commands_within_the_text(document: Document) -> None:
    """Such as `tokenbuncher gate`: they may be cut short, but what is there must exist."""
    for code in document.inline:
        words = code.split()
        if words[0] == "tokenbuncher" and len(words) > 1 and not words[1].startswith("-"):
            command = main.commands.get(words[1])
            assert command, f"{document}: `{code}` is no command"
            options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            unknown = {word for word in words[2:] if word.startswith("--")} - options
            assert not unknown, f"{document}: `{code}` has no {', '.join(unknown)}"
        elif words[0] == "make" and len(words) > 1:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), (
                f"{document}: `{code}`"
            )


# How commands that are not run are checked.


def check_usage(text: str, folder: Path) -> None:
    """Reads the options of a command as its program does, and looks for the files that it names."""
    words = [word for word in shlex.split(text) if not re.fullmatch(r"[A-Z_0-9]+=\S*", word)]
    program = Path(words[0]).name
    if program == "tokenbuncher":
        check_click(main.commands[words[1]], words[1:])
    elif program == "mlflow":
        from mlflow.cli import cli

        check_click(cli.commands[words[1]], words[1:])
    elif program == "python" and words[1].startswith("benchmarks/"):
        check_argparse(folder / words[1], words[2:])
    for word in words[1:]:
        if re.fullmatch(r"(manifests|images|specs|docs|examples|tests|benchmarks)/[^$]+", word):
            assert (folder / word).exists(), f"`{text}`: there is no {word}"


def check_click(command: click.Command, words: list[str]) -> None:
    """Parses as click does before it calls; a spec is read with all that changes it."""
    context = command.make_context(words[0], words[1:])
    given = context.params
    if "overrides" in given:
        load_spec(given["spec"], given["overrides"], given.get("policy"))


class Parsed(Exception):
    """The script has read its arguments."""


def check_argparse(script: Path, words: list[str]) -> None:
    """Starts a script, up to where it has read its arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *arguments: object) -> None:
        parse(self, *arguments)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", [str(script), *words])
        patch.syspath_prepend(str(script.parent))
        with pytest.raises(Parsed):
            runpy.run_path(str(script), run_name="__main__")
