"""Checks of the servers that a release uses; each is asked once, and must answer within seconds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from tokenbuncher.core.errors import UserError
from tokenbuncher.preflight.doctor._diagnosis import Diagnosis, ok, problem, warning
from tokenbuncher.settings import ComputeSpec
from tokenbuncher.settings.tracking_uri import LOG_IN, checked_tracking_uri, sqlite_path, sqlite_uri
from tokenbuncher.storage import client_of_bucket
from tokenbuncher.storage.s3 import ADVICE

SECONDS = 5
EXPERIMENT = "tokenbuncher"
"""That of all releases; see `registry.register`."""
S3_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")


def check_mlflow(uri: str | None, alias: str = "champion") -> Iterator[Diagnosis]:
    """Whether an MLflow server shows its registry to these credentials, and guards the alias."""
    if uri is None:
        yield ok("MLflow: no server is named; runs register in an sqlite file under the output root")
        return
    shown = _ask_registry(uri)
    yield shown
    if shown.level == "ok" and uri.startswith("http"):
        yield _ask_guard(uri, alias)


def check_source_registry(source: str, uri: str | None) -> Iterator[Diagnosis]:
    """Whether the registry answers that the environment names for sources."""
    if uri is None:
        yield problem(f"where is {source}?", "set MLFLOW_TRACKING_URI")
    else:
        yield _ask_registry(uri)


def warn_of_unused(uri: str) -> Iterator[Diagnosis]:
    """That the environment's server gets no release, which some may expect."""
    remedy = f"set tracking.uri to {uri} if they belong there"
    yield warning("MLFLOW_TRACKING_URI is for models:/ sources; this spec's releases do not register there", remedy)


def _ask_registry(uri: str) -> Diagnosis:
    try:
        checked_tracking_uri(uri)
    except UserError as error:
        return problem(f"MLflow: {error}", "correct the tracking URI")
    if uri.startswith("http"):
        return _ask_mlflow(uri)
    path = sqlite_path(uri)
    return _ask_database(uri) if path is None else _look_at_file(path)


def _look_at_file(path: Path) -> Diagnosis:
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if there.is_dir() == (there == path) or not os.access(there, os.W_OK):
        return problem(f"MLflow: the sqlite file {path} cannot be written", f"look at {there}, or choose another file")
    return _ask_database(sqlite_uri(path)) if there == path else ok(f"MLflow: the sqlite file {path}, made at need")


def _ask_database(uri: str) -> Diagnosis:
    """Opens a database as MLflow will, and looks where the files of releases are."""
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.exc import SQLAlchemyError

    place = text("SELECT artifact_location FROM experiments WHERE name = :name")
    try:
        with create_engine(uri).connect() as connection:
            there = inspect(connection).has_table("experiments")
            found = connection.execute(place, {"name": EXPERIMENT}).scalar() if there else None
    except ImportError as error:
        return problem(f"MLflow at {uri}: {error}", "install the driver of the database, or name an MLflow server")
    except SQLAlchemyError as error:
        return problem(f"MLflow at {uri} cannot be opened: {_reason(error)}", "start it, or correct the tracking URI")
    if str(found).startswith("mlflow-artifacts:"):
        what = f"MLflow at {uri} is a server's, which alone reaches the files of experiment {EXPERIMENT}"
        return problem(what, "give the URL of that server")
    return ok(f"MLflow at {uri} can be opened")


def _ask_mlflow(uri: str) -> Diagnosis:
    from mlflow.exceptions import MlflowException

    try:
        answer = _request_mlflow(uri, "GET", "registered-models/search", params={"max_results": 1})
    except MlflowException as error:
        return problem(f"MLflow at {uri} does not answer: {_reason(error)}", "start it, or correct the tracking URI")
    if answer.status_code in (401, 403):
        return problem(f"MLflow at {uri} refuses these credentials ({answer.status_code})", LOG_IN)
    if answer.status_code != 200 or not _is_json(answer.content):
        return problem(f"{uri} answers {answer.status_code}, not as MLflow does", "correct the tracking URI")
    return ok(f"MLflow at {uri} shows its registry")


def _ask_guard(uri: str, alias: str) -> Diagnosis:
    """Asks for the alias on a version that is not there: only a guard has something to say about the alias itself."""
    from mlflow.exceptions import MlflowException

    wanted = {"name": f"tokenbuncher-doctor-{uuid4().hex}", "alias": alias, "version": "1"}
    try:
        answer = _request_mlflow(uri, "POST", "registered-models/alias", json=wanted)
        said = answer.json() if _is_json(answer.content) else {}
    except MlflowException as error:
        return warning(f"whether MLflow at {uri} guards {alias} is not known: {_reason(error)}", "ask again")
    code, message = (str(said.get(field, "")) if isinstance(said, dict) else "" for field in ("error_code", "message"))
    if message.startswith(f"tokenbuncher guard: alias {alias} is protected"):
        return ok(f"MLflow at {uri} guards the alias {alias}")
    if message.startswith("tokenbuncher guard"):
        return warning(f"MLflow at {uri} has a guard that moves nothing: {message}", "mend its settings")
    if code == "RESOURCE_DOES_NOT_EXIST":
        return warning(f"MLflow at {uri} does not guard the alias {alias}: any client can move it", "see docs/guard.md")
    said_instead = f"it answers {answer.status_code} {code}".rstrip()
    return warning(f"whether MLflow at {uri} guards {alias} is not known: {said_instead}", "see docs/guard.md")


def _request_mlflow(uri: str, method: str, path: str, **content: Any) -> Any:
    from mlflow.tracking._tracking_service.utils import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    return http_request(
        get_default_host_creds(uri.rstrip("/")),
        f"/api/2.0/mlflow/{path}",
        method,
        max_retries=0,
        timeout=SECONDS,
        raise_on_status=False,
        **content,
    )


def check_s3(buckets: Sequence[str]) -> Iterator[Diagnosis]:
    """Whether the S3 server takes the credentials and has these buckets."""
    if not buckets and not any(os.environ.get(name) for name in S3_VARIABLES):
        yield ok("S3: not in use")
        return
    client = client_of_bucket(attempts=1)
    if not buckets:
        yield _ask_s3(f"S3 at {client.meta.endpoint_url}", client.list_buckets)
    for bucket in buckets:
        yield _ask_s3(f"S3 at {client.meta.endpoint_url}, bucket {bucket}", client.head_bucket, Bucket=bucket)


def _ask_s3(what: str, ask: Any, **arguments: Any) -> Diagnosis:
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        ask(**arguments)
    except NoCredentialsError:
        return problem(f"{what}: there are no credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    except ClientError as error:
        code = error.response["Error"]["Code"]
        remedy = {
            "404": "make the bucket, or correct its name",
            "403": "give credentials that may do this",
            "InvalidAccessKeyId": "correct AWS_ACCESS_KEY_ID",
            "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY",
        }.get(code) or ADVICE.get(code, "give credentials that may do this")
        return problem(f"{what}: {error}", remedy)
    except BotoCoreError as error:
        return problem(f"{what}: {error}", "start the server, or correct AWS_ENDPOINT_URL or MLFLOW_S3_ENDPOINT_URL")
    return ok(f"{what}: may be read")


def check_hub(sources: Sequence[str]) -> Iterator[Diagnosis]:
    """Whether sources of the Hugging Face hub may be fetched."""
    if not sources:
        return
    if os.environ.get("HF_HUB_OFFLINE") in ("0", "false", "no", "off"):
        yield ok("Hugging Face hub: HF_HUB_OFFLINE=0")
    else:
        yield warning(f"{sources[0]} is not fetched: the hub is offline", "set HF_HUB_OFFLINE=0, unless it is cached")


def check_kubernetes(compute: ComputeSpec) -> Iterator[Diagnosis]:
    """Whether the cluster answers and knows TrainJobs, and the namespace is there."""
    try:
        from tokenbuncher.training.cluster.jobs import cluster_settings

        settings = cluster_settings()
    except UserError as error:
        yield problem(f"Kubernetes: {error}", "or set compute.kind: local")
        return
    yield from _ask_kubernetes(settings, compute.namespace)


def _ask_kubernetes(settings: Any, namespace: str) -> Iterator[Diagnosis]:
    from kubernetes import client  # type: ignore[import-untyped]
    from kubernetes.client import ApiException  # type: ignore[import-untyped]
    from urllib3.exceptions import HTTPError

    from tokenbuncher.training.cluster.trainjob import GROUP, PLURAL, VERSION

    settings.retries = False
    api = client.ApiClient(settings)
    limits = {"_request_timeout": SECONDS}
    try:
        version = client.VersionApi(api).get_code(**limits).git_version
    except (ApiException, HTTPError) as error:
        yield problem(f"Kubernetes at {settings.host} does not answer: {_reason(error)}", "correct KUBECONFIG")
        return
    yield ok(f"Kubernetes {version} at {settings.host}")
    try:
        client.CoreV1Api(api).read_namespace(namespace, **limits)
        yield ok(f"namespace {namespace} is there")
    except ApiException as error:
        if error.status == 404:
            yield problem(f"there is no namespace {namespace}", f"kubectl create namespace {namespace}")
        else:
            yield warning(f"namespace {namespace} is not shown ({error.status})", f"kubectl get namespace {namespace}")
    try:
        client.CustomObjectsApi(api).list_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, limit=1, **limits)
        yield ok(f"TrainJobs of {namespace} can be listed")
    except ApiException as error:
        remedy = {404: "install Kubeflow Trainer", 403: "give the account the rights in manifests/"}.get(
            error.status, "look at the API server"
        )
        yield problem(f"TrainJobs of {namespace} cannot be listed ({error.status})", remedy)


def check_kubeflow(host: str) -> Iterator[Diagnosis]:
    """Whether Kubeflow Pipelines answers."""
    import requests  # type: ignore[import-untyped]

    try:
        answer = requests.get(f"{host.rstrip('/')}/apis/v2beta1/healthz", timeout=SECONDS)
    except requests.RequestException as error:
        yield problem(f"Kubeflow at {host} does not answer: {_reason(error)}", "start it, or correct --host")
        return
    if answer.status_code == 200 and _is_json(answer.content):
        yield ok(f"Kubeflow Pipelines at {host}")
    elif answer.status_code in (200, 401, 403):
        yield warning(f"Kubeflow at {host} asks for a login", "give submit a --token-file")
    else:
        yield problem(f"{host} answers {answer.status_code}, not as Kubeflow Pipelines does", "is the host the API's?")


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _reason(error: BaseException) -> str:
    """The innermost cause, which libraries wrap in lines of their own."""
    while (cause := getattr(error, "reason", None) or error.__cause__ or error.__context__) is not None:
        if not isinstance(cause, BaseException):
            return str(cause)
        error = cause
    return str(error)
