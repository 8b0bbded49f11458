"""URIs of artifacts that all programs read alike."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import ParseResult, unquote, urlparse
from urllib.request import url2pathname

from tokenbuncher.core.errors import UserError

BUCKETS = ("s3", "gs", "wasbs", "abfss")
"""Schemes of stores that clients read themselves; the host is a bucket."""

SERVED = "mlflow-artifacts"
"""Scheme of what MLflow's own server keeps for its clients."""

SERVED_API = "/api/2.0/mlflow-artifacts/artifacts"
"""Where the server serves it. MLflow's client takes a path that begins with this for one that goes on after it."""


def checked_root(root: str) -> str:
    """A root for `inside`.

    Raises:
        UserError: If it can be read in two ways, or is all of this machine.
    """
    bare = root if root.endswith(":/") else root.rstrip("/")
    if checked_uri(f"{bare.rstrip('/')}/x", root or "an artifact root without a name").scheme == "runs":
        raise UserError(f"{root} is no place of files")
    if local_path(bare) in (Path(), Path("/")):
        raise UserError(f"{root} is all of this machine; name a folder")
    return bare


def local_path(location: str) -> Path | None:
    """The path that a local location means to MLflow; None if it is not local."""
    parsed = urlparse(location)
    if parsed.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parsed.path if parsed.scheme else location))


def checked_uri(uri: str, what: str) -> ParseResult:
    """The parsed URI, if there is one way to read it.

    Raises:
        UserError: If there are several; it begins with `what`.
    """
    try:
        parsed = urlparse(uri)
        problem = _ambiguity(uri, parsed)
    except (ValueError, TypeError):
        problem = "is not a URI"
    if problem:
        raise UserError(f"{what} {problem}")
    return parsed


def _ambiguity(uri: str, parsed: ParseResult) -> str | None:
    """Why different programs may read the URI differently, in words; None if they all read it alike."""
    if re.search(r"[\x00-\x1f\x7f\\?#;]", uri) or uri != uri.strip():
        return "has characters that programs read differently"
    if parsed.scheme not in BUCKETS and parsed.netloc:
        return "names a host, and clients would read another server's files"
    if parsed.scheme not in ("", "file", "runs", SERVED, *BUCKETS) or (
        parsed.scheme and not uri.startswith(parsed.scheme)
    ):
        return "is of a kind that is not supported"
    if parsed.scheme in BUCKETS and not re.fullmatch(r"[\w.@-]+", parsed.netloc):
        return "names no bucket"
    if not _plain(parsed.path, quoted=parsed.scheme == "file"):
        return "has empty parts, dots or quoted characters in its path"
    if f"{parsed.path}/".startswith(f"{SERVED_API}/"):
        return "has the server's own address in its path"
    return None


def _plain(path: str, quoted: bool) -> bool:
    """Whether the path is absolute and means what it seems to. Only `file:` URIs may quote, and only what they must."""
    if quoted:
        path, given = unquote(path, errors="strict"), path
        if Path(path).as_uri() != f"file://{given}":
            return False
    parts = path.split("/")
    return (
        len(parts) > 1
        and not parts[0]
        and not any(part in ("", ".", "..") for part in parts[1:])
        and not re.search(r"[%\\\x00-\x1f]", path)
    )
