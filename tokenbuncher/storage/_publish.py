"""Publishes folders, whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest, working_folder
from tokenbuncher.settings.sources import parse_source, refuse_unsafe
from tokenbuncher.storage import _bucket
from tokenbuncher.storage._bucket import (
    CLAIM,
    MANIFEST,
    PublishedManifest,
    StoredObject,
    TransferProgress,
    client_of_bucket,
    read_object,
    transfers,
)
from tokenbuncher.storage.s3 import OLDER, bucket_errors, bucket_names, lacks_something

logger = logging.getLogger(__name__)

UNCONDITIONAL = (
    "without conditional writes no publisher could know that it is the only one; publish to a server that has them, "
    "such as a newer version of this one"
)


def publish(folder: Path, uri: str) -> str:
    """Publishes a folder under a new name; publishing the same again changes nothing.

    It is seen whole or not at all. One that was cut short goes on where it stopped, if it is run again. Of several
    publishers of different content one wins, and the others are refused.

    Args:
        folder: The folder to publish.
        uri: `file:///folder`, a local path, or `s3://bucket/prefix`: a name where nothing is yet.

    Returns:
        The URI with the folder's digest, which `resolve` checks.

    Raises:
        UserError: If the folder is empty or holds code or pickles, something else is there already, another is
            publishing there, or the store refuses or cannot be reached.
    """
    target = parse_source(uri)
    if target.scheme not in ("file", "s3"):
        raise UserError(f"{uri}: publish to a local folder, file:// or s3://")
    manifest = PublishedManifest.of(folder)
    if not manifest.files:
        raise UserError(f"{folder} has no files to be published")
    refuse_unsafe(manifest.files, str(folder))
    if {CLAIM, MANIFEST} & manifest.files.keys():
        raise UserError(f"{folder}: {CLAIM} and {MANIFEST} are names that publishing uses itself; rename them")
    if target.scheme == "s3":
        with bucket_errors(f"{target.uri} cannot be written"):
            _Prefix(target.uri, target.parts["bucket"], target.parts["prefix"] + "/").publish(folder, manifest)
    else:
        path = target.parts["path"]
        _publish_locally(folder, manifest, Path(unquote(path) if target.uri.startswith("file:") else path))
    logger.info(f"published {target.uri}, sha256 {manifest.digest[:12]}")
    return f"{target.uri}#sha256={manifest.digest}"


def _publish_locally(folder: Path, manifest: PublishedManifest, target: Path) -> None:
    if not target.exists():
        with working_folder(target.parent / ".publishing", str(target.resolve()), manifest.digest) as work:
            copy = work / "files"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            if folder_digest(copy) != manifest.digest:
                raise UserError(f"{folder} was changed while it was published")
            try:
                os.rename(copy, target)
            except OSError as error:
                if not target.exists():
                    raise UserError(f"{target} cannot be written: {error}") from error
    if folder_digest(target) != manifest.digest:
        raise UserError(f"{target} holds something else already; publish under a new name")


class _Prefix:
    """A prefix of a bucket that is being published."""

    def __init__(self, uri: str, bucket: str, prefix: str) -> None:
        self.uri, self.bucket, self.prefix = uri, bucket, prefix
        self.client = client_of_bucket()
        # Where the environment says `when_required`, the server may not know them.
        config = self.client.meta.config
        sent, checked = config.request_checksum_calculation, config.response_checksum_validation
        self.checksum = {"ChecksumAlgorithm": "SHA256"} if sent == "when_supported" else {}
        self.asked = {"ChecksumMode": "ENABLED"} if checked == "when_supported" else {}

    def publish(self, folder: Path, manifest: PublishedManifest) -> None:
        present = set(bucket_names(self.client, self.bucket, self.prefix))
        if CLAIM in present:
            self._check_mine(CLAIM, manifest.digest)
        else:
            self._claim(present, manifest.digest)
        if MANIFEST not in present:
            if strange := present - manifest.files.keys() - {CLAIM}:
                raise UserError(f"{self.uri} holds other files too ({min(strange)}); publish under a new prefix")
            if CLAIM in present:
                self._abort_leftovers()
            self._upload(folder, manifest)
            # A server that heeds If-None-Match but one at a time lets two claim: the one who was overwritten stops.
            self._check_mine(CLAIM, manifest.digest)
            self._write_new(MANIFEST, manifest.model_dump_json())
        self._check_mine(MANIFEST, manifest.model_dump_json())

    def _claim(self, present: set[str], digest: str) -> None:
        """Takes the prefix, if it is empty and no other publisher does."""
        if present:
            raise UserError(f"{self.uri} holds files already ({min(present)}); publish under a new prefix")
        self._write_new(CLAIM, digest)
        if self._write_new(CLAIM, digest):
            raise UserError(f"{self.uri} cannot be written: the server ignores If-None-Match; {UNCONDITIONAL}")
        self._check_mine(CLAIM, digest)

    def _write_new(self, name: str, content: str) -> bool:
        """Writes a small object unless there is one; the caller reads whose it is. Returns whether it wrote."""
        from botocore.exceptions import ClientError

        try:
            self.client.put_object(
                Bucket=self.bucket,
                Key=self.prefix + name,
                Body=content.encode(),
                IfNoneMatch="*",
                **self.checksum,
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict"):
                return False
            if not lacks_something(error):
                raise
            named = "if-none-match" in str(error.response["Error"]).lower()
            unless = "" if named or not self.checksum else f"; unless it is not that: {OLDER}"
            lacks = f"does the server not know If-None-Match? {UNCONDITIONAL}{unless}"
            raise UserError(f"{self.uri} cannot be written: {error}: {lacks}") from error
        return True

    def _check_mine(self, name: str, content: str) -> None:
        if read_object(self.client, self.bucket, self.prefix + name) != content.encode():
            raise UserError(
                f"{self.uri} is taken by another content, published or being published; publish under a new prefix"
            )

    def _abort_leftovers(self) -> None:
        """Parts of uploads that were killed are invisible, but stored and paid for until they are aborted."""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.prefix)
        for page in pages:
            for upload in page.get("Uploads", ()):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def _upload(self, folder: Path, manifest: PublishedManifest) -> None:
        """Uploads the files that are not there yet, and checks that all are there as they are in the folder."""
        sums = {name: _sums(folder / name, file.sha256) for name, file in manifest.files.items()}
        missing = [name for name, file in manifest.files.items() if not self._is_there(name, file.size, sums[name])]
        progress = TransferProgress(f"upload {self.uri}, MB", sum(manifest.files[name].size for name in missing))
        with transfers(self.client) as manager:
            uploads = [
                manager.upload(
                    str(folder / name),
                    self.bucket,
                    self.prefix + name,
                    extra_args=self.checksum,
                    subscribers=[progress],
                )
                for name in missing
            ]
            for upload in uploads:
                _wait(upload, self.uri)
        for name, file in manifest.files.items():
            if self._is_there(name, file.size, sums[name]) is False:
                raise UserError(f"{self.uri}: {name} did not arrive as it was; was it changed meanwhile? Publish again")

    def _is_there(self, name: str, size: int, sums: _Sums) -> bool | None:
        """Whether an object is there as in the folder; None if it has the size, and the server tells no more."""
        from botocore.exceptions import ClientError

        try:
            head = self.client.head_object(Bucket=self.bucket, Key=self.prefix + name, **self.asked)
        except ClientError as error:
            if error.response["Error"]["Code"] != "404":
                raise
            return False
        if head["ContentLength"] != size:
            return False
        if checksum := head.get("ChecksumSHA256", "").partition("-")[0]:
            return bool(checksum == sums.sha256)
        md5 = StoredObject.of(head).md5
        return md5 == sums.md5 if md5 else None


def _wait(upload: Any, uri: str) -> None:
    try:
        upload.result()
    except KeyError as error:
        raise UserError(f"{uri} cannot be written: the server's answer to an upload has no {error.args[0]}") from error


class _Sums(NamedTuple):
    """What S3 calls a file's content."""

    sha256: str
    """In base64; of files uploaded in parts, that of the parts' digests."""
    md5: str
    """In hex."""


def _sums(path: Path, sha256: str) -> _Sums:
    """The checksums of a file.

    Raises:
        UserError: If it has another sha256 than it had.
    """
    whole, md5, parts = hashlib.sha256(), hashlib.md5(usedforsecurity=False), []
    with path.open("rb") as stream:
        while part := stream.read(_bucket.PART):
            whole.update(part)
            md5.update(part)
            parts.append(hashlib.sha256(part).digest())
        size = stream.tell()
    if whole.hexdigest() != sha256:
        raise UserError(f"{path} was changed while it was published")
    digest = whole.digest() if size < _bucket.PART else hashlib.sha256(b"".join(parts)).digest()
    return _Sums(base64.b64encode(digest).decode(), md5.hexdigest())
