"""Files that are written whole or not at all, and their digests."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.progress import Progress

_ATTRIBUTE = "user.tokenbuncher.written"


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, sorted; the folder itself may be a link.

    Raises:
        UserError: If something there is no file, or is read otherwise by others: a linked folder, which some follow and
            some do not, a link that leads out of the folder, a device or a pipe, a folder that cannot be listed.
    """
    found = []
    for place, folders, files in os.walk(folder, onerror=_cannot_be_listed):
        for path in (Path(place, name) for name in folders):
            if path.is_symlink():
                raise UserError(f"{path} is a linked folder; put a copy in its place, as `cp -rL` makes it")
        found += [_checked_file(Path(place, name), folder) for name in files]
    return sorted(found)


def _checked_file(path: Path, folder: Path) -> Path:
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{path} is a link that leads out of {folder}; put a copy in its place, as `cp -rL` makes it")
    if not os.path.isfile(path):  # Path.is_file raises where links go round in a circle
        raise UserError(f"{path} is neither a file nor a folder; remove it")
    return path


def _cannot_be_listed(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename} cannot be listed: {error.strerror}") from error


def folder_files(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by relative POSIX path, sorted.

    Raises:
        UserError: If something there is no file of its own; see `files_below`.
    """
    files = files_below(folder)
    progress = Progress(f"sha256 of {folder}, files", len(files), brief=True)
    digests = {}
    for path in files:
        digests[path.relative_to(folder).as_posix()] = file_digest(path)
        progress.step(len(digests))
    return digests


def folder_digest(folder: Path) -> str:
    """One sha256 over the names and contents of every file below a folder."""
    return listing_digest(folder_files(folder))


def listing_digest(files: Mapping[str, str]) -> str:
    """The digest of a folder with these files: sha256 by relative POSIX path.

    Raises:
        UserError: If a name has a control character, by which two folders could have one digest.
    """
    for name in files:
        if re.search(r"[\x00-\x1f]", name):
            raise UserError(f"the file {name!r} has a control character in its name; rename or remove it")
        if re.search(r"[\ud800-\udfff]", name):
            raise UserError(f"the file {name!r} has a name that is not UTF-8; rename or remove it")
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends without an error.

    Raises:
        UserError: If something is there that is not an earlier output; see `check_output`.
    """
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        check_output(path)
        if path.exists():
            shutil.rmtree(path)
        _mark(partial, path)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_output(path: Path) -> None:
    """Checks that an output folder can be written and nothing is lost by it but an earlier output.

    An earlier output holds nothing but files that `whole_folder` wrote, of the sizes that they had then. What it
    wrote is kept in an extended attribute of the folder, so that it is no file of a model and in no digest.

    Raises:
        UserError: If the folder holds anything else, is no folder, or is or holds the working folder.
    """
    if path.name in ("", "..") or Path.cwd().is_relative_to(path.resolve()):
        raise UserError(f"{path} is or holds the working folder; choose another --out")
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path} is there and is no folder; choose another --out")
    if not path.exists():
        return
    if os.path.ismount(path):
        raise UserError(f"{path} is a mount point, which cannot be replaced; choose a folder in it as --out")
    written = _marked(path)
    foreign = next((name for name, size in _entries(path) if written.get(name) != size), None)
    if foreign is not None:
        raise UserError(
            f"{path} holds {foreign!r}, which no earlier run of this tool wrote so, and would be replaced; choose "
            "another --out, or move that folder away"
        )


def check_output_file(path: Path, is_ours: Callable[[bytes], bool]) -> None:
    """Checks that an output file can be written and nothing is lost by it but an earlier one.

    Args:
        path: The file to be written.
        is_ours: Decides from the content of a file whether it is an earlier output.

    Raises:
        UserError: If there is another file, or something that is no file.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_file() or not is_ours(path.read_bytes()):
        raise UserError(f"{path} is there and is no earlier output of this command; choose another --out")


def add_to_output(path: Path, text: str) -> None:
    """Writes a file; if its folder is an output, as another part of that output."""
    part = _is_output(path.parent)
    write_text(path, text)
    if part:
        _mark(path.parent, path.parent)


def _is_output(folder: Path) -> bool:
    try:
        check_output(folder)
    except UserError:
        return False
    return bool(_marked(folder))


def _entries(folder: Path) -> Iterator[tuple[str, int]]:
    """Relative path and size of everything below a folder; the size of what is no file is -1."""
    for path in folder.rglob("*"):
        is_file = path.is_file() and not path.is_symlink()
        yield path.relative_to(folder).as_posix(), path.lstat().st_size if is_file else -1


def _mark(folder: Path, path: Path) -> None:
    """Notes what is in an output folder, which lies at `path` in the end.

    File systems without extended attributes, or with too little room for them, get a file beside the folder.
    """
    note = json.dumps(dict(_entries(folder))).encode()
    try:
        os.setxattr(folder, _ATTRIBUTE, note)
    except (AttributeError, OSError):
        _beside(path).write_bytes(note)


def _marked(path: Path) -> dict[str, int]:
    """What was in an output folder when it was written; nothing, if that is not known."""
    try:
        note = os.getxattr(path, _ATTRIBUTE)
    except (AttributeError, OSError):
        note = _beside(path).read_bytes() if _beside(path).is_file() else b""
    try:
        entries = json.loads(note)
    except ValueError:
        return {}
    return entries if isinstance(entries, dict) else {}


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.written")


@contextmanager
def working_folder(root: Path, *identity: str) -> Iterator[Path]:
    """A folder for work that can be interrupted: kept until the block ends without an error, then deleted.

    Args:
        root: Folder that holds the working folders.
        identity: Words that identify the work. The same words give the same folder again.

    Raises:
        UserError: If another process works in it.
    """
    folder = root / hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is in use: another process is doing the same work; wait for it") from None
        yield folder
    shutil.rmtree(folder)
    with suppress(OSError):  # others may be at work beside it
        root.rmdir()
