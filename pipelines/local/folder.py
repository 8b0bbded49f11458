"""The folder of a run: what is in it, whether a run may use it, and what becomes of what an earlier one has left."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from tokenbuncher.core.errors import UserError
from tokenbuncher.evidence import REGISTRATION_NAME, read_registration
from tokenbuncher.registry.history import FILE_NAME as HISTORY
from tokenbuncher.registry.history import remember
from tokenbuncher.storage.dependencies import tool
from tokenbuncher.verdict import FILE_NAME, read_verdict

LOG = "run.log"
LOGS = "logs"
ARTIFACTS = "artifacts"
INTERRUPTED = ".interrupted"
"""What an interrupted run has left and this one may still take over; removed with the verdict."""
SPEC = "spec.yaml"
REPORT = "report.html"
VERDICT_FILES = ("report.md", "report.json", "card.md", "junit.xml", "attestation.json")
LOCK = ".lock"
LEFT = {LOG, LOGS, ARTIFACTS, INTERRUPTED, SPEC, LOCK, HISTORY, FILE_NAME, REPORT, *VERDICT_FILES}
"""All that a run leaves in its folder."""


def check_run_folder(folder: Path, resume: bool = False) -> None:
    """Checks that a folder is that of an earlier run, or none is there yet.

    Args:
        folder: The folder.
        resume: Whether what the earlier run has completed is to be reused.

    Raises:
        UserError: If it holds something else, so that what is called like a run's files may be the user's; or if it
            is to be resumed, and another version of the tool has left it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is there and is no folder; change the spec's name or output.root")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    foreign = sorted(there - LEFT)
    if foreign and not {LOCK, SPEC} <= there:
        raise UserError(
            f"{folder} holds {foreign[0]!r} and is no folder of an earlier run, and files in it would be replaced; "
            "change the spec's name or output.root, or move that folder away"
        )
    left = any((folder / name).exists() for name in (ARTIFACTS, INTERRUPTED))
    if resume and left and _made_by(folder) != tool():
        raise UserError(
            f"{folder} was left by another version of tokenbuncher or of its libraries, so its stages cannot be reused "
            "and nothing in it was changed; resume with that version, or run without --resume, which starts anew in "
            "its place"
        )


def _made_by(folder: Path) -> str:
    """The tool that the last run of a folder noted in its lock; empty before runs noted it."""
    try:
        return (folder / LOCK).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


@contextmanager
def in_use(folder: Path) -> Iterator[TextIO]:
    """Locks the folder during the block.

    Yields:
        The lock, a file.

    Raises:
        UserError: If another run holds it.
    """
    with (folder / LOCK).open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is in use by another run; wait for it, or change the spec's name") from None
        yield lock


def clear(folder: Path, lock: TextIO, resume: bool) -> None:
    """Removes what an earlier run of the name left, its verdict first; to resume, its artifacts are put aside.

    That there was a verdict stays in the history, even if the run was ended before it could say so.

    Args:
        folder: The folder of the run.
        lock: Its lock, where the tool of this run is noted.
        resume: Whether what the earlier run has completed is to be reused.
    """
    remember_verdict(folder)
    for name in (FILE_NAME, REPORT, *VERDICT_FILES):
        (folder / name).unlink(missing_ok=True)
    artifacts, interrupted = folder / ARTIFACTS, folder / INTERRUPTED
    if resume:
        interrupted.mkdir(exist_ok=True)
        for path in artifacts.iterdir() if artifacts.exists() else ():
            path.rename(interrupted / path.name)
    else:
        (folder / LOG).unlink(missing_ok=True)
        for path in (artifacts, folder / LOGS, interrupted):
            if path.exists():
                shutil.rmtree(path)
    lock.truncate(0)
    lock.write(tool())
    lock.flush()


def judged_in(folder: Path) -> Path | None:
    """The verdict among the artifacts of a run."""
    return next((folder / ARTIFACTS).glob(f"*/gate/verdict/{FILE_NAME}"), None)


def remember_verdict(folder: Path) -> None:
    """Appends the verdict among the artifacts to the history of the name, unless it stands there already."""
    judged = judged_in(folder)
    registered = next((folder / ARTIFACTS).glob(f"*/register/registration/{REGISTRATION_NAME}"), None)
    if judged and registered:
        with suppress(UserError):  # a verdict that cannot be read is none
            remember(folder, read_verdict(judged), read_registration(registered))
