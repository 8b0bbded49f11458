"""Step logs: a JSON line for each step of a training. They are for reading: no rule sees them, and none is signed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter

from tokenbuncher.evidence._records import found_below

logger = logging.getLogger(__name__)

DEFENCE_STEPS = "defence.steps.jsonl"
"""Name of the defence's step log, by which it is found beside evidence."""
MOST_STEPS = 10**9
LARGEST = 2**25
"""Bytes; a hundred thousand steps."""

_ROW = TypeAdapter(dict[Annotated[str, Field(pattern="^[a-z_]{1,64}$")], float], config=ConfigDict(strict=True))


class Step(NamedTuple):
    """A row of a step log."""

    number: int
    figures: dict[str, float]
    """Finite ones, by name."""


def read_steps(path: Path) -> list[Step]:
    """Reads a step log.

    Args:
        path: The file; or anything else, since no verdict may depend on a step log.

    Returns:
        Its rows; none if there is no such file, and none, with a warning, if it cannot be read.
    """
    try:
        found = path.stat()
        if not (S_ISREG(found.st_mode) and found.st_size <= LARGEST):
            raise ValueError(f"it is no file of at most {LARGEST // 2**20} MiB")
        return [_step(line) for line in path.read_bytes().splitlines()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        logger.warning(f"WARNING: step log {path} is left out, it cannot be read: {reason}")
        return []


def read_defence_steps(places: Iterable[Path]) -> list[Step]:
    """Reads the step log of a defence.

    Args:
        places: Step logs, or folders that hold it at any depth; evidence files beside them are passed over.

    Returns:
        Its rows; none if there is no log, and none, with a warning, if there are several or it cannot be read.
    """
    try:
        found = _logs(places)
    except OSError as error:
        logger.warning(f"WARNING: a step log of the defence could not be looked for: {error}")
        return []
    if len(found) > 1:
        logger.warning(f"WARNING: step logs of several defences are left out: {', '.join(map(str, found))}")
        return []
    return [row for path in found for row in read_steps(path)]


def _logs(places: Iterable[Path]) -> list[Path]:
    folders = [place for place in places if place.is_dir() or place.suffix == ".jsonl"]
    return sorted({path.resolve() for place in folders for path in found_below(place, DEFENCE_STEPS) if path.exists()})


def _step(line: bytes) -> Step:
    row = _ROW.validate_json(line)
    number = row.pop("step", math.nan)
    if not (0 <= number <= MOST_STEPS and number.is_integer()):
        raise ValueError(f"{number} is no number of a step")
    return Step(int(number), {name: value for name, value in row.items() if math.isfinite(value)})
