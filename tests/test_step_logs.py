"""Reading step logs: whatever is wrong with one, it is left out and nothing fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.evidence_factory import MALFORMED, defence_rows, passing_release, write_defence_log
from tokenbuncher.evidence import DEFENCE_STEPS, Step, read_defence_steps, read_steps
from tokenbuncher.evidence._steps import LARGEST
from tokenbuncher.training.callbacks import METRICS


def test_rows_are_read_with_the_figures_that_are_finite(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2, "kl": NaN}\n{"step": 2, "loss": 1e999}\n', encoding="utf-8")
    assert read_steps(path) == [Step(1, {"loss": 2.0}), Step(2, {})]


def test_every_figure_of_a_step_log_has_a_name_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": 1, **dict.fromkeys(METRICS.values(), 0.5)}), encoding="utf-8")
    assert {*read_steps(path)[0].figures} == {*METRICS.values()}


@pytest.mark.parametrize("content", MALFORMED)
def test_what_is_no_step_log_is_left_out_with_a_warning(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / DEFENCE_STEPS).write_bytes(content)
    assert read_defence_steps([tmp_path]) == []
    assert f"WARNING: step log {tmp_path / DEFENCE_STEPS} is left out" in capsys.readouterr().out


def test_no_log_is_none_and_no_reason_to_warn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / DEFENCE_STEPS).touch()
    for place in (tmp_path / "nosuch", tmp_path / "nosuch.jsonl", tmp_path / "empty"):
        assert read_defence_steps([place]) == []
    assert read_steps(tmp_path / "empty" / DEFENCE_STEPS / "below") == []
    assert capsys.readouterr().out == ""


def test_a_folder_in_its_place_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / DEFENCE_STEPS).mkdir()
    assert read_defence_steps([tmp_path]) == []
    assert "is left out" in capsys.readouterr().out


@pytest.mark.timeout(30)
def test_what_would_never_end_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.symlink("/dev/zero", tmp_path / "endless")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", LARGEST + 1)
    for name in ("fifo", "endless", "large"):
        assert read_steps(tmp_path / name) == []
        assert f"{name} is left out, it cannot be read: it is no file of at most 32 MiB" in capsys.readouterr().out


def test_a_link_to_itself_is_no_log(tmp_path: Path) -> None:
    os.symlink(DEFENCE_STEPS, tmp_path / DEFENCE_STEPS)
    assert read_defence_steps([tmp_path]) == []


def test_a_place_where_nothing_can_be_looked_for_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_defence_steps([tmp_path / ("x" * 5000)]) == []
    assert "could not be looked for" in capsys.readouterr().out


def test_it_is_found_at_any_depth_beside_evidence(tmp_path: Path) -> None:
    folders, _ = passing_release().write(tmp_path / "run")
    write_defence_log(tmp_path / "run" / "defend" / "steps")
    places = [tmp_path / "run", folders[0] / "evidence.json", tmp_path / "run"]
    assert len(read_defence_steps(places)) == len(defence_rows())
    assert read_defence_steps([folders[0] / "evidence.json"]) == []


def test_of_several_none_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "other"):
        write_defence_log(tmp_path / name)
    assert read_defence_steps([tmp_path]) == []
    assert "step logs of several defences are left out" in capsys.readouterr().out
