"""Model versions of the MLflow registry."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings.sources import Source, refuse_unsafe
from tokenbuncher.storage._cache import cached
from tokenbuncher.storage._growing import growing
from tokenbuncher.storage.artifacts import located, logged_location

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


def version_location(source: Source) -> str:
    """Where the files of a model version or a logged model are, by the registry; an alias is looked up once.

    Raises:
        UserError: If there is no such version, its files can be read in two ways, or MLflow refuses or cannot be
            reached.
    """
    from tokenbuncher.storage.tracking import connected

    name, version, alias = (source.parts[part] for part in ("name", "version", "alias"))
    with connected(_tracking_uri(source.uri)) as client:
        if source.parts["logged"]:
            return logged_location(client, source.parts["logged"])
        if version is None:
            version = _holder(client, source.uri, name, alias=alias)
            logger.info(f"{source.uri} is version {version}")
        return located(client, name, str(version))


def number_of(source: Source) -> str:
    """The number of the version that an alias is on.

    Raises:
        UserError: If it is on none, or MLflow refuses or cannot be reached.
    """
    from tokenbuncher.storage.tracking import connected

    with connected(_tracking_uri(source.uri)) as client:
        return _holder(client, source.uri, source.parts["name"], alias=source.parts["alias"])


def _holder(client: MlflowClient, uri: str, name: str, *, alias: str) -> str:
    version = client.get_registered_model(name).aliases.get(alias)
    if version is None:
        raise UserError(f"{uri}: {name} has no version with alias {alias}")
    return str(version)


def fetch_artifacts(location: str, cache: Path) -> Path:
    """The cached folder with artifacts that MLflow's own server keeps.

    Raises:
        UserError: If there are none, some are unsafe, or MLflow refuses or cannot be reached.
    """
    from tokenbuncher.storage.tracking import connected

    tracking_uri = _tracking_uri(location)
    with connected(tracking_uri):
        sizes = _sizes(location, tracking_uri)
        if not sizes:
            raise UserError(f"there are no files at {location}")
        refuse_unsafe(sizes, location)
        identity = "\n".join([tracking_uri, location, *(f"{size} {name}" for name, size in sorted(sizes.items()))])
        return cached(cache, identity, lambda target: _download(location, tracking_uri, sizes, target=target))


def _tracking_uri(uri: str) -> str:
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking_uri:
        raise UserError(f"where is {uri}? Set MLFLOW_TRACKING_URI")
    return tracking_uri


def _sizes(location: str, tracking_uri: str) -> dict[str, int]:
    """Size of every file, by relative path."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(location, tracking_uri=tracking_uri)
    sizes: dict[str, int] = {}
    folders: list[str | None] = [None]
    while folders:
        for entry in repository.list_artifacts(folders.pop()):
            if entry.is_dir:
                folders.append(entry.path)
            else:
                sizes[entry.path] = entry.file_size or 0  # the server leaves zeros out
    return sizes


def _download(location: str, tracking_uri: str, sizes: dict[str, int], *, target: Path) -> None:
    from mlflow.artifacts import download_artifacts

    total = sum(sizes.values())
    logger.info(f"download {location}: {total / 1e6:.0f} MB")
    with TemporaryDirectory(dir=target.parent) as scratch, growing(Path(scratch), f"download {location}", total):
        files = download_artifacts(
            artifact_uri=location, dst_path=scratch, tracking_uri=tracking_uri, registry_uri=tracking_uri
        )
        Path(files).rename(target)
    for name, size in sizes.items():
        path = target / name
        if not path.is_file() or path.stat().st_size != size:
            raise UserError(f"{location}: {name} did not arrive whole; try again")
