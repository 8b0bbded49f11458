"""What is told, as text, as JSON, on a terminal, or not at all."""

from __future__ import annotations

import io
import json
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tokenbuncher.core import progress
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.log import FORMAT, RESULT, JsonLog, Log, ScreenLog, StageLog, TextLog, log_format, tell
from tokenbuncher.core.progress import Progress
from tokenbuncher.storage import _growing
from tokenbuncher.storage._growing import growing


def lines_of(kind: type[Log], quiet: bool = False) -> list[str]:
    """What a log makes of messages, progress and a result."""
    out = io.StringIO()
    with kind("defend", out, quiet) as log, redirect_stdout(log):
        print("reading\nand", end=" ")
        print("more")
        Progress("training", 4, every_seconds=0).step(1, harm=0.25, loss=float("nan"))
        tell("PASS", RESULT, outcome="PASS")
        print("no end", end="")
    return out.getvalue().splitlines()


def test_text() -> None:
    reading, more, training, result, end = lines_of(TextLog)
    assert (reading, more, result, end) == ("reading", "and more", "PASS", "no end")
    assert training.startswith("training: 1/4  ")
    assert training.endswith(" s left  harm 0.25  loss nan")


def test_stage() -> None:
    assert [line.partition("] ")[0] for line in lines_of(StageLog)] == ["[defend"] * 5


def test_json_is_an_object_a_line_with_figures_that_json_has() -> None:
    lines = [json.loads(line, parse_constant=pytest.fail) for line in lines_of(JsonLog)]
    assert [line["event"] for line in lines] == ["message", "message", "progress", "result", "message"]
    assert {line["stage"] for line in lines} == {"defend"}
    assert all(timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(line["time"]) for line in lines)
    training = lines[2]
    assert (training["title"], training["done"], training["steps"]) == ("training", 1, 4)
    assert training["figures"] == {"harm": 0.25, "loss": None}
    assert training["rate"] > 0
    assert training["seconds_left"] == pytest.approx(3 / training["rate"])
    assert lines[3]["outcome"] == "PASS"


@pytest.mark.parametrize("kind", [TextLog, JsonLog])
def test_quiet_tells_results_only(kind: type[Log]) -> None:
    (line,) = lines_of(kind, quiet=True)
    assert "PASS" in line


def shown(written: str) -> list[str]:
    """What stands on a terminal: it knows new lines, going some lines up, and clearing what is below."""
    rows, at, text = [""], 0, written
    while text:
        if text.startswith("\x1b["):
            code = text[2 : next(index for index, char in enumerate(text) if char.isalpha() and index > 1) + 1]
            text = text[2 + len(code) :]
            if code.endswith("F"):
                at -= int(code[:-1])
            else:
                assert code == "J"
                del rows[at:]
                rows.append("")
        elif text[0] == "\n":
            at, text = at + 1, text[1:]
            rows += [""] * (at - len(rows) + 1)
        else:
            rows[at], text = rows[at] + text[0], text[1:]
    assert rows.pop() == ""
    return rows


def test_a_terminal_keeps_running_stages_in_their_lines_below_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = io.StringIO()
    with ScreenLog("run-local", out) as log:
        log.say("defend begins", "started", stage="defend")
        log.say("attack begins", "started", stage="attack grpo-1000")
        log.say("defend step 1", stage="defend")
        assert shown(out.getvalue()) == ["attack begins", "defend step 1"]
        log.say("attack step 1 " + "x" * 40, stage="attack grpo-1000")
        assert shown(out.getvalue()) == ["defend step 1", "attack step 1 " + "x" * 25]
        log.say("defend done", "done", stage="defend")
        assert shown(out.getvalue()) == ["defend done", "attack step 1 " + "x" * 25]
        log.say("attack failed", "failed", stage="attack grpo-1000")
        log.say("the table", "table")
    assert shown(out.getvalue()) == ["defend done", "attack failed", "the table"]


def test_a_terminal_keeps_the_progress_of_a_command_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    with ScreenLog("defend", out) as log, redirect_stdout(log):
        for step in (1, 2):
            Progress("training", 4, every_seconds=0).step(step)
        (row,) = shown(out.getvalue())
        assert row.startswith("training: 2/4")
        print("wrote out")
        assert shown(out.getvalue()) == ["wrote out"]
        Progress("training", 4).step(4)
        print("the end")
    wrote, training, end = shown(out.getvalue())
    assert training.startswith("training: 4/4")
    assert (wrote, end) == ("wrote out", "the end")


def test_a_format_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORMAT, "xml")
    with pytest.raises(UserError, match=f"{FORMAT} is xml; it can be text or json"):
        log_format()


def test_progress_is_told_every_few_seconds_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([-9.0, 0.0, 1.0, 2.0, 6.0, 7.0, 8.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    work = Progress("work", 45)
    work.begin(40)  # of an earlier process
    for step in range(41, 46):
        work.step(step)
    assert capsys.readouterr().out == "work: 43/45  0.5/s  4 s left\nwork: 45/45  0.6/s  8 s\n"


def test_nothing_is_told_of_brief_work(capsys: pytest.CaptureFixture[str]) -> None:
    Progress("work", 1, brief=True).step(1)
    assert capsys.readouterr().out == ""


def test_what_a_folder_gets_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_growing, "Progress", partial(Progress, every_seconds=0))
    with growing(tmp_path / "model", "download", 3_000_000):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights").write_bytes(bytes(2_000_000))
        time.sleep(1.5)
    assert capsys.readouterr().out.startswith("download, MB: 2/3  ")
