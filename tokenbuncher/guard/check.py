"""Whether a version may have a protected alias: its attestation, and its files as they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from tokenbuncher.attestation import Statement, verify
from tokenbuncher.attestation.statement import StoredFile
from tokenbuncher.core.errors import UserError
from tokenbuncher.guard.settings import GuardSettings, Protected, trusted_keys
from tokenbuncher.settings.policy import load_policy
from tokenbuncher.storage.artifact_files import Files, Unfit, files_at
from tokenbuncher.storage.artifacts import stored_files
from tokenbuncher.storage.s3 import Stored

MEGABYTE = 1024 * 1024
MOST_TOLD = 5
"""Problems that a refusal lists; the others are counted."""


class OnRecord(NamedTuple):
    """What the registry has on record for a version beside its attestation."""

    refused_at: str | None = None
    """When it was last refused by a verdict, see `REFUSED_TAG`."""
    made: datetime | None = None
    """When the version was made."""


NOTHING_ON_RECORD = OnRecord()


def check_version(
    settings: GuardSettings,
    protected: Protected,
    name: str,
    *,
    version: str,
    attestation: str | None,
    location: Callable[[], str],
    now: datetime | None = None,
    told: Callable[[Exception], str] = str,
    record: OnRecord = NOTHING_ON_RECORD,
) -> list[str]:
    """Why a version must not have a protected alias or stage; nothing if it may.

    Args:
        settings: The guard's settings.
        protected: The protection of the alias or stage.
        name: The name of the registered model.
        version: The version of the model.
        attestation: The envelope on record for the version, as JSON text.
        location: Gives the URI at which the version's files are read; raises a UserError if that is not allowed.
        now: The time of the check; the present, if None.
        told: Words an error of this machine's own files and stores for whoever asks.
        record: What else the registry has on record for the version.
    """
    if attestation is None:
        return [f"{name} version {version} has no attestation; promote it with one"]
    try:
        keys, policy = trusted_keys(settings, protected), load_policy(protected.policy).digest()
    except UserError as error:
        return [told(error)]
    try:
        withdrawn = settings.withdrawn(name, record.refused_at, record.made)
        statement, problems = verify(
            attestation, keys, now, policy=policy, model=name, version=version, withdrawn=withdrawn
        )
        if problems:
            return problems
        place = location()
    except UserError as error:
        return [str(error)]
    try:
        return _shortened(_file_problems(settings, statement, place))
    except Unfit as error:
        return _shortened([str(error)])
    except UserError as error:
        return [told(error)]


def _file_problems(settings: GuardSettings, statement: Statement, location: str) -> list[str]:
    """What differs between the files that were judged and those of the version now.

    What was signed bounds what is read: a version with other files is refused by their names and sizes.
    """
    judged = {file.name: file for file in statement.predicate.files}
    if len(judged) > settings.max_files:
        return [f"it has more than the {settings.max_files} files that the guard takes (max_files)"]
    files = files_at(location)
    sizes = files.sizes(settings.max_files)
    problems = [
        *(f"file {name} is missing" for name in judged if name not in sizes),
        *(f"file {name} was not judged" for name in sizes if name not in judged),
    ]
    kept = {name: file for name, file in judged.items() if name in sizes}
    megabytes = sum(file.size for file in judged.values()) / MEGABYTE
    if megabytes > settings.hash_below_mb and all(file.stored is not None for file in judged.values()):
        stored = stored_files(location, kept)
        if stored is not None:
            return [*problems, *_written_again(kept, stored)]
    if megabytes > settings.max_mb:
        return [f"it has more than the {settings.max_mb} MB that the guard reads (max_mb)"]
    return [*problems, *_other_content(statement.files(), kept, sizes, files=files)]


def _other_content(
    digests: Mapping[str, str], judged: Mapping[str, StoredFile], sizes: Mapping[str, int], *, files: Files
) -> Iterator[str]:
    """The files whose content differs from what was judged, by size or by sha256."""
    for name, file in judged.items():
        if sizes[name] > file.size:
            yield f"file {name} has {sizes[name]} bytes, not the judged {file.size}"
        elif (digest := files.digest(name, file.size)) != digests[name]:
            yield f"file {name} has sha256 {digest[:12]}, not the judged {digests[name][:12]}"


def _written_again(judged: Mapping[str, StoredFile], stored: Mapping[str, Stored]) -> Iterator[str]:
    """The files that the store has replaced since they were judged."""
    for name, file in judged.items():
        now = stored[name]
        if now != (file.size, file.stored):
            yield (
                f"file {name} was written again: the store has {now.size} bytes, {now.name}; judged were {file.size} "
                f"bytes, {file.stored}"
            )


def _shortened(problems: list[str]) -> list[str]:
    """The first of many problems, in printable characters."""
    told = [problem if problem.isprintable() else ascii(problem) for problem in problems[:MOST_TOLD]]
    more = len(problems) - len(told)
    return [*told, f"and {more} more"] if more else told
