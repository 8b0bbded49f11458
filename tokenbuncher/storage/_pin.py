"""Pins a URI to what it means now, without fetching anything."""

from __future__ import annotations

import json

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings.sources import Source, parse_source
from tokenbuncher.storage._bucket import MANIFEST, client_of_bucket, read_object
from tokenbuncher.storage._file import parse_file
from tokenbuncher.storage._hub import commit_of
from tokenbuncher.storage._registry import number_of
from tokenbuncher.storage.s3 import bucket_errors

BUILT_IN = ("organism://", "smollm2://")


def pin(uri: str) -> str:
    """A folder's URI with the commit, version number or digest that it has now.

    Raises:
        UserError: If that cannot be told, as of a plain folder, or what knows it cannot be reached.
    """
    if uri in BUILT_IN or parse_source(uri).digest:
        return uri
    source = parse_source(uri)
    match source.scheme:
        case "hf":
            return _of_the_hub(source, "model")
        case "models":
            alias = source.parts.get("alias")
            return f"models:/{source.parts['name']}/{number_of(source)}" if alias else uri
        case "s3":
            return f"{uri.rstrip('/')}#sha256={_published_digest(source)}"
    raise UserError(f"{uri} is a folder, whose content may change; pin it by #sha256= and its digest at its end")


def pin_file(uri: str) -> str:
    """A file's URI with the commit that it has now.

    Raises:
        UserError: As `pin`.
    """
    source = parse_file(uri)
    if source.scheme != "hf":
        raise UserError(f"{uri} is a file, whose content may change; pin it by sha256 beside its path")
    return _of_the_hub(source, "dataset")


def _of_the_hub(source: Source, kind: str) -> str:
    before, _, after = source.uri.partition(f"@{source.parts['revision']}")
    return f"{before}@{commit_of(source, kind)}{after}"


def _published_digest(source: Source) -> str:
    """The digest that the manifest of a published prefix states."""
    key = f"{source.parts['prefix']}/{MANIFEST}"
    with bucket_errors(f"{source.uri} cannot be read"):
        content = read_object(client_of_bucket(), source.parts["bucket"], key)
    if content is None:
        raise UserError(f"{source.uri} was not published by tokenbuncher; pin it by #sha256= and its folder's digest")
    try:
        return str(json.loads(content)["digest"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"the manifest of {source.uri} cannot be read; publish it again") from None
