"""The time of blocks within blocks counts once."""

from __future__ import annotations

import time

import pytest

from tokenbuncher.core.stopwatch import worked, working


def test_nested_blocks_count_once_and_pauses_do_not_count() -> None:
    before = worked()

    @working()
    def inner() -> None:
        time.sleep(0.02)

    with working():
        inner()
        inner()
    time.sleep(0.1)
    inner()
    assert 0.06 <= worked() - before < 0.1


def test_a_block_that_fails_counts_and_ends() -> None:
    before = worked()
    with pytest.raises(ZeroDivisionError), working():
        time.sleep(0.02)
        raise ZeroDivisionError
    time.sleep(0.05)
    assert 0.02 <= worked() - before < 0.05
