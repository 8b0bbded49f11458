"""S3 servers: clients, listings, and messages for their errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tokenbuncher.core.errors import UserError

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
    **dict.fromkeys(
        ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
        "name the bucket's own region in AWS_DEFAULT_REGION",
    ),
}

WRITES = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")

OLDER = (
    "a server that does not know the newer checksums needs AWS_REQUEST_CHECKSUM_CALCULATION=when_required and "
    "AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
)

UNKNOWN = {
    *("400", "405", "411", "501", "BadRequest", "InvalidArgument", "InvalidRequest"),
    *("MethodNotAllowed", "MissingContentLength", "NotImplemented"),
}
"""Error codes of servers that do not know what they are asked for."""


class Stored(NamedTuple):
    """A stored file."""

    size: int
    """Bytes."""
    name: str | None
    """What the store calls its content: ETag and version id. None if it has no such name."""


def bucket_client(endpoint_url: str | None, attempts: int | None = None) -> Any:
    """A client of an S3 server, which tries again for seconds, not minutes.

    Args:
        endpoint_url: URL of the server. If None, boto3 uses AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or Amazon's.
        attempts: Maximum number of attempts for each request. Defaults to AWS_MAX_ATTEMPTS or 5.
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
    """Turns errors of an S3 server or of local files into messages that say what to do.

    Args:
        failure: Beginning of the message, such as `s3://bucket/prefix cannot be read`.

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
        raise UserError(f"{failure}: {error}{bucket_advice(error)}") from error
    except S3DownloadFailedError as error:
        raise UserError(f"{failure}: it was written anew meanwhile, try again: {error}") from error
    except RetriesExceededError as error:
        raise UserError(f"{failure}: the connection broke again and again: {error.last_exception}") from error
    except (BotoCoreError, OSError) as error:
        raise UserError(f"{failure}: {error}") from error


def bucket_failures() -> tuple[type[Exception], ...]:
    """What boto3 raises where other libraries use it; nothing if it is not installed."""
    try:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return ()
    return Boto3Error, BotoCoreError, ClientError


def bucket_advice(error: BaseException) -> str:
    """Advice on an error of boto3, as the end of a message, or an empty text."""
    while error and not hasattr(error, "operation_name"):
        if not error.__context__:
            return ""
        error = error.__context__
    advice = "; ".join(_advice(error))
    return f" ({advice})" if advice else ""


def _advice(error: Any) -> Iterator[str]:
    code = error.response["Error"]["Code"]
    if code in ADVICE:
        yield ADVICE[code]
    misread = code in ("SignatureDoesNotMatch", "XAmzContentSHA256Mismatch")  # the way in which checksums are sent
    if error.operation_name in WRITES and (misread or lacks_something(error)) and sends_checksums():
        yield OLDER


def lacks_something(error: Any) -> bool:
    """Whether a server may have refused because it does not know what it was asked for."""
    return error.response["Error"]["Code"] in UNKNOWN


def sends_checksums() -> bool:
    """Whether requests have the newer checksums: unless the environment or AWS's configuration says otherwise."""
    from botocore.session import get_session

    return str(get_session().get_config_variable("request_checksum_calculation")).lower() != "when_required"


def bucket_entries(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """What a server lists below a prefix; older servers know but ListObjects, or take ListObjectsV2 for it."""
    from botocore.exceptions import ClientError

    asked = {"Bucket": bucket, "Prefix": prefix}
    try:
        for page in client.get_paginator("list_objects_v2").paginate(**asked):
            if page.get("IsTruncated") and not page.get("NextContinuationToken"):
                break
            yield from page.get("Contents", ())
        else:
            return
    except ClientError as error:
        if error.operation_name != "ListObjectsV2" or not lacks_something(error):
            raise
    for page in client.get_paginator("list_objects").paginate(**asked):
        yield from page.get("Contents", ())


def bucket_names(client: Any, bucket: str, prefix: str) -> list[str]:
    """The keys below a prefix, without it."""
    return [entry["Key"].removeprefix(prefix) for entry in bucket_entries(client, bucket, prefix)]


def bucket_heads(
    client: Any, bucket: str, prefix: str, *, names: Iterable[str] | None = None
) -> dict[str, dict[str, Any]]:
    """What the server says of the files below a prefix, all if none are named, by key without the prefix."""
    names = bucket_names(client, bucket, prefix) if names is None else names
    return {name: client.head_object(Bucket=bucket, Key=prefix + name) for name in names}


def stored(head: dict[str, Any]) -> Stored:
    return Stored(head["ContentLength"], f"{head.get('ETag', '')} {head.get('VersionId', '')}".strip() or None)
