"""Lines of a running stage, and how it ends."""

import json
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.log import FORMAT, PROGRESS, tell
from tokenbuncher.core.stage import Line, parse_line, running
from tokenbuncher.settings import parse_spec


def test_lines_carry_the_stage_and_errors_stay_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with running("attack", "grpo-1000"):
        print("step 5\nstep", 10)
        print("in parts", end=" ")
        print("and whole")
        print("without an end", end="")

    assert [parse_line(line) for line in capsys.readouterr().out.splitlines()] == [
        Line("attack grpo-1000", "started", ""),
        Line("attack grpo-1000", None, "step 5"),
        Line("attack grpo-1000", None, "step 10"),
        Line("attack grpo-1000", None, "in parts and whole"),
        Line("attack grpo-1000", None, "without an end"),
        Line("attack grpo-1000", "done", ""),
    ]


@pytest.mark.parametrize(
    ("error", "says", "traced", "status"),
    [
        (
            UserError("data.harmful: no such file\n  check the path"),
            "data.harmful: no such file; check the path",
            False,
            2,
        ),
        (ValueError("a\nb"), "ValueError: a b", True, 3),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device", True, 3),
    ],
    ids=["user", "bug", "disk"],
)
def test_failure_is_told_in_one_line(
    error: Exception, says: str, traced: bool, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_, running("defend"):
        raise error

    out, err = capsys.readouterr()
    assert exit_.value.code == status
    assert parse_line(out.splitlines()[-1]) == Line("defend", "failed", says)
    assert ("Traceback" in err) == traced


def test_interrupt_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt), running("defend"):
        raise KeyboardInterrupt


def test_lines_of_json_are_understood_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(FORMAT, "json")
    with pytest.raises(SystemExit), running("attack", "grpo-1000"):
        print("[gate done]")
        tell("5/60", PROGRESS, done=5)
        raise UserError("no good")

    lines = [parse_line(f"    {line}\n") for line in capsys.readouterr().out.splitlines()]
    assert [line and line[:3] for line in lines] == [
        ("attack grpo-1000", "started", ""),
        ("attack grpo-1000", None, "[gate done]"),
        ("attack grpo-1000", None, "5/60"),
        ("attack grpo-1000", "failed", "no good"),
    ]
    assert lines[2]
    assert lines[2].fields["done"] == 5


@pytest.mark.parametrize(
    "change",
    [{"stage": "announce"}, {"stage": ["gate"]}, {"event": "promoted"}, {"event": None}],
)
def test_json_that_no_stage_wrote(change: dict[str, object]) -> None:
    line = {"time": "", "stage": "gate", "event": "done", "text": ""}
    assert parse_line(json.dumps(line)) is not None
    assert parse_line(json.dumps(line | change)) is None
    assert parse_line(json.dumps([line])) is None
    assert parse_line(json.dumps(line)[:-2] + "}") is None


def test_sigterm_interrupts(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), running("defend"):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError
    assert signal.getsignal(signal.SIGTERM) == before
    assert parse_line(capsys.readouterr().out.splitlines()[-1]) == Line("defend", "interrupted", "")


@pytest.mark.parametrize("line", ["", "[1, 2]", "[KFP Executor 2026-11-24] x", "text [gate] text", "[Gate] x", "[]"])
def test_foreign_lines(line: str) -> None:
    assert parse_line(line) is None


@given(name=st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True), seed=st.integers(0, 10**6), text=st.text())
def test_every_attack_key_and_text_is_understood(name: str, seed: int, text: str) -> None:
    spec = parse_spec(
        "",
        [
            f"attacks.suite=[{{algorithm: grpo, name: '{name}', seeds: [{seed}]}}]",
            f"policy.required_attacks=['{name}']",
            "defence.seed=10000001",
        ],
    )
    (task,) = spec.attacks.tasks()
    line = "".join(text.splitlines())

    assert parse_line(f"    [attack {task.key}] {line}\n") == Line(f"attack {task.key}", None, line.rstrip())
    assert parse_line(f"[attack {task.key} done]") == Line(f"attack {task.key}", "done", "")
