"""A dry run tells what a run would do and what is in its way, and does nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipelines.local import run_local
from tests.local.test_run import STAGES
from tokenbuncher.cli import main
from tokenbuncher.core.errors import UserError
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.storage.dependencies import tool

CLOSED = "http://127.0.0.1:9"
"""Where nothing listens."""


@pytest.fixture
def dry(spec: ReleaseSpec, tmp_path: Path) -> Callable[..., Result]:
    """`tokenbuncher run-local --dry-run`."""
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    command = ["run-local", "--dry-run", "--spec", str(tmp_path / "spec.yaml")]
    return lambda *options: CliRunner().invoke(main, [*command, *options])


def test_it_names_every_stage_and_writes_nothing(dry: Callable[..., Result], folder: Path) -> None:
    result = dry()

    assert result.exit_code == 0, result.output
    first, *stages, last = [line for line in result.output.splitlines() if not line.startswith("warning")]
    assert first == f"would run in {folder}, which would be made"
    assert {line[2:].partition("  ")[0] for line in stages} == set(STAGES)
    assert last == "nothing was run or written"
    assert not folder.parent.exists()


def test_it_says_what_becomes_of_an_earlier_run(dry: Callable[..., Result], folder: Path) -> None:
    (folder / "artifacts" / "old").mkdir(parents=True)
    (folder / ".lock").write_text(tool(), encoding="utf-8")

    assert "in place of what an earlier run has left there" in dry().output
    assert "take over what fits of the stages that are done there" in dry("--resume").output
    assert (folder / "artifacts" / "old").is_dir()


def test_what_is_in_the_way_is_told(dry: Callable[..., Result]) -> None:
    result = dry("--set", "model.source=nosuch", "--set", f"tracking.uri={CLOSED}")
    problems = [line for line in result.output.splitlines() if line.startswith("problem")]

    assert result.exit_code == 2
    assert [line.split()[1] for line in problems] == ["model.source:", "MLflow"]


def test_a_missing_file_is_told_before_any_work(spec: ReleaseSpec, folder: Path) -> None:
    missing = parse_spec(spec.to_yaml(), ["evaluation.calibration=nosuch.jsonl"])

    with pytest.raises(UserError, match=r"^evaluation\.calibration: nosuch\.jsonl is not a file; correct the path"):
        run_local(missing)
    assert not folder.exists()
