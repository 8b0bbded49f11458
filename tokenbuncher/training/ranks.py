"""The processes that train a model together, as torchrun and accelerate start them; usually only one.

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
    """The number of processes that train together."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def number() -> int:
    """The rank of this process, from 0."""
    return int(os.environ["RANK"]) if "LOCAL_RANK" in os.environ else 0


def share(whole: int, what: str) -> int:
    """The share of each process.

    Args:
        whole: Total number of items.
        what: Name of the items in the error message.

    Raises:
        UserError: If they cannot be shared out evenly; the figures would not be those of one process.
    """
    if whole % count():
        raise UserError(f"{whole} {what} cannot be shared out among {count()} processes; choose a multiple of that")
    return whole // count()


def join() -> None:
    """Joins the other processes, takes a GPU and silences all ranks but 0. Call it before loading a model."""
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
    """The value of rank 0, in every process. All processes wait for each other here."""
    if count() == 1:
        return value
    from torch.distributed import broadcast_object_list

    box = [value]
    broadcast_object_list(box, src=0)
    return box[0]


def by_first(make: Callable[[], T]) -> T:
    """The result of a function that only rank 0 runs, in every process."""
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
    """The weight that turns the mean of all processes' means into the mean over all items.

    Args:
        own: Number of items in the mean of this process. Processes may have different numbers.
    """
    return own * count() / max(sum(gathered([own])), 1)


@contextmanager
def stage_folders(root: Path, identity: tuple[str, ...], out: Path) -> Iterator[tuple[Path, Path]]:
    """Joins the processes and gives each a folder to work in and one to write its output to.

    Args:
        root: Folder that holds the working folders; see `working_folder`.
        identity: Words that identify the work.
        out: The output folder, which is written whole or not at all.

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
