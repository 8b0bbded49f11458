"""Shows the progress of downloads by other libraries, by what has arrived."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenbuncher.core.progress import Progress

MB = 1_000_000


@contextmanager
def growing(folder: Path, title: str, size: int) -> Iterator[None]:
    """Within the block, shows how much of the expected size a folder holds.

    Args:
        folder: Folder that is being filled, at any depth. It need not exist yet.
        title: Title of the progress line.
        size: Expected size in bytes.
    """
    progress, over = Progress(f"{title}, MB", math.ceil(size / MB), brief=True), threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            progress.step(min(_size(folder) // MB, progress.steps - 1))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _size(folder: Path) -> int:
    """Bytes of the files below a folder, as far as they are still there."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed meanwhile
            continue
    return total
