"""Any URI of a single file to a local one."""

from __future__ import annotations

import re
from pathlib import Path

from tokenbuncher.documents import refuse_tilde
from tokenbuncher.errors import UserError
from tokenbuncher.files import file_digest
from tokenbuncher.storage._bucket import fetch_object
from tokenbuncher.storage._cache import made_cache, user_cache
from tokenbuncher.storage._hub import fetch_dataset_file
from tokenbuncher.storage._source import Source, local_path

FORMS = {
    "file": ("file:///folder/file", r"file://(?:localhost)?(?P<path>/.*)"),
    "s3": ("s3://bucket/key", r"s3://(?P<bucket>[^/]+)/(?P<key>[^/].*)"),
    "hf": (
        "hf://datasets/org/name@revision/path/of/the/file; without a revision the data could change, best is the "
        "40 digits of a commit",
        r"hf://datasets/(?P<name>[\w.-]+(?:/[\w.-]+)?)@(?P<revision>refs/convert/parquet|[\w.-]+)/(?P<path>.+)",
    ),
}


def parse_file(uri: str) -> Source:
    """Takes the URI of a file apart.

    Args:
        uri: A local path, or `file:///folder/file`, `s3://bucket/key` or `hf://datasets/org/name@revision/path`.

    Raises:
        UserError: If it is of no such form.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]*):/", uri)
    if scheme is None:
        refuse_tilde(uri)
        return Source(uri, "file", {"path": uri}, None)
    if scheme[1] not in FORMS:
        raise UserError(f"{uri}: use a local file, file://, s3:// or hf://datasets/")
    form, pattern = FORMS[scheme[1]]
    match = re.fullmatch(pattern, uri)
    if match is None:
        raise UserError(f"{uri}: write {form}")
    if scheme[1] == "file":
        refuse_tilde(match["path"].removeprefix("/"))
    return Source(uri, scheme[1], match.groupdict(), None)


def resolve_file(uri: str, sha256: str | None = None, cache: Path | None = None) -> Path:
    """The local file of a URI, brought here if need be: whole, or not at all.

    Args:
        uri: See `parse_file`.
        sha256: The digest that is expected of the file, in hex.
        cache: Folder for what comes from elsewhere; the user's cache, if None.

    Returns:
        The file; not to be changed.

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
