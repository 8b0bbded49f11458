"""The guard's check, made from outside: what it needs is read by the registry's API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.artifacts import located
from tokenbuncher.attestation import TAG, refusal
from tokenbuncher.guard import check_version, load_guard
from tokenbuncher.guard.check import Record
from tokenbuncher.guard.watch.service import Check, Place
from tokenbuncher.tracking import version_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


def attestation_check(client: MlflowClient, settings: Path) -> Check:
    """A check whether a version may have a protected alias or stage, by the guard's settings as they are at that time.

    Args:
        client: Of the registry.
        settings: The guard's settings file.

    Returns:
        The check. It raises an error if settings, registry or artifact store cannot be read.
    """

    def check(name: str, version: str, place: Place) -> list[str]:
        guard = load_guard(settings)
        protected = guard.protected(place.name) if place.kind == "alias" else dict(guard.stages).get(place.name)
        if protected is None:
            return []
        tags = version_of(client, name, version).tags
        return check_version(
            guard,
            protected,
            name,
            version,
            tags.get(TAG),
            lambda: _location(client, name, version),
            record=Record(refusal(tags)),
        )

    return check


def _location(client: MlflowClient, name: str, version: str) -> str:
    """Where the watcher itself finds the files of a version.

    Raises:
        ConnectionError: If the store there does not answer: that is not to be held against the version.
    """
    location = located(client, name, version)
    return location
