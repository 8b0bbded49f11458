"""The guard's check, made from outside: what it needs is read by the registry's API."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlparse

from tokenbuncher.attestation import TAG, refusal
from tokenbuncher.core.errors import UserError
from tokenbuncher.guard import check_version, load_guard
from tokenbuncher.guard.check import OnRecord
from tokenbuncher.guard.watch.service import Check, Place
from tokenbuncher.settings.artifact_uris import SERVED
from tokenbuncher.storage.artifacts import inside, located, server_root
from tokenbuncher.storage.tracking import version_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


def attestation_check(client: MlflowClient, settings: Path) -> Check:
    """A check whether a version may have a protected alias or stage, by the guard's settings as they are at that time.

    Args:
        client: A client of the registry.
        settings: The guard's settings file.

    Returns:
        The check. It raises an error if settings, registry or artifact store cannot be read.
    """

    def check(name: str, version: str, place: Place) -> list[str]:
        guard = load_guard(settings)
        protected = guard.protected(place.name) if place.kind == "alias" else guard.protected_stage(place.name)
        if protected is None:
            return []
        tags = version_of(client, name, version).tags
        return check_version(
            guard,
            protected,
            name,
            version=version,
            attestation=tags.get(TAG),
            location=lambda: _location(client, name, version, roots=guard.artifact_roots),
            told=_nobodys_fault,
            record=OnRecord(refusal(tags)),
        )

    return check


def _location(client: MlflowClient, name: str, version: str, *, roots: Sequence[str]) -> str:
    """Where the watcher itself reads what clients get for a version.

    Raises:
        UserError: If clients may get something else, or the files lie outside of the server's artifact root and the
            roots that are trusted beside it.
    """
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    location, own = located(client, name, version), server_root(client)
    if not inside(location, [*roots, *([own] if own is not None else [])]):
        raise UserError("its files lie outside of the server's artifact root and of artifact_roots")
    if urlparse(location).scheme == SERVED:
        return str(MlflowArtifactsRepository.resolve_uri(location, client.tracking_uri))
    return location


def _nobodys_fault(error: Exception) -> NoReturn:
    """A store that does not answer says nothing against the version: whether it may have the alias is unknown."""
    raise ConnectionError(str(error)) from error
