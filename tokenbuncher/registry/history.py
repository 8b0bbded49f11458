"""The verdicts of every run of a name: a line each in the run's folder, appended and never removed.

    remember(folder, verdict, registration)
    history(folder)                          # [Entry(outcome="BLOCK", ...), ...]

Each line has the sha256 of the line before, so that a line that was changed or removed is noticed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pydantic import ValidationError

from tokenbuncher.core.documents import first_problem
from tokenbuncher.core.errors import UserError
from tokenbuncher.evidence import Digest, Moment, Record, Registration
from tokenbuncher.verdict import Outcome, Verdict

FILE_NAME = "history.jsonl"


class Entry(Record):
    """A verdict in the history of its name."""

    previous: Digest | None
    """The digest of the line before; None in the first line."""
    evidence: Digest
    """What identifies the try; see `Tries`."""
    outcome: Outcome
    reasons: list[str]
    waived: list[str]
    name: str
    version: str
    candidate: Digest
    spec: Digest
    policy: Digest
    created: Moment


def remember(folder: Path, verdict: Verdict, registration: Registration) -> None:
    """Appends a verdict to the history in a run's folder, once.

    Damage in the lines before stays as it is; `history` finds it.

    Raises:
        OSError: If the file cannot be read or written.
    """
    path = folder / FILE_NAME
    known = path.read_bytes() if path.exists() else b""
    lines = known.splitlines()
    shared = {name: getattr(verdict, name) for name in Entry.model_fields if name not in ("previous", "evidence")}
    made_by = registration.tries.evidence if registration.tries else verdict.candidate
    entry = Entry(previous=_digest(lines[-1]) if lines else None, evidence=made_by, **shared)
    if any(_same(line, entry) for line in lines):
        return
    with path.open("ab") as stream:
        stream.write(b"" if known.endswith(b"\n") or not known else b"\n")
        stream.write(entry.model_dump_json().encode() + b"\n")
        os.fsync(stream.fileno())


def history(folder: Path) -> list[Entry]:
    """The verdicts in a run's folder, the oldest first; none if there is no history.

    Raises:
        UserError: If it cannot be read, or a line was changed or removed.
    """
    path = folder / FILE_NAME
    if not os.path.lexists(path):
        return []
    try:
        *lines, rest = path.read_bytes().split(b"\n")
        entries = [Entry.model_validate_json(line) for line in lines]
    except OSError as error:
        raise UserError(f"the history {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise UserError(f"the history {path} is damaged: {first_problem(error)}") from error
    told = [entry.previous for entry in entries]
    if rest or told != [None, *map(_digest, lines[:-1])][: len(told)]:
        raise UserError(f"the history {path} is not whole: a line of it was changed or removed")
    return entries


def _same(line: bytes, entry: Entry) -> bool:
    try:
        known = Entry.model_validate_json(line)
    except ValidationError:
        return False
    return (known.evidence, known.version, known.created) == (entry.evidence, entry.version, entry.created)


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
