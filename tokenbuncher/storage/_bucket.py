"""Lists and downloads a prefix of a bucket.

A published prefix has two objects besides its files: CLAIM, written first, says which content is being published;
MANIFEST, written last, says that it is all there.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.fields import Strict
from tokenbuncher.core.files import folder_files, listing_digest
from tokenbuncher.core.progress import Progress
from tokenbuncher.settings.sources import Source, refuse_unsafe
from tokenbuncher.storage._cache import cached
from tokenbuncher.storage.s3 import bucket_client, bucket_errors, bucket_heads

CLAIM = "MANIFEST.claim"
MANIFEST = "MANIFEST.json"
# S3 takes 10,000 parts, so files up to 335 GB.
PART = 32 * 2**20
MB = 1_000_000


class StoredObject(NamedTuple):
    """An object of a bucket."""

    size: int
    etag: str | None
    """None if the server gives none; then when it was written tells one content from another."""
    written: str
    version_id: str | None
    md5: str | None
    """In hex; None if the server does not tell, as of files that were uploaded in parts."""

    @classmethod
    def of(cls, head: dict[str, Any]) -> StoredObject:
        """As the server describes it; the ETag is the MD5, unless it is encrypted with a key of one's own."""
        etag = head.get("ETag", "").strip('"')
        encrypted = head.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in head
        md5 = etag if re.fullmatch(r"[0-9a-f]{32}", etag) and not encrypted else None
        return cls(head["ContentLength"], head.get("ETag"), str(head.get("LastModified")), head.get("VersionId"), md5)

    def identity(self) -> str:
        """What another content has otherwise."""
        return f"{self.size} {self.etag or self.written} {self.version_id}"


class ManifestFile(Strict):
    """A published file."""

    size: int
    sha256: str


class PublishedManifest(Strict):
    """A published folder."""

    digest: str
    files: dict[str, ManifestFile]

    @classmethod
    def of(cls, folder: Path) -> PublishedManifest:
        """The manifest of a local folder."""
        digests = folder_files(folder)
        files = {name: ManifestFile(size=(folder / name).stat().st_size, sha256=digests[name]) for name in digests}
        return cls(digest=listing_digest(digests), files=files)


def client_of_bucket(attempts: int | None = None) -> Any:
    """A client of the S3 server that the environment names; see `bucket_client`."""
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return bucket_client(None if named else os.environ.get("MLFLOW_S3_ENDPOINT_URL"), attempts)


def read_object(client: Any, bucket: str, key: str) -> bytes | None:
    """The content of a small object; None if there is none."""
    try:
        content: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content
    except client.exceptions.NoSuchKey:
        return None


def fetch_prefix(source: Source, cache: Path) -> Path:
    """The cached folder with the files below a prefix, which is listed but not read if it has not changed.

    Raises:
        UserError: If there is nothing, it was published but in part, is damaged or unsafe, or cannot be read.
    """
    bucket, prefix = source.parts["bucket"], source.parts["prefix"] + "/"
    with bucket_errors(f"{source.uri} cannot be read"):
        client = client_of_bucket()
        heads = bucket_heads(client, bucket, prefix)
        # Some tools make empty objects for folders.
        stored = {name: StoredObject.of(head) for name, head in heads.items() if name and not name.endswith("/")}
        if not stored:
            raise UserError(f"there is nothing at {source.uri}")
        if CLAIM in stored and MANIFEST not in stored:
            raise UserError(f"{source.uri} was published but in part; publish it again, or wait if that is under way")
        described = (f"{name} {file.identity()}" for name, file in sorted(stored.items()))
        identity = "\n".join([source.uri, *described])
        return cached(cache, identity, lambda target: _fetch(client, source, stored, target=target))


def fetch_object(source: Source, cache: Path) -> Path:
    """The cached file of a single object, which is not read again if it has not changed.

    Raises:
        UserError: If there is none, it is damaged, or cannot be read.
    """
    from botocore.exceptions import ClientError

    bucket, key = source.parts["bucket"], source.parts["key"]
    name = key.rpartition("/")[2]
    refuse_unsafe([name], source.uri)
    with bucket_errors(f"{source.uri} cannot be read"):
        client = client_of_bucket()
        try:
            stored = StoredObject.of(client.head_object(Bucket=bucket, Key=key))
        except ClientError as error:
            if error.response["Error"]["Code"] != "404":
                raise
            raise UserError(f"there is nothing at {source.uri}") from error

        def download(target: Path) -> None:
            _download(client, bucket, key.removesuffix(name), files={name: stored}, target=target, uri=source.uri)
            _verify_plain(source.uri, {name: stored}, target)

        return cached(cache, f"{source.uri} {stored.identity()}", download) / name


def _fetch(client: Any, source: Source, stored: dict[str, StoredObject], *, target: Path) -> None:
    bucket, prefix = source.parts["bucket"], source.parts["prefix"] + "/"
    files, manifest = dict(stored), None
    if files.pop(MANIFEST, None):
        files.pop(CLAIM, None)
        manifest = _manifest(source.uri, read_object(client, bucket, prefix + MANIFEST))
        _compare(source.uri, manifest, files)
    refuse_unsafe(files, source.uri)
    _download(client, bucket, prefix, files=files, target=target, uri=source.uri)
    if manifest:
        _verify_published(source.uri, manifest, target)
    else:
        _verify_plain(source.uri, files, target)


def _manifest(uri: str, content: bytes | None) -> PublishedManifest:
    try:
        manifest = PublishedManifest.model_validate_json(content or b"")
    except ValidationError as error:
        raise UserError(
            f"{uri}: {MANIFEST} cannot be read; is it another tool's? {error.errors()[0]['msg']}"
        ) from error
    refuse_unsafe(manifest.files, uri)
    if manifest.digest != listing_digest({name: file.sha256 for name, file in manifest.files.items()}):
        raise UserError(f"{uri}: {MANIFEST} was tampered with: its digest is not that of its files")
    return manifest


def _compare(uri: str, manifest: PublishedManifest, files: dict[str, StoredObject]) -> None:
    """Compares what is known without reading the files."""
    for name in sorted(manifest.files.keys() ^ files.keys()):
        raise UserError(
            f"{uri}: {name} {'is missing' if name in manifest.files else 'was not published with the rest'}"
        )
    for name, file in files.items():
        expected = manifest.files[name].size
        if file.size != expected:
            raise UserError(f"{uri}: {name} has {file.size} bytes, not the {expected} that were published")


def _download(client: Any, bucket: str, prefix: str, *, files: dict[str, StoredObject], target: Path, uri: str) -> None:
    total = sum(file.size for file in files.values())
    free = shutil.disk_usage(target.parent).free
    if total > free:
        raise UserError(f"{uri} has {total / MB:.0f} MB, but only {free / MB:.0f} MB are free at {target.parent}")
    progress = TransferProgress(f"download {uri}, MB", total)
    with transfers(client) as manager:
        waiting = []
        for name, file in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            version = {"VersionId": file.version_id} if file.version_id else {}
            listeners = [progress, _Known(file)]
            waiting.append(manager.download(bucket, prefix + name, str(target / name), version, subscribers=listeners))
        for transfer in waiting:
            transfer.result()


def transfers(client: Any) -> Any:
    """boto3's transfer manager: many files, and parts of large ones, at a time."""
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    return create_transfer_manager(client, TransferConfig(multipart_threshold=PART, multipart_chunksize=PART))


class TransferProgress:
    """Tells the progress of transfers, which report bytes from many threads."""

    def __init__(self, title: str, total: int) -> None:
        self.progress = Progress(title, math.ceil(total / MB))
        self.bytes = self.told = 0
        self.lock = threading.Lock()

    def on_progress(self, bytes_transferred: int, **_: Any) -> None:
        """Counts bytes; fewer than none if they are to be transferred again."""
        with self.lock:
            self.bytes += bytes_transferred
            done = math.ceil(self.bytes / MB)
            if done > self.told:
                self.told = done
                self.progress.step(done)


class _Known:
    """Saves boto3 from asking again what a file is, and makes it refuse one that was written anew meanwhile."""

    def __init__(self, file: StoredObject) -> None:
        self.file = file

    def on_queued(self, future: Any, **_: Any) -> None:
        future.meta.provide_transfer_size(self.file.size)
        future.meta.provide_object_etag(self.file.etag)


def _verify_published(uri: str, manifest: PublishedManifest, target: Path) -> None:
    for name, digest in folder_files(target).items():
        if digest != manifest.files[name].sha256:
            raise UserError(f"{uri}: {name} is damaged: it has sha256 {digest}, not {manifest.files[name].sha256}")


def _verify_plain(uri: str, files: dict[str, StoredObject], target: Path) -> None:
    for name, file in files.items():
        size = (target / name).stat().st_size
        if size != file.size:
            raise UserError(
                f"{uri}: {name} has {size} bytes, not {file.size}; it was written anew meanwhile, try again"
            )
        if file.md5 and file.md5 != _md5(target / name):
            raise UserError(f"{uri}: {name} did not arrive as it is stored, or was written anew meanwhile; try again")


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
