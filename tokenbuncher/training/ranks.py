"""The processes that train one model together, as torchrun and accelerate start them; usually there is but one.

All of them run the same stage and measure the same things. The first one decides, speaks and writes: what it has
measured counts for all, so that none goes on where another stops, and the files of the others are thrown away.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import whole_folder, working_folder
from tokenbuncher.core.log import ROOT

T = TypeVar("T")


def count() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def number() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if "LOCAL_RANK" in os.environ else 0


def share(whole: int, what: str) -> int:
    """How many of these each process gets.

    Args:
        whole: How many there are.
        what: What they are, for the error.

    Raises:
        UserError: If they cannot be shared out evenly; the figures would not be those of one process.
    """
    if whole % count():
        raise UserError(f"{whole} {what} cannot be shared out among {count()} processes; choose a multiple of that")
    return whole // count()


def join() -> None:
    """Meets the others, takes this process's GPU, and leaves the talking to the first; before any model is loaded."""
    if count() == 1:
        return
    import torch
    from accelerate import PartialState

    if torch.distributed.is_initialized():
        return
    PartialState(cpu=not torch.cuda.is_available())
    # On a resume transformers wants tensors on "cpu:0", a place that torch.load does not know.
    torch.serialization.register_package(
        1000, lambda _: None, lambda storage, place: storage if place.startswith("cpu:") else None
    )
    if number() > 0:
        ROOT.setLevel(logging.ERROR)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process


def from_first(value: T) -> T:
    """The first process's value, in every process; all of them wait here for each other."""
    if count() == 1:
        return value
    from torch.distributed import broadcast_object_list

    box = [value]
    broadcast_object_list(box, src=0)
    return box[0]


def by_first(make: Callable[[], T]) -> T:
    """What the first process makes, in every process; the others may not be able to."""
    return from_first(make() if number() == 0 else cast(T, None))


def gathered(values: list[T]) -> list[T]:
    """The values of all processes, in the order of the processes."""
    if count() == 1:
        return values
    from torch.distributed import all_gather_object

    parts: list[list[T]] = [[] for _ in range(count())]
    all_gather_object(parts, values)
    return [value for part in parts for value in part]


def weight(own: int) -> float:
    """What makes the mean of all processes' means the mean over all their items.

    Args:
        own: How many items the mean of this process is over; the processes may have different numbers.
    """
    return own * count() / max(sum(gathered([own])), 1)


@contextmanager
def stage_folders(root: Path, identity: tuple[str, ...], out: Path) -> Iterator[tuple[Path, Path]]:
    """Joins the processes and gives each a folder to work in and one to write its output to.

    Args:
        root: Where working folders are; see `working_folder`.
        identity: What the work is about.
        out: The output folder, which is whole or absent.

    Raises:
        UserError: If another run works on the same.
    """
    join()
    if number() == 0:
        with working_folder(root, *identity) as work, whole_folder(out) as folder:
            yield work, folder
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch) / "work", Path(scratch) / "out"
