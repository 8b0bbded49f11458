"""When an attack began that can be interrupted; it goes on with the same tool, judge and reward, or not at all."""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime

from tokenbuncher.core.documents import Strict
from tokenbuncher.core.files import write_text
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.storage.dependencies import Doubtful, surroundings

logger = logging.getLogger(__name__)

FILE_NAME = "begun.json"


class Begun(Strict):
    """What is written into a working folder when the work begins."""

    at: AwareDatetime
    surroundings: str | None
    """See `dependencies.surroundings`; null if they were in doubt."""


def begun(spec: ReleaseSpec, work: Path) -> datetime:
    """When the work in a folder began, which is the age of what was measured there.

    What was measured with another tool, judge or reward, or longer ago than evidence is valid, is deleted first.

    Args:
        spec: The release spec.
        work: The working folder; nobody else works in it.
    """
    try:
        now = surroundings(spec)
    except Doubtful as doubt:
        logger.info(f"nothing is gone on with: {doubt} may have changed; pin it by its digest")
        now = None
    before = _read(work / FILE_NAME)
    if before and now and before.surroundings == now and spec.policy.is_fresh(before.at):
        return before.at
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    at = datetime.now(UTC)
    write_text(work / FILE_NAME, Begun(at=at, surroundings=now).model_dump_json())
    return at


def _read(path: Path) -> Begun | None:
    try:
        return Begun.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # cut off, or of another form
        return None
