"""Resolves any URI to a local folder."""

from __future__ import annotations

from pathlib import Path

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest
from tokenbuncher.settings.sources import Source, local_path, parse_source
from tokenbuncher.storage._bucket import fetch_prefix
from tokenbuncher.storage._cache import made_cache, user_cache
from tokenbuncher.storage._hub import fetch_snapshot
from tokenbuncher.storage._registry import fetch_artifacts, version_location


def resolve(uri: str, cache: Path | None = None) -> Path:
    """The local folder with the files of a URI, downloaded if necessary, whole or not at all.

    - A path or `file:///folder` is taken as it is.
    - `s3://bucket/prefix` by boto3 and its credential chain; the server is AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or
      MLFLOW_S3_ENDPOINT_URL. What was published is checked against its manifest; of other files the size, and the MD5
      if the store tells it.
    - `models:/name/version`, `models:/name@alias`, `models:/m-ID` from the MLflow registry at MLFLOW_TRACKING_URI.
    - `hf://org/name@revision` from the Hugging Face hub: weights as safetensors, configuration, tokenizer and texts.

    Args:
        uri: URI of the folder, which may end in `#sha256=` and the expected digest.
        cache: Folder for downloads. Defaults to the user's cache.

    Returns:
        The folder, which must not be changed.

    Raises:
        UserError: If the URI is of no known form, there is nothing, it cannot be reached, is incomplete or damaged, is
            not the one expected, or holds code, pickles, or names that lead out of the folder.
    """
    source = parse_source(uri)
    folder = _folder(source, cache)
    if source.digest and source.digest != (found := folder_digest(folder)):
        raise UserError(f"{source.uri} is not the folder that is expected: its sha256 is {found}, not {source.digest}")
    return folder


def _folder(source: Source, given: Path | None) -> Path:
    if source.scheme == "file":
        return _local_folder(source)
    cache = given or made_cache(user_cache())
    match source.scheme:
        case "s3":
            return fetch_prefix(source, cache)
        case "hf":
            return fetch_snapshot(source, cache)
        case _:
            location = version_location(source)
            if location.startswith(("s3:", "file:", "/")):
                return _folder(parse_source(location), cache)
            return fetch_artifacts(location, cache)


def _local_folder(source: Source) -> Path:
    folder = local_path(source)
    if not folder.is_dir():
        raise UserError(f"{source.uri} is not a folder")
    return folder
