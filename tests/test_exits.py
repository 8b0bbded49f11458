"""Exit statuses of every door: 1 says BLOCK, and no error that nobody expected may say that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.evidence_factory import passing_release
from tokenbuncher.cli import EXIT_CODES, FAILED, INTERRUPTED, main
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.exits import REFUSED, exiting

ROOT = Path(__file__).parents[1]
UNEXPECTED: list[BaseException] = [
    ValueError("a bug"),
    MemoryError(),
    RecursionError("too deep"),
    EOFError(),
    ImportError("no module"),
    AssertionError(),
    SystemExit(1),
    SystemExit(0),
    SystemExit("a library ends the process"),
    BrokenPipeError(32, "Broken pipe"),
]


def test_each_status_says_one_thing() -> None:
    assert EXIT_CODES == {"PASS": 0, "BLOCK": 1, "INCONCLUSIVE": 2}
    assert (REFUSED, FAILED, INTERRUPTED) == (2, 3, 130)


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: repr(error)[:30])
def test_no_unexpected_error_of_a_command_is_a_verdict(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("json.dumps", fails)

    assert CliRunner().invoke(main, ["schema"]).exit_code == FAILED


@pytest.mark.parametrize("command", sorted(main.commands))
def test_no_command_has_a_way_round(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(click.Command, "make_context", fails)

    assert CliRunner().invoke(main, [command]).exit_code == FAILED


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("no"), 2),
        (click.ClickException("no"), 2),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device"), 2),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_can_be_mended_is_told_in_a_line(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("json.dumps", fails)
    result = CliRunner().invoke(main, ["schema"])

    assert result.exit_code == status
    assert "Traceback" not in result.output


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs Python; modules in the folder `shim` come before all others."""
    shim = options.pop("shim", None)
    path = os.pathsep.join([*([str(shim)] if shim else []), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, encoding="utf-8", stderr=subprocess.PIPE, check=False, **options
    )  # type: ignore[call-overload, no-any-return]


def test_an_import_that_fails_at_the_start_is_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('spoilt')", encoding="utf-8")
    done = python("-m", "tokenbuncher", "schema", shim=tmp_path)

    assert done.returncode == FAILED
    assert done.stderr == "error: tokenbuncher cannot start: ImportError: spoilt; install it anew\n"


def test_an_import_that_fails_later_is_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "scipy.py").write_text("raise ImportError('spoilt')", encoding="utf-8")
    passing_release().write(tmp_path / "run")
    (tmp_path / "run" / "spec.yaml").write_text(passing_release().spec.to_yaml(), encoding="utf-8")
    done = python("-m", "tokenbuncher", "gate", "--evidence", str(tmp_path / "run"), shim=tmp_path)

    assert done.returncode == FAILED, done.stderr


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["gate", "--help"]], ids=" ".join)
def test_output_that_nobody_takes_is_no_verdict(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = python("-m", "tokenbuncher", *arguments, stdout=writer)
    os.close(writer)

    assert done.returncode == FAILED


def test_a_full_disk_under_the_output_is_no_verdict() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = python("-m", "tokenbuncher", "schema", stdout=full)

    assert done.returncode in (REFUSED, FAILED)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("raise UserError('no')", 2),
        ("raise OSError('no')", 3),
        ("raise KeyboardInterrupt", 130),
        ("1 / 0", 3),
        ("pass", 0),
        ("raise SystemExit(7)", 7),
    ],
)
def test_a_program_that_is_no_command(words: str, status: int) -> None:
    imports = "from tokenbuncher.core.errors import UserError\nfrom tokenbuncher.core.exits import exiting\n"
    program = f"{imports}with exiting(): {words}"

    assert python("-c", program).returncode == status


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["-m", "tokenbuncher.training.cluster.node", "attack", "--spec", "nosuch", "--output", "s3://b/o"], REFUSED),
        (["-m", "pipelines.local", "nosuch", "artifacts", "logs", "interrupted"], FAILED),
    ],
    ids=["node", "pipeline"],
)
def test_the_other_doors(arguments: list[str], status: int, tmp_path: Path) -> None:
    caller, keeps = os.pipe()  # the pipeline ends its process group when its caller is gone
    done = python(*arguments, cwd=tmp_path, stdin=caller, start_new_session=True)
    os.close(caller)
    os.close(keeps)

    assert done.returncode == status, done.stderr


def test_a_failed_task_of_kubeflow_is_no_verdict() -> None:
    for error, status in (("UserError('no')", REFUSED), ("ValueError('no')", FAILED)):
        program = (
            "from tokenbuncher.core.errors import UserError\nfrom tokenbuncher.core.stage import running\n"
            f"with running('gate'): raise {error}"
        )
        assert python("-c", program).returncode == status


def test_exiting_lets_a_status_through() -> None:
    with pytest.raises(SystemExit) as end, exiting():
        raise SystemExit(1)
    assert end.value.code == 1


def test_sigterm_before_the_command_runs_is_no_verdict() -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"

    assert python("-c", program).returncode == -signal.SIGTERM
