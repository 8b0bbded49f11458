"""Tasks begin when there is capacity for them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pipelines.local.capacity import Capacity, Need, free_memory

GB = 1e9


class Tasks:
    """Tasks in threads of their own, which end when they are told to."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.began: list[str] = []
        self._ended: dict[str, threading.Event] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._change = threading.Condition()

    def ask(self, name: str, seconds: float, memory: float) -> None:
        self._ended[name] = threading.Event()
        self._threads[name] = threading.Thread(target=self._run, args=(name, Need(seconds, memory)), daemon=True)
        self._threads[name].start()

    def _run(self, name: str, need: Need) -> None:
        with self.capacity.taken(need):
            with self._change:
                self.began.append(name)
                self._change.notify_all()
            self._ended[name].wait()

    def end(self, name: str) -> None:
        self._ended[name].set()
        self._threads[name].join(10)

    def begun(self, number: int) -> list[str]:
        """The tasks that have begun, when there are so many."""
        with self._change:
            self._change.wait_for(lambda: len(self.began) >= number, timeout=10)
            return list(self.began)

    def wait_until_waiting(self, number: int) -> None:
        with self.capacity._changed:
            assert len(self.capacity._waiting) <= number
        for _ in range(1000):
            with self.capacity._changed:
                if len(self.capacity._waiting) == number:
                    return
            threading.Event().wait(0.01)
        raise AssertionError("the tasks did not come to wait")


@pytest.fixture
def tasks_in() -> Callable[[Capacity], Tasks]:
    return Tasks


def test_no_more_than_so_many_at_a_time_and_the_longest_first(tasks_in: Callable[[Capacity], Tasks]) -> None:
    tasks = tasks_in(Capacity(2, lambda: 100 * GB))
    tasks.ask("first", 1, GB)
    tasks.begun(1)
    tasks.ask("second", 1, GB)
    assert tasks.begun(2) == ["first", "second"]

    tasks.ask("short", 1, GB)
    tasks.ask("long", 9, GB)
    tasks.ask("middle", 5, GB)
    tasks.wait_until_waiting(3)
    tasks.end("first")
    assert tasks.begun(3)[2:] == ["long"]
    tasks.end("long")
    assert tasks.begun(4)[3:] == ["middle"]
    tasks.end("second")
    assert tasks.begun(5)[4:] == ["short"]


def test_a_task_waits_for_memory_that_others_have_been_promised(tasks_in: Callable[[Capacity], Tasks]) -> None:
    tasks = tasks_in(Capacity(3, lambda: 10 * GB))  # none of it seems to be taken
    tasks.ask("large", 9, 7 * GB)
    tasks.begun(1)
    tasks.ask("too large now", 9, 4 * GB)
    tasks.ask("small", 1, 2 * GB)
    assert tasks.begun(2)[1:] == ["small"]
    tasks.wait_until_waiting(1)
    tasks.end("large")
    assert tasks.begun(3)[2:] == ["too large now"]


def test_a_task_waits_for_memory_that_another_program_has_taken(tasks_in: Callable[[Capacity], Tasks]) -> None:
    free = 10 * GB
    tasks = tasks_in(Capacity(2, lambda: free))
    tasks.ask("first", 1, GB)
    tasks.begun(1)
    free = 2 * GB
    tasks.ask("second", 1, 3 * GB)
    tasks.wait_until_waiting(1)
    free = 5 * GB
    assert tasks.begun(2)[1:] == ["second"]


@pytest.mark.parametrize("memory", [100 * GB, float("inf")], ids=["too-much", "unknown"])
def test_what_fits_nowhere_has_the_machine_to_itself(memory: float, tasks_in: Callable[[Capacity], Tasks]) -> None:
    tasks = tasks_in(Capacity(2, lambda: 10 * GB))
    tasks.ask("first", 1, GB)
    tasks.begun(1)
    tasks.ask("huge", 1, memory)
    tasks.wait_until_waiting(1)
    tasks.end("first")
    assert tasks.begun(2) == ["first", "huge"]
    tasks.ask("after", 1, GB)
    tasks.wait_until_waiting(1)
    tasks.end("huge")
    assert tasks.begun(3)[2:] == ["after"]


def test_capacity_is_given_back_by_a_task_that_fails() -> None:
    capacity = Capacity(1, lambda: GB)
    with pytest.raises(RuntimeError), capacity.taken(Need(1, GB)):
        raise RuntimeError
    with capacity.taken(Need(1, GB)):
        pass


def test_this_machine_has_memory() -> None:
    assert 0 < free_memory() < 2**50
