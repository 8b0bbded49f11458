"""Tasks as processes: their logs, their commands, and how their end is told."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path

import pytest
from kfp.local.status import Status

from pipelines.local.tasks import OPTIONS, Tasks
from tokenbuncher.cli import main


def command(program: str, stage: str = "attack", key: str = "grpo-1000") -> list[str]:
    """A command as kfp makes it, that runs a program of ours."""
    made = {"inputs": {"parameterValues": {"key": key} if key else {}}, "outputs": {}}
    return [sys.executable, "-c", program, "--executor_input", json.dumps(made), "--function_to_execute", stage]


class Received(logging.Handler):
    """What the caller of the tasks is told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        fields = record.fields  # type: ignore[attr-defined]
        self.events.append((fields["stage"], record.event, record.getMessage()))  # type: ignore[attr-defined]


STAGE = "from tokenbuncher.core.stage import running\nwith running('attack', 'grpo-1000') as log: "


@pytest.mark.parametrize(
    ("program", "status", "end"),
    [
        (f"{STAGE}log.info('x')", Status.SUCCESS, ("done", "")),
        (f"{STAGE}1 / 0", Status.FAILURE, ("failed", "ZeroDivisionError: division by zero")),
        (f"{STAGE}raise KeyboardInterrupt", Status.FAILURE, ("interrupted", "")),
        (
            "import nosuch",
            Status.FAILURE,
            ("failed", "exit status 1: ModuleNotFoundError: No module named 'nosuch'"),
        ),
        ("import os; os.kill(os.getpid(), 9)", Status.FAILURE, ("killed", "by SIGKILL")),
        ("import sys; sys.exit(137)", Status.FAILURE, ("killed", "by SIGKILL")),
        (f"{STAGE}pass\nraise SystemExit('no output')", Status.FAILURE, ("failed", "exit status 1: no output")),
        # What is no event, though it looks like one.
        (
            "import sys; print('[attack grpo-1000 failed] x'); sys.exit(1)",
            Status.FAILURE,
            ("failed", "exit status 1: [attack grpo-1000 failed] x"),
        ),
        (
            "import os, sys; os.write(int(os.environ['TOKENBUNCHER_EVENTS']), b'{\"stage\": \"attack grpo-1000\", '"
            "b'\"event\": \"failed\", '); sys.exit('torn')",
            Status.FAILURE,
            ("failed", "exit status 1: torn"),
        ),
    ],
    ids=["done", "failed", "interrupted", "silent", "killed", "killed below sh", "failed after all", "printed", "torn"],
)
def test_every_end_is_told_once(
    program: str, status: Status, end: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    received = Received()
    assert Tasks(tmp_path / "spec.yaml", tmp_path / "logs", [received]).run(command(program), {}) is status

    log = (tmp_path / "logs" / "attack-grpo-1000.log").read_text(encoding="utf-8")
    alone = f"tokenbuncher attack --spec {tmp_path}/spec.yaml --key grpo-1000"
    assert log.startswith(f"[attack grpo-1000 command] {alone}\n")
    kind, text = end
    assert f"[attack grpo-1000 {kind}] {text}".rstrip() in log.splitlines()
    assert capsys.readouterr().out == log
    assert received.events[0] == ("attack grpo-1000", "command", alone)
    assert received.events[-1] == ("attack grpo-1000", kind, text)
    assert [kind for _, kind, _ in received.events].count("failed") == (kind == "failed")


def test_events_of_another_stage_are_not_this_ones(tmp_path: Path) -> None:
    received = Received()
    program = "from tokenbuncher.core.stage import running\nwith running('gate'): pass"
    assert Tasks(tmp_path / "spec.yaml", tmp_path / "logs", [received]).run(command(program), {}) is Status.SUCCESS
    assert [stage for stage, *_ in received.events] == ["attack grpo-1000"]


def test_output_without_an_end_and_between_events(tmp_path: Path) -> None:
    received = Received()
    program = (
        "import os, sys\nfrom tokenbuncher.core.log import ROOT\nfrom tokenbuncher.core.stage import running\n"
        "with running('attack', 'grpo-1000'):\n"
        "    os.write(2, b'half a line')\n    ROOT.info('whole')\n    os.write(2, b' and \\xff the rest')"
    )
    assert Tasks(tmp_path / "spec.yaml", tmp_path / "logs", [received]).run(command(program), {}) is Status.SUCCESS
    assert [(kind, text) for _, kind, text in received.events[1:]] == [
        ("started", ""),
        ("message", "whole"),
        ("done", ""),
    ]
    log = (tmp_path / "logs" / "attack-grpo-1000.log").read_text(encoding="utf-8")
    assert "half a line[attack grpo-1000] whole\n and \ufffd the rest[attack grpo-1000 done]\n" in log


def test_lines_of_a_progress_bar_stand_below_each_other(tmp_path: Path) -> None:
    program = "import os; [os.write(1, text) for text in (b'1\\r', b'2\\r', b'\\n3 \\xc3', b'\\xa9\\r\\n4')]"
    Tasks(tmp_path / "spec.yaml", tmp_path / "logs").run(command(program), {})
    log = (tmp_path / "logs" / "attack-grpo-1000.log").read_bytes().decode()
    assert log.split("\n")[1:] == ["1", "2", "3 é", "4", ""]


def test_much_output_and_many_events_are_all_taken(tmp_path: Path) -> None:
    received = Received()
    program = f"{STAGE}[(log.info('x' * 5000), print('y' * 5000)) for _ in range(1000)]"
    assert Tasks(tmp_path / "spec.yaml", tmp_path / "logs", [received]).run(command(program), {}) is Status.SUCCESS
    assert len(received.events) == 1 + 1 + 2000 + 1
    assert {len(text) for _, kind, text in received.events if kind == "message"} == {5000}


def test_no_password_is_in_the_log_of_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    received = Received()
    address = "postgresql://me:s3cret@db/mlflow"
    program = f"import sys; print('{address}', file=sys.stderr)\n{STAGE}(log.info('{address}'), print('{address}'))"
    Tasks(tmp_path / "spec.yaml", tmp_path / "logs", [received]).run(command(program), {})
    log = (tmp_path / "logs" / "attack-grpo-1000.log").read_text(encoding="utf-8")
    assert log.count("postgresql://***@db/mlflow") == 3
    assert "s3cret" not in log + capsys.readouterr().out + str(received.events)


def test_no_task_is_started_any_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = Tasks(tmp_path / "spec.yaml", tmp_path / "logs")
    tasks.stop()

    assert tasks.run(command("print('started')"), {}) is Status.FAILURE
    assert capsys.readouterr().out == ""


def test_a_log_that_cannot_be_written_does_not_stop_the_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file", encoding="utf-8")

    assert Tasks(tmp_path / "spec.yaml", tmp_path / "logs").run(command("print('works')"), {}) is Status.SUCCESS
    assert capsys.readouterr().out.endswith("works\n")


def test_environment_and_output_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = "import os, sys; sys.stdout.buffer.write(os.environ['WORD'].encode() + bytes([255, 10]))"

    assert Tasks(tmp_path / "spec.yaml", tmp_path / "logs").run(command(program), {"WORD": "ours"}) is Status.SUCCESS
    assert capsys.readouterr().out.endswith("ours\ufffd\n")


@pytest.mark.parametrize("stage", OPTIONS)
def test_the_command_of_a_stage_has_every_option_that_it_needs(stage: str, tmp_path: Path) -> None:
    made = {
        "inputs": {
            "parameterValues": {"key": "grpo-1000"} if stage == "attack" else {},
            "artifacts": {name: {"artifacts": [{"uri": f"/{name}"}]} for name in OPTIONS[stage]},
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
