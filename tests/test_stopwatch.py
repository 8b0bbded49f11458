"""The time of blocks within blocks counts once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tokenbuncher.core import stopwatch
from tokenbuncher.core.stopwatch import worked, working


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass."""
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_nested_blocks_count_once_and_pauses_do_not_count(passes: Callable[[float], None]) -> None:
    before = worked()

    @working()
    def inner() -> None:
        passes(2.0)

    with working():
        inner()
        passes(1.0)
        inner()
    passes(10.0)
    inner()
    assert worked() - before == 7.0


def test_a_block_that_fails_counts_and_ends(passes: Callable[[float], None]) -> None:
    before = worked()
    with pytest.raises(ZeroDivisionError), working():
        passes(2.0)
        raise ZeroDivisionError
    passes(5.0)
    assert worked() - before == 2.0
