"""The cache of downloaded folders."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tokenbuncher.core.environment import NO_HOME
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest, whole_folder, write_text

_ADVICE = "set XDG_CACHE_HOME (or HOME) to a folder that can be written"


def user_cache() -> Path:
    """The default location of the cache; containers often run users without a home.

    Raises:
        UserError: If there is neither XDG_CACHE_HOME nor a home folder.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    if not given and os.environ.get("HOME") == NO_HOME:
        raise UserError(f"this user has no home folder to keep a cache in; {_ADVICE}")
    return (Path(given).expanduser() if given else Path.home() / ".cache") / "tokenbuncher" / "storage"


def made_cache(cache: Path) -> Path:
    """The folder of a cache, which is created if necessary.

    Raises:
        UserError: If it cannot be made or written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the cache {cache} cannot be made: {error.strerror}; {_ADVICE}") from error
    if not os.access(cache, os.W_OK | os.X_OK):
        raise UserError(f"the cache {cache} cannot be written; {_ADVICE}")
    return cache


def cached(cache: Path, identity: str, fetch: Callable[[Path], None]) -> Path:
    """A folder of the cache, fetched if it is missing or was changed. Others who want it wait meanwhile.

    Args:
        cache: The cache.
        identity: Identity of the content. Different content needs a different identity.
        fetch: Function that creates the folder at the path it is given.
    """
    entry = _entry(cache, identity)
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{entry.name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_whole(entry):
            shutil.rmtree(entry, ignore_errors=True)
            with whole_folder(entry) as partial:
                fetch(partial / "files")
                write_text(partial / "sha256", folder_digest(partial / "files"))
    return entry / "files"


def in_cache(cache: Path, identity: str) -> Path | None:
    """A folder of the cache, or None if it is missing or was changed."""
    entry = _entry(cache, identity)
    return entry / "files" if _is_whole(entry) else None


def forget(cache: Path, identity: str) -> None:
    """Deletes a folder of the cache."""
    entry = _entry(cache, identity)
    shutil.rmtree(entry, ignore_errors=True)
    (cache / f"{entry.name}.lock").unlink(missing_ok=True)


def _entry(cache: Path, identity: str) -> Path:
    return cache / hashlib.sha256(identity.encode()).hexdigest()[:32]


def _is_whole(entry: Path) -> bool:
    digest = entry / "sha256"
    return digest.is_file() and digest.read_text(encoding="utf-8") == folder_digest(entry / "files")
