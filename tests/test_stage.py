"""Lines of a running stage, and how it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbuncher.errors import UserError
from tokenbuncher.settings import parse_spec
from tokenbuncher.stage import Line, parse_line, running


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
    ("error", "says", "traced"),
    [
        (
            UserError("data.harmful: no such file\n  check the path"),
            "data.harmful: no such file; check the path",
            False,
        ),
        (ValueError("a\nb"), "ValueError: a b", True),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device", True),
    ],
    ids=["user", "bug", "disk"],
)
def test_failure_is_told_in_one_line(
    error: Exception, says: str, traced: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_, running("defend"):
        raise error

    out, err = capsys.readouterr()
    assert exit_.value.code == 1
    assert parse_line(out.splitlines()[-1]) == Line("defend", "failed", says)
    assert ("Traceback" in err) == traced


def test_interrupt_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt), running("defend"):
        raise KeyboardInterrupt


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
