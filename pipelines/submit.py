"""Submits the release pipeline to Kubeflow Pipelines.

    server = Server("https://kubeflow.example/pipeline", token="...")
    url, run = submit(spec, Placement(), server, "release of chat")
    state = wait(server, run)

Everything that can be checked here is checked before the first request.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import kfp_server_api  # type: ignore[import-untyped]
from kfp.client import Client
from urllib3.exceptions import HTTPError, MaxRetryError

from pipelines.compile import compile_pipeline
from pipelines.lint import check_arguments, read_ir, refuse
from pipelines.pinning import dated, pinned
from pipelines.placement import Placement
from pipelines.plain_secrets import plain_secrets
from tokenbuncher.attacks.hazard import refuse_kept_weights
from tokenbuncher.core.documents import read_text
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.version import __version__
from tokenbuncher.settings import ReleaseSpec

if TYPE_CHECKING:
    from kfp_server_api import V2beta1Run

logger = logging.getLogger(f"tokenbuncher.{__name__}")

SUCCEEDED = "SUCCEEDED"
FINAL = (SUCCEEDED, "FAILED", "SKIPPED", "CANCELED")
POLL_SECONDS = 5.0
MISSES = 5
"""Answers in a row that may be missing while a run is waited for."""


@dataclass(frozen=True)
class Server:
    """A Kubeflow Pipelines server."""

    host: str
    token: str | None = field(default=None, repr=False)
    namespace: str | None = None

    def __post_init__(self) -> None:
        if not self.host.startswith(("http://", "https://")):
            raise UserError(f"host {self.host} must begin with http:// or https://, in lower case")

    def url(self, page: str) -> str:
        """Where a browser shows a page."""
        return f"{self.host.rstrip('/')}/#/{page}"


class Submitted(NamedTuple):
    """A run, or the schedule of one, on the server."""

    id: str
    url: str


def read_token(path: Path | None) -> str | None:
    """The token in a file; None without a file.

    Raises:
        UserError: If it cannot be read or is not one word.
    """
    if path is None:
        return None
    token = read_text("token", path).strip()
    if not token or any(character.isspace() for character in token):
        raise UserError(f"{path} must hold the token and nothing else")
    return token


def submit(
    spec: ReleaseSpec, placement: Placement, server: Server, *, experiment: str, name: str, cron: str | None = None
) -> Submitted:
    """Uploads the release pipeline as compiled here, and has it run.

    What the spec names outside of itself is pinned to what it is now, and told; what cannot be pinned is never taken
    from Kubeflow's cache.

    Args:
        spec: The release spec.
        placement: Where the tasks run.
        server: The server.
        experiment: Name of the experiment that the run belongs to; made, if there is none.
        name: Name of the run.
        cron: When to run it, again and again: second, minute, hour, day, month, weekday. Once and now, if None.

    Returns:
        The run or, with `cron`, its schedule.

    Raises:
        UserError: If the spec does not do for a cluster, the pipeline is not sound as placed, its arguments are not
            what it takes, or the server cannot be reached or refuses.
    """
    with (
        _checked(spec, placement, cron) as (compiled, arguments),
        _answering(server),
        redirect_stdout(io.StringIO()),  # the client prints links of its own
    ):
        client = _client(server)
        pipeline, version = _uploaded(client, compiled, server.namespace)
        parts: dict[str, Any] = {
            "experiment_id": client.create_experiment(experiment, namespace=server.namespace).experiment_id,
            "job_name": name,
            "pipeline_id": pipeline,
            "version_id": version,
            "params": arguments,
        }
        if cron:
            schedule = client.create_recurring_run(**parts, cron_expression=cron, no_catchup=True)
            return Submitted(schedule.recurring_run_id, server.url(f"recurringrun/details/{schedule.recurring_run_id}"))
        run = client.run_pipeline(**parts)
        return Submitted(run.run_id, server.url(f"runs/details/{run.run_id}"))


def check(spec: ReleaseSpec, placement: Placement, server: Server, *, cron: str | None = None) -> None:
    """Checks all that `submit` checks, and that the server answers; sends nothing.

    Raises:
        UserError: As `submit`.
    """
    with _checked(spec, placement, cron), _answering(server):
        _check_health(server)


@contextmanager
def _checked(spec: ReleaseSpec, placement: Placement, cron: str | None) -> Iterator[tuple[Path, dict[str, str]]]:
    """The compiled pipeline, in a file for the time of the block, and its arguments, after all checks of both."""
    _check_spec(spec)
    _check_quarantine(spec, placement)
    if cron is not None and len(cron.split()) != 6:
        raise UserError(f"'{cron}' has not 6 fields: second, minute, hour, day, month, weekday; such as '0 0 3 * * 1'")
    fixed, cached, told = pinned(spec)
    for line in told:
        logger.info(line)
    if cron and fixed != spec:
        logger.info(
            "every run of this schedule judges what is pinned here, also when the name has moved on; submit again then"
        )
    # A schedule has one text for all its runs, so it measures anew each time.
    arguments = {"spec": fixed.to_yaml() if cron else dated(fixed, datetime.now(UTC))}
    with TemporaryDirectory() as scratch:
        compiled = Path(scratch, "release.yaml")
        compile_pipeline("release", compiled, placement.caching(() if cron else cached))
        wrong = [*check_arguments(read_ir(compiled), arguments), *plain_secrets(arguments, "argument")]
        refuse(wrong, "the pipeline cannot be run with this spec")
        yield compiled, arguments


def wait(server: Server, run: str) -> str:
    """Waits for a run to end and prints what its tasks come to.

    Args:
        server: The server.
        run: Identifier of the run.

    Returns:
        The final state: SUCCEEDED, FAILED, SKIPPED or CANCELED.

    Raises:
        UserError: If the server cannot be asked any more; the run goes on.
    """
    began, told, misses = time.monotonic(), set[tuple[str, str]](), 0
    with _answering(server):
        client = _client(server)
    while True:
        try:
            with _answering(server):
                now = client.get_run(run)
        except UserError as error:
            misses += 1
            if misses == MISSES:
                raise UserError(f"{error}; the run goes on, unwatched: {server.url(f'runs/details/{run}')}") from error
            time.sleep(POLL_SECONDS)
            continue
        misses = 0
        for task, state in _states(now):
            if (task, state) not in told:
                told.add((task, state))
                logger.info(f"{time.monotonic() - began:6.0f} s  {task:<24}  {state}")
        if now.state in FINAL:
            if now.error and now.error.message:
                logger.info(now.error.message)
            return str(now.state)
        time.sleep(POLL_SECONDS)


def _states(run: V2beta1Run) -> Iterator[tuple[str, str]]:
    for task in (run.run_details and run.run_details.task_details) or []:
        if task.state:
            yield task.display_name, task.state
    if run.state:
        yield "the run", run.state


def _check_spec(spec: ReleaseSpec) -> None:
    refuse_kept_weights(spec)
    if not (spec.tracking.uri or "").startswith(("http://", "https://")):
        raise UserError(
            f"tracking.uri is {spec.tracking.uri}, but tasks on Kubeflow share no disk; name an MLflow server, "
            "such as --set tracking.uri=http://mlflow:5000"
        )


def _check_quarantine(spec: ReleaseSpec, placement: Placement) -> None:
    place = placement.quarantine
    if place and not PurePosixPath(place.path).match(str(spec.output.root / "quarantine")):
        raise UserError(
            f"quarantine.path of the placement is {place.path}, but attacks keep their weights in "
            f"{spec.output.root / 'quarantine'}; change one so that the volume is there"
        )


@contextmanager
def _answering(server: Server) -> Iterator[None]:
    """What the server does not answer or grant is told as the user's error."""
    try:
        yield
    except kfp_server_api.ApiException as error:
        raise UserError(_told(server, error)) from None
    except HTTPError as error:
        reason = error.reason if isinstance(error, MaxRetryError) else error
        raise UserError(f"{server.host} cannot be reached: {reason}; is it up, and the host right?") from None


def _client(server: Server) -> Client:
    _check_health(server)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is of version 2
        return Client(server.host, namespace=server.namespace or "", existing_token=server.token)


def _check_health(server: Server) -> None:
    """Asks once: the client asks five times in 25 s, and takes a login page for an answer."""
    configuration = kfp_server_api.Configuration(host=server.host.rstrip("/"))
    if server.token:
        configuration.api_key["authorization"] = server.token
        configuration.api_key_prefix["authorization"] = "Bearer"
    api = kfp_server_api.HealthzServiceApi(kfp_server_api.ApiClient(configuration))
    health, _, headers = api.healthz_service_get_healthz_with_http_info()
    if "json" not in headers.get("Content-Type", ""):
        raise UserError(f"{server.host} does not answer as Kubeflow Pipelines does; log in, and give --token-file")
    if health.multi_user and not server.namespace:
        raise UserError(f"{server.host} serves several users; say whose run it is by --namespace")


def _told(server: Server, error: kfp_server_api.ApiException) -> str:
    try:
        message = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        message = error.reason or "no reason given"
    if server.token:
        message = message.replace(server.token, "(token)")
    advice = {
        401: "give a token that is valid by --token-file",
        403: "ask for the right to run pipelines in that namespace, or give another --token-file or --namespace",
        404: "is the host that of the API?",
    }.get(error.status, "the server's log tells more")
    return f"{server.host} answered {error.status}: {message}; {advice}"


def _uploaded(client: Client, compiled: Path, namespace: str | None) -> tuple[str, str]:
    """Identifiers of pipeline and version; what was uploaded before is not uploaded again."""
    name = read_ir(compiled)[0]["pipelineInfo"]["name"]
    found = client.list_pipelines(filter=_called(name), namespace=namespace).pipelines
    if not found:
        pipeline = client.upload_pipeline(str(compiled), name, namespace=namespace).pipeline_id
        return pipeline, client.list_pipeline_versions(pipeline).pipeline_versions[0].pipeline_version_id
    pipeline = found[0].pipeline_id
    version = f"{__version__}-{hashlib.sha256(compiled.read_bytes()).hexdigest()[:12]}"
    versions = client.list_pipeline_versions(pipeline, filter=_called(version)).pipeline_versions
    if versions:
        return pipeline, versions[0].pipeline_version_id
    return pipeline, client.upload_pipeline_version(str(compiled), version, pipeline).pipeline_version_id


def _called(name: str) -> str:
    """A filter of the API for what is called so."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
