"""The guard's check, made from outside: what it needs is read by the registry's API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from tokenbuncher.artifacts import stored_files
from tokenbuncher.attestation import TAG
from tokenbuncher.errors import UserError
from tokenbuncher.guard import check_version, load_guard
from tokenbuncher.guard.watch.service import Check

if TYPE_CHECKING:
    from mlflow import MlflowClient


def attestation_check(client: MlflowClient, settings: Path) -> Check:
    """A check whether a version may have a protected alias, by the guard's settings as they are at that time.

    Args:
        client: Of the registry.
        settings: The guard's settings file.

    Returns:
        The check. It raises an error if settings, registry or artifact store cannot be read.
    """

    def check(name: str, version: str, alias: str) -> list[str]:
        guard = load_guard(settings)
        if alias not in guard.aliases:
            return []
        attestation = client.get_model_version(name, version).tags.get(TAG)
        return check_version(
            guard, guard.aliases[alias], name, version, attestation, lambda: _location(client, name, version)
        )

    return check


def _location(client: MlflowClient, name: str, version: str) -> str:
    """Where the watcher itself finds the files of a version.

    Raises:
        ConnectionError: If the store there does not answer: that is not to be held against the version.
    """
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

    location = str(client.get_model_version_download_uri(name, version))
    if urlparse(location).scheme == "runs":
        location = RunsArtifactRepository.get_underlying_uri(location, client.tracking_uri)
    if urlparse(location).scheme == "mlflow-artifacts":
        location = MlflowArtifactsRepository.resolve_uri(location, client.tracking_uri)
    try:
        stored_files(location)
    except UserError as error:
        raise ConnectionError(str(error)) from error
    return location
