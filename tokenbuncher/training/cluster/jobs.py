"""TrainJobs and their pods, through the official client."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from tokenbuncher.core.errors import UserError
from tokenbuncher.training.cluster.trainjob import (
    CONTAINER,
    GROUP,
    IDENTITY,
    PLURAL,
    VERSION,
    condition,
    digest,
    node_number,
    pod_selector,
)

logger = logging.getLogger(__name__)

try:
    from kubernetes import client, config  # type: ignore[import-untyped]
    from kubernetes.client import ApiException  # type: ignore[import-untyped]
    from kubernetes.watch import Watch  # type: ignore[import-untyped]
except ImportError as error:
    raise UserError("compute.kind trainjob needs the package kubernetes; pip install kubernetes") from error

ROUND_SECONDS = 5
"""How long a watch lasts; pods, which it does not see, are looked at once in each round."""
DELETED_WITHIN = 120
_CONNECT, _ANSWER = 5, 30


def cluster_settings() -> Any:
    """The client's settings for the cluster that $KUBECONFIG or the pod's own account names.

    Raises:
        UserError: If no cluster is configured.
    """
    settings = client.Configuration()
    try:
        try:
            config.load_incluster_config(settings)
        except config.ConfigException:
            config.load_kube_config(client_configuration=settings)
    except config.ConfigException as error:
        raise UserError(f"no cluster is configured: {error}; set KUBECONFIG") from None
    return settings


class TrainJobs:
    """The TrainJobs of a namespace, on the cluster that $KUBECONFIG or the pod's own account names."""

    def __init__(self, namespace: str) -> None:
        """
        Args:
            namespace: Namespace of the TrainJobs.

        Raises:
            UserError: If no cluster is configured.
        """
        settings = cluster_settings()
        settings.retries = Retry(total=4, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504))
        self.namespace = namespace
        self.objects = client.CustomObjectsApi(client.ApiClient(settings))
        self.core = client.CoreV1Api(client.ApiClient(settings))
        self._where = (GROUP, VERSION, namespace, PLURAL)

    def get(self, name: str) -> dict[str, Any] | None:
        """The TrainJob as it is now; None if there is none."""
        try:
            return self.objects.get_namespaced_custom_object(*self._where, name, _request_timeout=(_CONNECT, _ANSWER))
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def adopt(self, name: str, identity: Sequence[str]) -> dict[str, Any] | None:
        """The TrainJob of an earlier caller that does this work already. A failed or dying one is deleted.

        Raises:
            UserError: If the TrainJob of that name does other work, or the cluster cannot be used.
        """
        with self.errors(f"trainjob {name}"):
            job = self.get(name)
            if job is None:
                return None
            if job["metadata"].get("annotations", {}).get(IDENTITY) != digest(identity):
                raise UserError(f"trainjob {name} in {self.namespace} is not this work's; delete it or rename it")
            if job["metadata"].get("deletionTimestamp") or condition(job, "Failed"):
                logger.info(f"trainjob {name}: an earlier one has failed or was cancelled; it is replaced")
                self.delete(name)
                self._wait_until_gone(name)
                return None
            logger.info(f"trainjob {name}: going on with the one that is there")
            return job

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        """Creates a TrainJob, or returns that of another caller who was faster.

        Raises:
            UserError: If the cluster refuses it or cannot be reached.
        """
        name = job["metadata"]["name"]
        with self.errors(f"trainjob {name} cannot be created"):
            try:
                return self.objects.create_namespaced_custom_object(
                    *self._where, job, _request_timeout=(_CONNECT, _ANSWER)
                )
            except ApiException as error:
                there = self.get(name) if error.status == 409 else None
                if there is None:
                    raise
                return there

    def delete(self, name: str) -> None:
        """Deletes a TrainJob with all its pods, and logs a warning if that fails."""
        try:
            self.objects.delete_namespaced_custom_object(
                *self._where, name, propagation_policy="Foreground", _request_timeout=(_CONNECT, _ANSWER)
            )
            logger.info(f"trainjob {name}: deleted")
        except (ApiException, HTTPError) as error:
            if getattr(error, "status", None) != 404:
                command = f"kubectl --namespace {self.namespace} delete trainjob {name}"
                logger.warning(f"trainjob {name} could not be deleted ({_words(error)}); do it by: {command}")

    def _wait_until_gone(self, name: str) -> None:
        until = time.monotonic() + DELETED_WITHIN
        while self.get(name):
            if time.monotonic() > until:
                raise UserError(f"trainjob {name} is being deleted for {DELETED_WITHIN} s already; look at its pods")
            time.sleep(1)

    def pods(self, name: str) -> list[Any]:
        """The pods that train for a TrainJob, by the number of their node, newest last."""
        pods = self.core.list_namespaced_pod(
            self.namespace, label_selector=pod_selector(name), _request_timeout=(_CONNECT, _ANSWER)
        ).items
        return sorted(pods, key=lambda pod: (node_number(pod), pod.metadata.creation_timestamp))

    def wait_for_change(self, job: dict[str, Any]) -> None:
        """Waits until the TrainJob changes, a round is over, or the server has forgotten that version."""
        changes = Watch().stream(
            self.objects.list_namespaced_custom_object,
            *self._where,
            field_selector=f"metadata.name={job['metadata']['name']}",
            resource_version=job["metadata"]["resourceVersion"],
            timeout_seconds=ROUND_SECONDS,
            _request_timeout=(_CONNECT, ROUND_SECONDS + _ANSWER),
        )
        try:
            next(changes, None)
        except ApiException as error:
            if error.status != 410:
                raise
        finally:
            changes.close()

    def log(self, pod: str, **options: Any) -> Any:
        """The response with the log of the training container; options are passed to the API."""
        return self.core.read_namespaced_pod_log(
            pod, self.namespace, container=CONTAINER, _preload_content=False, **options
        )

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turns errors of the API into messages for users.

        Raises:
            UserError: If the block ends with one.
        """
        try:
            yield
        except ApiException as error:
            hint = {
                401: "; log in again",
                403: f"; the account needs create, get, list, watch and delete of trainjobs in {self.namespace}",
                404: "; is Kubeflow Trainer installed, and the namespace there?",
            }.get(error.status, "")
            raise UserError(f"{what}: {_words(error)}{hint}") from error
        except HTTPError as error:
            raise UserError(f"{what}: the cluster cannot be reached: {_words(error)}") from error


def _words(error: Exception) -> str:
    """The message of the API server, without headers."""
    try:
        return json.loads(getattr(error, "body", None) or "")["message"]
    except (ValueError, KeyError, TypeError):
        return str(getattr(error, "reason", None) or error)
