"""Reads the files of a model version as streams, no further than needed."""

from __future__ import annotations

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from urllib.parse import urlparse

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings.artifact_uris import local_path
from tokenbuncher.storage.s3 import bucket_client, bucket_entries, bucket_errors

CHUNK = 1024 * 1024


class Unfit(UserError):
    """A version has something that is not read; the message tells no more than names below its own folder."""


class Files(ABC):
    """The files below a location."""

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, int]]:
        """Relative POSIX path and size of each file.

        Raises:
            Unfit: If there is something that is no plain file.
            UserError: If the store cannot be read.
        """

    @abstractmethod
    def opened(self, name: str) -> AbstractContextManager[BinaryIO]:
        """The content of a file."""

    def sizes(self, most: int) -> dict[str, int]:
        """Size of every file, by relative POSIX path.

        Raises:
            Unfit: If there are more than `most`, or some are no plain files.
            UserError: If they cannot be listed.
        """
        found: dict[str, int] = {}
        for name, size in self.entries():
            found[name] = size
            if len(found) > most:
                raise Unfit(f"it has more than {most} files")
        return found

    def digest(self, name: str, most: int) -> str:
        """sha256 of a file.

        Raises:
            Unfit: If the file has more than `most` bytes, beyond which it is not read, or is no plain file.
            UserError: If it cannot be read.
        """
        digest, left = hashlib.sha256(), most
        with self.opened(name) as stream:
            while chunk := stream.read(min(CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise Unfit(f"file {name} has more than the {most} bytes that were judged")
                digest.update(chunk)
        return digest.hexdigest()


def files_at(location: str, tracking_uri: str | None = None) -> Files:
    """The files at a location that `version_location` gave.

    Args:
        location: Location of the files. Local and S3 files are streamed; from any other store, one file at a time is
            copied to the temporary folder.
        tracking_uri: URI of the server to which `mlflow-artifacts:/` refers.
    """
    path = local_path(location)
    if path is not None:
        return _Folder(path)
    return _Bucket(location) if urlparse(location).scheme == "s3" else _Served(location, tracking_uri)


class _Folder(Files):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def entries(self) -> Iterator[tuple[str, int]]:
        try:
            folders = [self._folder] if self._folder.is_dir() else []
            while folders:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            folders.append(Path(entry.path))
                        else:
                            yield self._plain(entry.path, status), status.st_size
        except OSError as error:
            raise UserError(f"{self._folder} cannot be read: {error}") from error

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        # Neither follows a link that has taken the file's place, nor waits for somebody at the other end of a pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(self._folder / name, flags), "rb", buffering=0) as stream:
                self._plain(str(self._folder / name), os.fstat(stream.fileno()))
                yield stream
        except OSError as error:
            raise UserError(f"{self._folder / name} cannot be read: {error}") from error

    def _plain(self, path: str, status: os.stat_result) -> str:
        name = Path(path).relative_to(self._folder).as_posix()
        if not stat.S_ISREG(status.st_mode):
            raise Unfit(f"file {name} is a link, a device or a pipe; a version has plain files only")
        return name


class _Bucket(Files):
    def __init__(self, location: str) -> None:
        parsed = urlparse(location)
        self._bucket, self._prefix = parsed.netloc, parsed.path.strip("/") + "/"
        self._client = bucket_client(os.environ.get("MLFLOW_S3_ENDPOINT_URL"))

    def entries(self) -> Iterator[tuple[str, int]]:
        with self._errors():
            for entry in bucket_entries(self._client, self._bucket, self._prefix):
                yield entry["Key"].removeprefix(self._prefix), entry["Size"]

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        with self._errors():
            body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"]
            try:
                yield body
            finally:
                body.close()

    def _errors(self) -> AbstractContextManager[None]:
        return bucket_errors(f"s3://{self._bucket}/{self._prefix} cannot be read")


class _Served(Files):
    """What MLflow's own code reads, which copies files: one at a time."""

    def __init__(self, location: str, tracking_uri: str | None) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self._repository = get_artifact_repository(location, tracking_uri=tracking_uri)

    def entries(self) -> Iterator[tuple[str, int]]:
        folders: list[str | None] = [None]
        while folders:
            for entry in self._repository.list_artifacts(folders.pop()):
                if entry.is_dir:
                    folders.append(entry.path)
                else:
                    yield entry.path, entry.file_size or 0  # the server leaves zeros out

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        with (
            TemporaryDirectory(prefix="tokenbuncher-") as scratch,
            Path(self._repository.download_artifacts(name, dst_path=scratch)).open("rb") as stream,
        ):
            yield stream
