"""What an artifact store says of the files it keeps, without their being read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

from tokenbuncher.errors import UserError


class Stored(NamedTuple):
    """A stored file."""

    size: int
    """Bytes."""
    name: str | None
    """What the store calls its content: ETag and version id. None if it has no such name."""


def stored_files(uri: str) -> dict[str, Stored] | None:
    """Every file below an artifact URI, by relative POSIX path.

    Args:
        uri: `s3://bucket/prefix`, read with the usual AWS credentials and MLFLOW_S3_ENDPOINT_URL; or a local folder.

    Returns:
        The files; None for a store that cannot be asked, such as one behind MLflow's own server.

    Raises:
        UserError: If the store refuses or cannot be reached.
    """
    parsed = urlparse(uri)
    if parsed.scheme == "s3":
        return _in_bucket(parsed.netloc, parsed.path.strip("/") + "/")
    if parsed.scheme in ("", "file"):
        folder = Path(unquote(parsed.path)) if parsed.scheme else Path(uri)
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): Stored(path.stat().st_size, None) for path in files}
    return None


def _in_bucket(bucket: str, prefix: str) -> dict[str, Stored]:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key.removeprefix(prefix): _head(client, bucket, key) for key in keys}
    except (BotoCoreError, ClientError) as error:
        raise UserError(f"s3://{bucket}/{prefix} cannot be read: {error}") from error


def _head(client: Any, bucket: str, key: str) -> Stored:
    head = client.head_object(Bucket=bucket, Key=key)
    return Stored(head["ContentLength"], f"{head['ETag']} {head.get('VersionId', '')}".strip())
