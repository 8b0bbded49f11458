"""What is logged, as text, as JSON, on a terminal, to another process, or not at all."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tokenbuncher.core import progress
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.interrupts import finishing_steps
from tokenbuncher.core.log import (
    CHANNEL,
    FORMAT,
    RESULT,
    JsonFormatter,
    LineHandler,
    ScreenHandler,
    StageFormatter,
    TextFormatter,
    channel_handlers,
    event,
    log_format,
    logging_to,
    plain_handlers,
    printed_as_messages,
)
from tokenbuncher.core.progress import Progress
from tokenbuncher.core.stage import read_event
from tokenbuncher.storage import _growing
from tokenbuncher.storage._growing import growing

logger = logging.getLogger("tokenbuncher.somewhere.below")


def lines_of(kind: type[TextFormatter], quiet: bool = False) -> list[str]:
    """What a formatter makes of messages, progress and a result."""
    out = io.StringIO()
    with logging_to(LineHandler(out, kind("defend"), quiet=quiet)), printed_as_messages():
        logger.info("reading")
        print("and", end=" ")  # as another library does
        print("more")
        Progress("training", 4, every_seconds=0).step(1, harm=0.25, loss=float("nan"))
        logger.info("PASS", extra=event(RESULT, outcome="PASS"))
        logger.warning("100 %s")
        print("no end", end="")
    return out.getvalue().splitlines()


def test_text() -> None:
    reading, more, training, result, warning, end = lines_of(TextFormatter)
    assert (reading, more, result, warning, end) == ("reading", "and more", "PASS", "100 %s", "no end")
    assert training.startswith("training: 1/4  ")
    assert training.endswith(" s left  harm 0.25  loss nan")


def test_stage() -> None:
    assert [line.partition("] ")[0] for line in lines_of(StageFormatter)] == ["[defend"] * 6


def test_every_line_of_a_stage_carries_its_name() -> None:
    out = io.StringIO()
    with logging_to(LineHandler(out, StageFormatter("gate"))):
        logger.info("one\n\ntwo")
        logger.info("", extra=event("done"))
        logger.info("from the interrupted run", extra=event("kept", stage="defend"))
    assert out.getvalue() == "[gate] one\n[gate]\n[gate] two\n[gate done]\n[defend kept] from the interrupted run\n"


def test_json_is_an_object_a_line_with_figures_that_json_has() -> None:
    lines = [json.loads(line, parse_constant=pytest.fail) for line in lines_of(JsonFormatter)]
    assert [line["event"] for line in lines] == ["message", "message", "progress", "result", "message", "message"]
    assert [line["level"] for line in lines] == ["info"] * 4 + ["warning", "info"]
    assert {line["stage"] for line in lines} == {"defend"}
    assert all(timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(line["time"]) for line in lines)
    training = lines[2]
    assert (training["title"], training["done"], training["steps"]) == ("training", 1, 4)
    assert training["figures"] == {"harm": 0.25, "loss": None}
    assert training["rate"] > 0
    assert training["seconds_left"] == pytest.approx(3 / training["rate"])
    assert lines[3]["outcome"] == "PASS"


@pytest.mark.parametrize(
    "text", ["a\nb", '{"event": "done"}', "\x00\x1b[2J", "\u2028 line \x85 ends", "\ud800 torn", "ünïcödé"]
)
def test_json_is_one_line_whatever_the_text(text: str) -> None:
    out = io.StringIO()
    with logging_to(LineHandler(out, JsonFormatter("defend"))):
        logger.info(text)
    line = out.getvalue()
    assert len(line.splitlines()) == 1
    assert line.isascii()
    told = json.loads(line)
    assert (told["event"], told["text"]) == ("message", text)


@pytest.mark.parametrize("kind", [TextFormatter, StageFormatter, JsonFormatter])
def test_a_traceback_has_no_passwords(kind: type[TextFormatter]) -> None:
    out = io.StringIO()
    with logging_to(LineHandler(out, kind("defend"))):
        try:
            raise RuntimeError("cannot open postgresql://me:s3cret@db/mlflow")
        except RuntimeError:
            logger.exception("failed")
    assert "Traceback" in out.getvalue()
    assert "s3cret" not in out.getvalue()


@pytest.mark.parametrize("kind", [TextFormatter, JsonFormatter])
def test_quiet_tells_results_only(kind: type[TextFormatter]) -> None:
    (line,) = lines_of(kind, quiet=True)
    assert "PASS" in line


def test_without_a_log_of_its_own_warnings_of_a_command_are_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(*plain_handlers()):
        logger.info("a line")
        logger.warning("a warning")
    assert capsys.readouterr() == ("a line\n", "a warning\n")


def test_a_program_that_imports_the_library_sets_up_its_log_itself(caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("tokenbuncher")
    handlers, propagate = library.handlers, library.propagate
    with logging_to(LineHandler(io.StringIO(), TextFormatter())):
        assert library.handlers != handlers
    assert (library.handlers, library.propagate) == (handlers, propagate)


def test_output_that_nobody_takes_is_an_error() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    with logging_to(LineHandler(Gone(), TextFormatter())), pytest.raises(BrokenPipeError):
        logger.info("a line")


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
    with logging_to(ScreenHandler(out, TextFormatter("run-local"))):

        def say(text: str, kind: str = "message", **fields: str) -> None:
            logger.info(text, extra=event(kind, **fields))

        say("defend begins", "started", stage="defend")
        say("attack begins", "started", stage="attack grpo-1000")
        say("defend step 1", stage="defend")
        assert shown(out.getvalue()) == ["attack begins", "defend step 1"]
        say("attack step 1 " + "x" * 40, stage="attack grpo-1000")
        assert shown(out.getvalue()) == ["defend step 1", "attack step 1 " + "x" * 25]
        say("defend done", "done", stage="defend")
        assert shown(out.getvalue()) == ["defend done", "attack step 1 " + "x" * 25]
        say("attack failed", "failed", stage="attack grpo-1000")
        say("the table", "table")
    assert shown(out.getvalue()) == ["defend done", "attack failed", "the table"]


def test_a_terminal_keeps_the_progress_of_a_command_in_one_line() -> None:
    out = io.StringIO()
    with logging_to(ScreenHandler(out, TextFormatter("defend"))):
        for step in (1, 2):
            Progress("training", 4, every_seconds=0).step(step)
        (row,) = shown(out.getvalue())
        assert row.startswith("training: 2/4")
        logger.info("wrote out")
        assert shown(out.getvalue()) == ["wrote out"]
        Progress("training", 4).step(4)
        logger.info("the end")
    wrote, training, end = shown(out.getvalue())
    assert training.startswith("training: 4/4")
    assert (wrote, end) == ("wrote out", "the end")


Sent = Callable[[], list[bytes]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    """Names a channel in the environment; gives the messages that were sent by it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    monkeypatch.setenv(CHANNEL, str(its.fileno()))

    def messages() -> list[bytes]:
        found = []
        while True:
            try:
                found.append(ours.recv(2**20))
            except BlockingIOError:
                return found

    with ours, its:
        yield messages


def test_a_channel_takes_each_record_as_one_message(sent: Sent) -> None:
    with logging_to(*channel_handlers("defend")):
        assert CHANNEL not in os.environ  # it is not that of the processes that this one starts
        logger.info("two\nlines")
        logger.info("", extra=event("done", worked=1.5))
    message, done = map(read_event, sent())
    assert message
    assert message[:3] == ("defend", "message", "two\nlines")
    assert done
    assert done[:3] == ("defend", "done", "")
    assert done.fields["worked"] == 1.5


def test_a_channel_takes_nothing_that_is_of_no_stage(sent: Sent) -> None:
    with logging_to(*channel_handlers()):
        logger.info("loading")
        logger.info("", extra=event("kept", stage="defend"))
    (message,) = sent()
    assert b"kept" in message


def test_a_text_that_no_message_holds_is_cut_and_the_event_stays(sent: Sent) -> None:
    with logging_to(*channel_handlers("defend")):
        logger.info("\U0001f600" * 2_000_000, extra=event("failed", reasons=["x" * 10_000_000]))
    (message,) = map(read_event, sent())
    assert message
    assert message[:2] == ("defend", "failed")
    assert message.text.endswith("\U0001f600...")


def test_a_caller_who_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setenv(CHANNEL, str(its.fileno()))
    ours.close()
    with its, logging_to(*channel_handlers("defend")):
        logger.info("a line")


def test_a_signal_handler_waits_for_no_lock(sent: Sent, capfd: pytest.CaptureFixture[str]) -> None:
    with open(os.dup(1), "w", encoding="utf-8") as out:
        lines = LineHandler(out, StageFormatter("defend"))
        with logging_to(lines, *channel_handlers("defend")) as _, finishing_steps() as asked:
            held, release = threading.Event(), threading.Event()

            def hold() -> None:
                with lines.lock or threading.Lock():
                    logging._acquireLock()  # type: ignore[attr-defined]
                    held.set()
                    release.wait(30)
                    logging._releaseLock()  # type: ignore[attr-defined]

            holder = threading.Thread(target=hold)
            holder.start()
            held.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked()
            told = capfd.readouterr().out
            release.set()
            holder.join()
    assert told == "[defend] stopping: this step is finished and saved first; once more stops at once\n"
    (message,) = map(read_event, sent())
    assert message
    assert message.text.startswith("stopping: this step")


def test_a_signal_is_told_where_no_log_is_set_up(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(), finishing_steps():
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err.startswith("stopping: this step")


def test_a_signal_in_quiet_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(*plain_handlers(quiet=True)), finishing_steps():
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr() == ("", "")


def test_a_signal_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(*plain_handlers()), finishing_steps():
        os.kill(os.getpid(), signal.SIGTERM)
    told = capfd.readouterr()
    assert told.out.startswith("stopping: this step")
    assert told.err == ""


def test_figures_that_json_does_not_have_end_no_stage() -> None:
    out = io.StringIO()
    with logging_to(LineHandler(out, JsonFormatter("defend"))):
        logger.info("", extra=event("result", path=Path("x"), reward=np.float32(0.5), pair=(1.0, float("nan"))))
    line = json.loads(out.getvalue())
    assert (line["path"], line["reward"], line["pair"]) == ("x", "0.5", [1.0, None])


def test_a_channel_that_is_none_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHANNEL, "987")
    assert channel_handlers() == []
    assert CHANNEL not in os.environ


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
