"""Tasks as processes: their logs, their commands, and how their end is told."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from pipelines.local.tasks import Tasks
from tokenbuncher.cli import main
from tokenbuncher.core.stages import COMMANDS, STAGES


def command(program: str, stage: str = "attack", key: str = "grpo-1000") -> list[str]:
    """A command as kfp makes it, that runs a program of ours."""
    made = {"inputs": {"parameterValues": {"key": key} if key else {}}, "outputs": {}}
    return [sys.executable, "-c", program, "--executor_input", json.dumps(made), "--function_to_execute", stage]


@pytest.mark.parametrize(
    ("program", "succeeded", "end"),
    [
        ("print('[attack grpo-1000 done]')", True, "[attack grpo-1000 done]"),
        (
            "import sys; print('[attack grpo-1000 failed] x'); sys.exit(1)",
            False,
            "[attack grpo-1000 failed] x",
        ),
        (
            "import nosuch",
            False,
            "[attack grpo-1000 failed] exit status 1: ModuleNotFoundError: No module named",
        ),
        ("import os; os.kill(os.getpid(), 9)", False, "[attack grpo-1000 killed] by SIGKILL"),
        ("import sys; sys.exit(137)", False, "[attack grpo-1000 killed] by SIGKILL"),
    ],
    ids=["done", "failed", "silent", "killed", "killed below sh"],
)
def test_every_end_is_told_once(
    program: str, succeeded: bool, end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Tasks(tmp_path / "spec.yaml", tmp_path / "logs").run(command(program), {}) is succeeded

    log = (tmp_path / "logs" / "attack-grpo-1000.log").read_text(encoding="utf-8")
    first, *_, last = log.splitlines()
    assert first == f"[attack grpo-1000 command] tokenbuncher attack --spec {tmp_path}/spec.yaml --key grpo-1000"
    assert last.startswith(end)
    assert capsys.readouterr().out == log


def test_no_task_is_started_any_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = Tasks(tmp_path / "spec.yaml", tmp_path / "logs")
    tasks.stop()

    assert tasks.run(command("print('started')"), {}) is False
    assert capsys.readouterr().out == ""


def test_a_log_that_cannot_be_written_does_not_stop_the_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file", encoding="utf-8")

    assert Tasks(tmp_path / "spec.yaml", tmp_path / "logs").run(command("print('works')"), {}) is True
    assert capsys.readouterr().out.endswith("works\n")


def test_environment_and_output_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = "import os, sys; sys.stdout.buffer.write(os.environ['WORD'].encode() + bytes([255, 10]))"

    assert Tasks(tmp_path / "spec.yaml", tmp_path / "logs").run(command(program), {"WORD": "ours"}) is True
    assert capsys.readouterr().out.endswith("ours\ufffd\n")


@pytest.mark.parametrize("stage", COMMANDS)
def test_the_command_of_a_stage_has_every_option_that_it_needs(stage: str, tmp_path: Path) -> None:
    made = {
        "inputs": {
            "parameterValues": {"key": "grpo-1000"} if stage == "attack" else {},
            "artifacts": {name: {"artifacts": [{"uri": f"/{name}"}]} for name in STAGES[stage].options},
        },
        "outputs": {},
    }
    kfps = ["true", "--executor_input", json.dumps(made), "--function_to_execute", stage.replace("-", "_")]
    Tasks(tmp_path / "spec.yaml", tmp_path / "logs").run(kfps, {})
    (log,) = (tmp_path / "logs").iterdir()
    told = shlex.split(log.read_text(encoding="utf-8").partition("] ")[2])

    given = {word for word in told if word.startswith("--")}
    options = {option.opts[0]: option for option in main.commands[stage].params}
    assert given <= options.keys()
    assert {name for name, option in options.items() if option.required} <= given
