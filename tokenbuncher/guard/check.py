"""Whether a version may have a protected alias: its attestation, and its files as they are now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenbuncher.artifacts import stored_files
from tokenbuncher.attestation import Statement, verify, verify_files
from tokenbuncher.errors import UserError
from tokenbuncher.files import folder_files
from tokenbuncher.guard.settings import GuardSettings, Protected, trusted_keys
from tokenbuncher.policy import load_policy

MEGABYTE = 1024 * 1024


def check_version(
    settings: GuardSettings,
    protected: Protected,
    name: str,
    version: str,
    attestation: str | None,
    location: Callable[[], str],
    now: datetime | None = None,
    refused_at: str | None = None,
) -> list[str]:
    """Why a version must not have a protected alias or stage; nothing means that it may.

    Args:
        settings: The guard's settings.
        protected: What is asked for.
        name: Name of the registered model.
        version: Its version.
        attestation: The envelope on record for the version, as JSON text.
        location: Gives the URI at which the server finds the version's files.
        now: The present, unless given.
        refused_at: When the version was last refused by a verdict, as its tag has it.
    """
    if attestation is None:
        return [f"{name} version {version} has no attestation; promote it with one"]
    try:
        statement, problems = verify(
            attestation,
            trusted_keys(settings, protected),
            now=now,
            policy=load_policy(protected.policy).digest(),
            model=name,
            version=version,
            withdrawn=settings.withdrawn(name, refused_at),
        )
        return problems or _file_problems(settings, statement, location())
    except UserError as error:
        return [str(error)]


def _file_problems(settings: GuardSettings, statement: Statement, location: str) -> list[str]:
    """What differs between the files that were judged and those of the version now."""
    attested = {file.name: (file.size, file.stored) for file in statement.predicate.files}
    stored = stored_files(location)
    megabytes = sum(file.size for file in (stored or {}).values()) / MEGABYTE
    comparable = stored is not None and all(name is not None for _, name in attested.values())
    if stored is None or not comparable or megabytes <= settings.hash_below_mb:
        return verify_files(statement, _hashed(location))
    return [
        *(f"file {name} is missing" for name in attested if name not in stored),
        *(f"file {name} was not judged" for name in stored if name not in attested),
        *(
            f"file {name} was written again: the store has {stored[name].size} bytes, {stored[name].name}; judged were "
            f"{size} bytes, {known}"
            for name, (size, known) in attested.items()
            if name in stored and stored[name] != (size, known)
        ),
    ]


def _hashed(location: str) -> dict[str, str]:
    from mlflow.artifacts import download_artifacts

    with TemporaryDirectory(prefix="tokenbuncher-guard-") as scratch:
        return folder_files(Path(download_artifacts(artifact_uri=location, dst_path=scratch)))
