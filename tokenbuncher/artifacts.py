"""Where a model version's files are, and what the artifact store says of them without their being read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

from tokenbuncher.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

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

BUCKETS = ("s3", "gs", "wasbs", "abfss")
"""Schemes of stores that clients read themselves; the host is a bucket."""
SERVED = "mlflow-artifacts"
"""Scheme of what MLflow's own server keeps for its clients."""
SERVED_API = "/api/2.0/mlflow-artifacts/artifacts"
"""Where the server serves it. MLflow's client takes a path that begins with this for one that goes on after it."""


class Tracking(Protocol):
    """What MLflow's client and the server's own store both tell of runs and logged models."""

    def get_run(self, run_id: str) -> Any:
        """The run of an id."""

    def get_logged_model(self, model_id: str) -> Any:
        """The logged model of an id."""

    def search_logged_models(
        self, experiment_ids: list[str], filter_string: str | None = None, *, page_token: str | None = None
    ) -> Any:
        """A page of logged models."""


def located(client: MlflowClient, name: str, version: str) -> str:
    """Where the files of a registered version are; see `version_location`."""
    from tokenbuncher.tracking import registry_of, version_of

    found = version_of(client, name, version)
    return version_location(client, found.source, registry_of(client).get_model_version_download_uri(name, version))


def logged_location(client: MlflowClient, model_id: str) -> str:
    """Where the files of a logged model are; see `version_location`."""
    location = client.get_logged_model(model_id).artifact_location
    return version_location(client, f"models:/{model_id}", str(location))


def server_root(client: MlflowClient) -> str | None:
    """Where a server puts artifacts, by its first experiment, which it makes itself; None if that does not tell."""
    first = str(client.get_experiment("0").artifact_location)
    return first.removesuffix("/0") if first.endswith("/0") else None


def version_location(tracking: Tracking, source: str, download: str) -> str:
    """Where the files of a model version are, for whoever reads it.

    It resolves them as MLflow's client does, and refuses whatever another program may read in another way.

    Args:
        tracking: The client, or the server's tracking store.
        source: The version's source.
        download: Its download URI, which differs from the source if that is a logged model.

    Returns:
        A URI `mlflow-artifacts:/...` on the server itself, of a bucket, or a local path or `file:` URI.

    Raises:
        UserError: If it has two readings.
    """
    if source != download:
        _check_logged_model(tracking, source, download)
    if _checked(download, "its source").scheme == "runs":
        return _run_location(tracking, download)
    return download


def inside(location: str, roots: Iterable[str]) -> bool:
    """Whether a location that `version_location` gave lies below one of these roots.

    Local roots are compared as the file system resolves them, so that a link does not lead out of them.
    """
    return any(_below(location, root) for root in roots)


def checked_root(root: str) -> str:
    """A root for `inside`.

    Raises:
        UserError: If it can be read in two ways, or is all of this machine.
    """
    bare = root if root.endswith(":/") else root.rstrip("/")
    if _checked(f"{bare.rstrip('/')}/x", root or "an artifact root without a name").scheme == "runs":
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


def _run_location(tracking: Tracking, uri: str) -> str:
    """Where `runs:/RUN/PATH` is, unless MLflow's client lays a logged model over it."""
    run_id, *path = urlparse(uri).path[1:].split("/")
    run = tracking.get_run(run_id)
    if run.info.run_id != run_id:
        raise UserError("its source names a run in other letters than the run's own; register it again")
    if not path or re.search("['\"`]", path[0]):
        raise UserError("its source names no folder of a run that MLflow's clients read alike; register it again")
    if _has_logged_model(tracking, run, path[0]):
        raise UserError(
            f"the run of its source has a logged model {path[0]}, which MLflow's client lays over the files of that "
            "name; register it again"
        )
    location = f"{run.info.artifact_uri}/{'/'.join(path)}"
    if _checked(location, "the place of its run's files").scheme in ("runs", "models"):
        raise UserError("the place of its run's files is no place of files")
    return location


def _has_logged_model(tracking: Tracking, run: Any, name: str) -> bool:
    """Whether a logged model of the run has this name to the database, which may fold letters."""
    token: str | None = None
    while True:
        page = tracking.search_logged_models([run.info.experiment_id], f"name = '{name}'", page_token=token)
        if any(model.source_run_id == run.info.run_id for model in page):
            return True
        if not (token := page.token):
            return False


def _check_logged_model(tracking: Tracking, source: str, download: str) -> None:
    """Checks that the source is a logged model, and the download URI the place of it."""
    match = re.fullmatch(r"models:/(m-[\w-]+)", source or "")
    if not match or tracking.get_logged_model(match[1]).artifact_location != download:
        raise UserError("its source and the place that MLflow gives for its files differ; register it again")


def _checked(uri: str, what: str) -> Any:
    """The parsed URI, if there is one way to read it."""
    try:
        parsed = urlparse(uri)
        problem = _ambiguity(uri, parsed)
    except (ValueError, TypeError):
        problem = "is not a URI"
    if problem:
        raise UserError(f"{what} {problem}")
    return parsed


def _ambiguity(uri: str, parsed: Any) -> str | None:
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


def _below(location: str, root: str) -> bool:
    path, folder = local_path(location), local_path(root)
    if path is not None and folder is not None:
        resolved = folder.resolve()
        return path.resolve() != resolved and path.resolve().is_relative_to(resolved)
    if path is not None or folder is not None:
        return False
    given, allowed = urlparse(location), urlparse(root)
    return (given.scheme, given.netloc) == (allowed.scheme, allowed.netloc) and given.path.startswith(
        allowed.path.rstrip("/") + "/"
    )


class Stored(NamedTuple):
    """A stored file."""

    size: int
    """Bytes."""
    name: str | None
    """What the store calls its content: ETag and version id. None if it has no such name."""


def stored_files(uri: str, names: Iterable[str] | None = None) -> dict[str, Stored] | None:
    """Every file below an artifact URI, by relative POSIX path.

    Args:
        uri: `s3://bucket/prefix`, read with the usual AWS credentials and MLFLOW_S3_ENDPOINT_URL; or a local folder.
        names: The files to ask a bucket for, if not all.

    Returns:
        The files; None for a store that cannot be asked, such as one behind MLflow's own server.

    Raises:
        UserError: If the store refuses or cannot be reached.
    """
    parsed = urlparse(uri)
    if parsed.scheme == "s3":
        bucket, prefix = parsed.netloc, parsed.path.strip("/") + "/"
        with bucket_errors(f"s3://{bucket}/{prefix} cannot be read"):
            heads = bucket_heads(bucket_client(os.environ.get("MLFLOW_S3_ENDPOINT_URL")), bucket, prefix, names)
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
    """What to do about an error of boto3, as the end of a message; empty if nothing is known."""
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
    client: Any, bucket: str, prefix: str, names: Iterable[str] | None = None
) -> dict[str, dict[str, Any]]:
    """What the server says of the files below a prefix, all if none are named, by key without the prefix."""
    names = bucket_names(client, bucket, prefix) if names is None else names
    return {name: client.head_object(Bucket=bucket, Key=prefix + name) for name in names}


def _stored(head: dict[str, Any]) -> Stored:
    return Stored(head["ContentLength"], f"{head.get('ETag', '')} {head.get('VersionId', '')}".strip() or None)
