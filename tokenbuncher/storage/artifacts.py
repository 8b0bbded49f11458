"""Locates the files of a model version, and lists them without reading them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlparse

from tokenbuncher.core.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
from tokenbuncher.settings.artifact_uris import checked_uri, local_path
from tokenbuncher.storage.s3 import Stored, bucket_client, bucket_errors, bucket_heads, stored


class Tracking(Protocol):
    """What MLflow's client and the server's own store both tell of runs and logged models."""

    def get_run(self, run_id: str) -> Any:
        """The run of an id."""

    def get_logged_model(self, model_id: str) -> Any:
        """The logged model of an id."""

    def search_logged_models(
        self, experiment_ids: list[str], filter_string: str | None = None, *, page_token: str | None = None
    ) -> Any:
        """A page of logged models."""


def located(client: MlflowClient, name: str, version: str) -> str:
    """Where the files of a registered version are; see `version_location`."""
    from tokenbuncher.storage.tracking import registry_of, version_of

    found = version_of(client, name, version)
    return version_location(client, found.source, registry_of(client).get_model_version_download_uri(name, version))


def logged_location(client: MlflowClient, model_id: str) -> str:
    """Where the files of a logged model are; see `version_location`."""
    location = client.get_logged_model(model_id).artifact_location
    return version_location(client, f"models:/{model_id}", str(location))


def server_root(client: MlflowClient) -> str | None:
    """Where a server puts artifacts, by its first experiment, which it makes itself; None if that does not tell."""
    first = str(client.get_experiment("0").artifact_location)
    return first.removesuffix("/0") if first.endswith("/0") else None


def version_location(tracking: Tracking, source: str, download: str) -> str:
    """Where the files of a model version are, for whoever reads it.

    It resolves them as MLflow's client does, and refuses whatever another program may read in another way.

    Args:
        tracking: The client, or the server's tracking store.
        source: The version's source.
        download: The download URI, which differs from the source for a logged model.

    Returns:
        A URI `mlflow-artifacts:/...` on the server itself, of a bucket, or a local path or `file:` URI.

    Raises:
        UserError: If it has two readings.
    """
    if source != download:
        _check_logged_model(tracking, source, download)
    if checked_uri(download, "its source").scheme == "runs":
        return _run_location(tracking, download)
    return download


def inside(location: str, roots: Iterable[str]) -> bool:
    """Whether a location that `version_location` gave lies below one of these roots.

    Local roots are compared as the file system resolves them, so that a link does not lead out of them.
    """
    return any(_below(location, root) for root in roots)


def _run_location(tracking: Tracking, uri: str) -> str:
    """Where `runs:/RUN/PATH` is, unless MLflow's client lays a logged model over it."""
    run_id, *path = urlparse(uri).path[1:].split("/")
    run = tracking.get_run(run_id)
    if run.info.run_id != run_id:
        raise UserError("its source names a run in other letters than the run's own; register it again")
    if not path or re.search("['\"`]", path[0]):
        raise UserError("its source names no folder of a run that MLflow's clients read alike; register it again")
    if _has_logged_model(tracking, run, path[0]):
        raise UserError(
            f"the run of its source has a logged model {path[0]}, which MLflow's client lays over the files of that "
            "name; register it again"
        )
    location = f"{run.info.artifact_uri}/{'/'.join(path)}"
    if checked_uri(location, "the place of its run's files").scheme in ("runs", "models"):
        raise UserError("the place of its run's files is no place of files")
    return location


def _has_logged_model(tracking: Tracking, run: Any, name: str) -> bool:
    """Whether a logged model of the run has this name to the database, which may fold letters."""
    token: str | None = None
    while True:
        page = tracking.search_logged_models([run.info.experiment_id], f"name = '{name}'", page_token=token)
        if any(model.source_run_id == run.info.run_id for model in page):
            return True
        if not (token := page.token):
            return False


def _check_logged_model(tracking: Tracking, source: str, download: str) -> None:
    """Checks that the source is a logged model, and the download URI the place of it."""
    match = re.fullmatch(r"models:/(m-[\w-]+)", source or "")
    if not match or tracking.get_logged_model(match[1]).artifact_location != download:
        raise UserError("its source and the place that MLflow gives for its files differ; register it again")


def _below(location: str, root: str) -> bool:
    path, folder = local_path(location), local_path(root)
    if path is not None and folder is not None:
        resolved = folder.resolve()
        return path.resolve() != resolved and path.resolve().is_relative_to(resolved)
    if path is not None or folder is not None:
        return False
    given, allowed = urlparse(location), urlparse(root)
    return (given.scheme, given.netloc) == (allowed.scheme, allowed.netloc) and given.path.startswith(
        allowed.path.rstrip("/") + "/"
    )


def stored_files(uri: str, names: Iterable[str] | None = None) -> dict[str, Stored] | None:
    """Every file below an artifact URI, by relative POSIX path.

    Args:
        uri: `s3://bucket/prefix`, read with the usual AWS credentials and MLFLOW_S3_ENDPOINT_URL; or a local folder.
        names: Names of the files to ask a bucket for. Defaults to all.

    Returns:
        The files, or None for a store that cannot be listed, such as one behind MLflow's own server.

    Raises:
        UserError: If the store refuses or cannot be reached.
    """
    parsed = urlparse(uri)
    if parsed.scheme == "s3":
        bucket, prefix = parsed.netloc, parsed.path.strip("/") + "/"
        with bucket_errors(f"s3://{bucket}/{prefix} cannot be read"):
            heads = bucket_heads(bucket_client(os.environ.get("MLFLOW_S3_ENDPOINT_URL")), bucket, prefix, names=names)
            return {name: stored(head) for name, head in heads.items()}
    if parsed.scheme in ("", "file"):
        folder = Path(unquote(parsed.path)) if parsed.scheme else Path(uri)
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): Stored(path.stat().st_size, None) for path in files}
    return None
