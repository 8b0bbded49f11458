"""What an artifact store says of the files it keeps, without their being read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

from tokenbuncher.errors import UserError

ATTEMPTS = 5
ADVICE = {
    "ExpiredToken": "renew the credentials",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "the credentials lack this permission",
    "403": "the credentials lack this permission, or have expired",
    "404": "it was deleted meanwhile",
    "SlowDown": "try again later, or with a higher AWS_MAX_ATTEMPTS",
    "NoSuchBucket": "make the bucket, or correct its name",
}


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
        bucket, prefix = parsed.netloc, parsed.path.strip("/") + "/"
        with bucket_errors(f"s3://{bucket}/{prefix} cannot be read"):
            heads = bucket_heads(bucket_client(os.environ.get("MLFLOW_S3_ENDPOINT_URL")), bucket, prefix)
            return {name: _stored(head) for name, head in heads.items()}
    if parsed.scheme in ("", "file"):
        folder = Path(unquote(parsed.path)) if parsed.scheme else Path(uri)
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): Stored(path.stat().st_size, None) for path in files}
    return None


def bucket_client(endpoint_url: str | None, attempts: int | None = None) -> Any:
    """A client of an S3 server, which tries again for seconds, not minutes.

    Args:
        endpoint_url: The server; if None, boto3 takes AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or Amazon's.
        attempts: How often each request is sent at most; if None, AWS_MAX_ATTEMPTS or 5 times.
    """
    import boto3
    from botocore.config import Config
    from botocore.session import get_session

    session = get_session()
    retries = {
        "mode": session.get_config_variable("retry_mode") or "standard",
        "total_max_attempts": attempts or session.get_config_variable("max_attempts") or ATTEMPTS,
    }
    return boto3.Session(botocore_session=session).client(
        "s3", endpoint_url=endpoint_url, config=Config(retries=retries, connect_timeout=10)
    )


@contextmanager
def bucket_errors(failure: str) -> Iterator[None]:
    """Tells what went wrong with an S3 server or with the local files, and what to do about it.

    Args:
        failure: What the message begins with, such as `s3://bucket/prefix cannot be read`.

    Raises:
        UserError: In place of an error of boto3 or the operating system.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import (  # type: ignore[import-untyped]
        RetriesExceededError,
        S3DownloadFailedError,
    )

    try:
        yield
    except ClientError as error:
        advice = ADVICE.get(error.response["Error"]["Code"])
        raise UserError(f"{failure}: {error}" + (f" ({advice})" if advice else "")) from error
    except S3DownloadFailedError as error:
        raise UserError(f"{failure}: it was written anew meanwhile, try again: {error}") from error
    except RetriesExceededError as error:
        raise UserError(f"{failure}: the connection broke again and again: {error.last_exception}") from error
    except (BotoCoreError, OSError) as error:
        raise UserError(f"{failure}: {error}") from error


def bucket_names(client: Any, bucket: str, prefix: str) -> list[str]:
    """The keys below a prefix, without it."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", ())]


def bucket_heads(client: Any, bucket: str, prefix: str) -> dict[str, dict[str, Any]]:
    """What the server says of every file below a prefix, by its key without the prefix."""
    names = bucket_names(client, bucket, prefix)
    return {name: client.head_object(Bucket=bucket, Key=prefix + name) for name in names}


def _stored(head: dict[str, Any]) -> Stored:
    return Stored(head["ContentLength"], f"{head['ETag']} {head.get('VersionId', '')}".strip())
