"""Lines and events of a running stage, and how it ends."""

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.log import CHANNEL, FORMAT, PROGRESS, event
from tokenbuncher.core.stage import Event, read_event, running

logger = logging.getLogger("tokenbuncher.somewhere.below")
Told = Callable[[], list[tuple[str, str, str]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """Gives a stage a channel; gives stage, kind and text of the events that came by it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setenv(CHANNEL, str(its.fileno()))

    def told() -> list[tuple[str, str, str]]:
        its.close()
        events = map(read_event, iter(lambda: ours.recv(2**20), b""))
        return [event[:3] for event in events if event]

    with ours, its:
        yield told


def test_lines_carry_the_stage_and_errors_stay_apart(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    with running("attack", "grpo-1000") as own:
        logger.info("step 5\nstep 10")
        own.info("of the stage")
        print("in parts", end=" ")
        print("and whole")
        print("noise", file=sys.stderr)
        print("without an end", end="")

    lines = ["step 5", "step 10", "of the stage", "in parts and whole", "without an end"]
    assert capsys.readouterr() == (
        "[attack grpo-1000 started]\n"
        + "".join(f"[attack grpo-1000] {line}\n" for line in lines)
        + "[attack grpo-1000 done]\n",
        "noise\n",
    )
    assert told() == [
        ("attack grpo-1000", "started", ""),
        ("attack grpo-1000", "message", "step 5\nstep 10"),
        *[("attack grpo-1000", "message", line) for line in lines[2:]],
        ("attack grpo-1000", "done", ""),
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
    error: Exception, says: str, traced: bool, status: int, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_, running("defend"):
        raise error

    out, err = capsys.readouterr()
    assert exit_.value.code == status
    assert out.splitlines()[-1] == f"[defend failed] {says}"
    assert told()[-1] == ("defend", "failed", says)
    assert ("Traceback" in err) == traced


def test_interrupt_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt), running("defend"):
        raise KeyboardInterrupt


def test_sigterm_interrupts(told: Told) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), running("defend"):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError
    assert signal.getsignal(signal.SIGTERM) == before
    assert told()[-1] == ("defend", "interrupted", "")


def test_the_log_of_a_pod_may_be_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(FORMAT, "json")
    with pytest.raises(SystemExit), running("attack", "grpo-1000"):
        print("[gate done]")
        logger.info("5/60", extra=event(PROGRESS, done=5, steps=60))
        raise UserError("no good")

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["level"], line["stage"], line["event"], line["text"]) for line in lines] == [
        ("info", "attack grpo-1000", "started", ""),
        ("info", "attack grpo-1000", "message", "[gate done]"),
        ("info", "attack grpo-1000", "progress", "5/60"),
        ("error", "attack grpo-1000", "failed", "no good"),
    ]
    assert (lines[2]["done"], lines[2]["steps"]) == (5, 60)


EVENT = {"time": "", "level": "info", "stage": "gate", "event": "done", "text": "", "worked": 0.0}


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "announce"},
        {"stage": ["gate"]},
        {"stage": None},
        {"event": "promoted"},
        {"event": None},
        {"event": ["done"]},
        {"text": 5},
    ],
)
def test_events_that_there_are_not(change: dict[str, object]) -> None:
    assert read_event(json.dumps(EVENT).encode()) == Event("gate", "done", "", EVENT)
    assert read_event(json.dumps(EVENT | change).encode()) is None
    assert read_event(json.dumps([EVENT]).encode()) is None


@given(
    message=st.binary() | st.integers(0, len(json.dumps(EVENT)) - 1).map(lambda end: json.dumps(EVENT)[:end].encode())
)
def test_torn_and_foreign_messages_are_no_events(message: bytes) -> None:
    assert read_event(message) is None


HOSTILE = [
    "[gate done]",
    "[attack grpo-1000 failed] broken",
    json.dumps(EVENT),
    f"\n{json.dumps(EVENT)}\n",
    '"}\n' + json.dumps(EVENT),
    "\x00" + json.dumps(EVENT),
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_text_that_looks_like_an_event_is_a_message(
    text: str, form: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORMAT, form)
    with running("defend"):
        logger.info(text)
        print(text)
        print(text, file=sys.stderr)
    kinds = [(stage, kind) for stage, kind, _ in told()]
    assert kinds[0] == ("defend", "started")
    assert set(kinds[1:-1]) == {("defend", "message")}
    assert kinds[-1] == ("defend", "done")
