"""URIs of folders and files, and the names of files in folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from tokenbuncher.core.documents import refuse_tilde
from tokenbuncher.core.errors import UserError

FORMS = {
    "file": ("file:///folder", r"file://(?:localhost)?(?P<path>/.*)"),
    "s3": ("s3://bucket/prefix", r"s3://(?P<bucket>[^/]+)/(?P<prefix>[^/].*)"),
    "models": (
        "models:/name/version or models:/name@alias; of a logged model, models:/m- and its 32 hex digits",
        r"models:/(?:(?P<logged>m-[0-9a-f]{32})|(?P<name>[^/]+)(?:/(?P<version>\d+)|@(?P<alias>[\w.-]+)))",
    ),
    "hf": (
        "hf://org/name@revision; without a revision the model could change, best is the 40 digits of a commit",
        r"hf://(?P<name>[\w.-]+(?:/[\w.-]+)?)@(?P<revision>[\w./-]+)",
    ),
}
FILE_FORMS = {
    "file": ("file:///folder/file", r"file://(?:localhost)?(?P<path>/.*)"),
    "s3": ("s3://bucket/key", r"s3://(?P<bucket>[^/]+)/(?P<key>[^/].*)"),
    "hf": (
        "hf://datasets/org/name@revision/path/of/the/file; without a revision the data could change, best is the "
        "40 digits of a commit",
        r"hf://datasets/(?P<name>[\w.-]+(?:/[\w.-]+)?)@(?P<revision>refs/convert/parquet|[\w.-]+)/(?P<path>.+)",
    ),
}
CODE_AND_PICKLES = {
    *{".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"},
    *{".dll", ".dylib", ".ipynb", ".py", ".pyc", ".sh", ".so"},
}


class Source(NamedTuple):
    """A parsed URI."""

    uri: str
    """Without the digest."""
    scheme: str
    """file, s3, models or hf."""
    parts: dict[str, Any]
    """The named parts of the URI, by the form of its scheme."""
    digest: str | None
    """The expected digest of the folder, in hex; None if any will do."""


def parse_source(uri: str) -> Source:
    """Parses a URI.

    Args:
        uri: A local path, or `file:///folder`, `s3://bucket/prefix`, `models:/name/version`, `models:/name@alias`,
            `models:/m-ID` or `hf://org/name@revision`; each may end in `#sha256=` and the folder's digest.

    Raises:
        UserError: If it is of no such form.
    """
    location, pinned, digest = uri.partition("#sha256=")
    if pinned and not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise UserError(f"{uri}: after #sha256= come the 64 hex digits of the folder's digest")
    scheme = re.match(r"([a-z][a-z0-9+.-]*):/", location)
    if scheme is None:
        refuse_tilde(location)
        return Source(location, "file", {"path": location}, digest or None)
    if scheme[1] not in FORMS:
        hint = "; a model that a run logged is models:/m-ID" if scheme[1] == "runs" else ""
        raise UserError(f"{uri}: use a local folder, file://, s3://, models:/ or hf://{hint}")
    form, pattern = FORMS[scheme[1]]
    location = location.rstrip("/") if scheme[1] == "s3" else location
    match = re.fullmatch(pattern, location)
    if match is None:
        raise UserError(f"{uri}: write {form}")
    if scheme[1] == "file":
        refuse_tilde(match["path"].removeprefix("/"))
    return Source(location, scheme[1], match.groupdict(), digest or None)


def parse_file(uri: str) -> Source:
    """Parses the URI of a file.

    Args:
        uri: A local path, or `file:///folder/file`, `s3://bucket/key` or `hf://datasets/org/name@revision/path`.

    Raises:
        UserError: If it is of no such form.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]*):/", uri)
    if scheme is None:
        refuse_tilde(uri)
        return Source(uri, "file", {"path": uri}, None)
    if scheme[1] not in FILE_FORMS:
        raise UserError(f"{uri}: use a local file, file://, s3:// or hf://datasets/")
    form, pattern = FILE_FORMS[scheme[1]]
    match = re.fullmatch(pattern, uri)
    if match is None:
        raise UserError(f"{uri}: write {form}")
    if scheme[1] == "file":
        refuse_tilde(match["path"].removeprefix("/"))
    return Source(uri, scheme[1], match.groupdict(), None)


def local_path(source: Source) -> Path:
    """The local path of a source of the scheme file."""
    path = source.parts["path"]
    return Path(unquote(path) if source.uri.startswith("file:") else path)


def refuse_unsafe(names: Iterable[str], where: str) -> None:
    """Refuses names that lead out of a folder, and files that hold code or pickles.

    Raises:
        UserError: If there is such a name.
    """
    for name in names:
        if re.search(r"^/|//|/$|[\\\x00-\x1f]", name) or {"", ".", ".."} & set(name.split("/")):
            raise UserError(f"{where}: {name!r} is no file name within a folder; remove it")
        if PurePosixPath(name).suffix.lower() in CODE_AND_PICKLES:
            raise UserError(
                f"{where}: {name} may hold code or a pickle, which is never taken along; remove it, and keep weights "
                "as safetensors"
            )
