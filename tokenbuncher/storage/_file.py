"""Resolves the URI of a file to a local file."""

from __future__ import annotations

from pathlib import Path

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import file_digest
from tokenbuncher.settings.sources import local_path, parse_file
from tokenbuncher.storage._bucket import fetch_object
from tokenbuncher.storage._cache import made_cache, user_cache
from tokenbuncher.storage._hub import fetch_dataset_file


def resolve_file(uri: str, sha256: str | None = None, cache: Path | None = None) -> Path:
    """The local file of a URI, downloaded if necessary, whole or not at all.

    Args:
        uri: URI of the file; see `parse_file`.
        sha256: Expected digest of the file, in hex.
        cache: Folder for downloads. Defaults to the user's cache.

    Returns:
        The file, which must not be changed.

    Raises:
        UserError: If the URI is of no known form, there is no such file, it cannot be reached, is damaged, or is not
            the one expected.
    """
    source = parse_file(uri)
    match source.scheme:
        case "s3":
            path = fetch_object(source, cache or made_cache(user_cache()))
        case "hf":
            path = fetch_dataset_file(source, cache or made_cache(user_cache()))
        case _:
            path = local_path(source)
    try:
        found = file_digest(path)
    except OSError as error:
        raise UserError(f"{uri} cannot be read: {error.strerror}; give its path in the spec") from error
    if sha256 and sha256 != found:
        raise UserError(f"{uri} is not the file that is expected: its sha256 is {found}, not {sha256}")
    return path
