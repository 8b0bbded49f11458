"""Builds TrainJob objects, and reads their status and that of their pods."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.passwords import has_password
from tokenbuncher.settings import ComputeSpec

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
IDENTITY = "tokenbuncher.io/identity"
OUTPUT = "tokenbuncher.io/output"
CONTAINER = "node"
"""Kubeflow Trainer's name of the container that trains."""
HOPELESS = {"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"}
"""Why a container waits that no waiting will start."""
UNLIKELY = {"ErrImagePull", "ImagePullBackOff", "CrashLoopBackOff", "CreateContainerError", "RunContainerError"}
"""Why a container waits that may start yet, if the registry or the node was only busy."""
# Where the storage is; who may use it is for the runtime or `compute.secret` to say.
FORWARDED = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "MLFLOW_S3_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
)


def digest(identity: Sequence[str]) -> str:
    """sha256 of the identity, in hex."""
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()


def job_name(stage: str, identity: Sequence[str]) -> str:
    """The name of the TrainJob for this work. It is short because JobSet derives the pods' names from it."""
    return f"{stage}-{digest(identity)[:16]}"


def build_trainjob(
    compute: ComputeSpec,
    stage: str,
    identity: Sequence[str],
    *,
    arguments: Mapping[str, str],
    output: str,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """The TrainJob that runs a stage.

    Args:
        compute: The compute section of the spec.
        stage: The stage to run: defend or attack.
        identity: Words that identify the work. The same words give the same name.
        arguments: Arguments of the stage's command, by option. Folders are given by their URI.
        output: URI where the output is to be published.
        environment: Environment of the caller, from which the address of the storage is passed on.

    Raises:
        UserError: If that has a password, which anybody who sees the TrainJob could read.
    """
    trainer: dict[str, Any] = {
        "command": ["python", "-m", "tokenbuncher.training.cluster.node", stage],
        "args": [f"--{option}={value}" for option, value in {**arguments, "output": output}.items()],
        "numNodes": compute.nodes,
        "numProcPerNode": compute.processes,
        "env": _variables(compute, environment),
    }
    if compute.image:
        trainer["image"] = compute.image
    if resources := _resources(compute):
        trainer["resourcesPerNode"] = {"requests": resources, "limits": resources}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": job_name(stage, identity),
            "namespace": compute.namespace,
            "labels": {"app.kubernetes.io/part-of": "tokenbuncher", "tokenbuncher.io/stage": stage},
            "annotations": {IDENTITY: digest(identity), OUTPUT: output},
        },
        "spec": {
            "runtimeRef": {
                "apiGroup": GROUP,
                "kind": "TrainingRuntime",
                "name": compute.defence_runtime if stage == "defend" else compute.attack_runtime,
            },
            "activeDeadlineSeconds": compute.timeout,
            "trainer": trainer,
        },
    }


def _variables(compute: ComputeSpec, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The environment of a node: where the storage is, and the keys to it."""
    env: list[dict[str, Any]] = [
        {"name": name, "value": _plain(name, environment[name])} for name in FORWARDED if environment.get(name)
    ]
    if compute.secret:
        env += [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": compute.secret, "key": name}}}
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        ]
    return env


def _plain(name: str, value: str) -> str:
    if has_password(value):
        raise UserError(f"${name} holds a password, and a TrainJob shows it to everybody; name compute.secret instead")
    return value


def _resources(compute: ComputeSpec) -> dict[str, str]:
    wanted = {
        "cpu": compute.resources.cpu,
        "memory": compute.resources.memory,
        "nvidia.com/gpu": str(compute.resources.gpu) if compute.resources.gpu else None,
    }
    return {name: amount for name, amount in wanted.items() if amount}


def condition(job: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """The condition of that type, if it is true: Complete, Failed or Suspended."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((found for found in conditions if found["type"] == kind and found["status"] == "True"), None)


def pod_selector(name: str) -> str:
    """Selects the pods that train for a TrainJob."""
    return f"jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/replicatedjob-name=node"


def node_number(pod: Any) -> int:
    """Which node of the TrainJob a pod is, from 0."""
    marks = {**(pod.metadata.annotations or {}), **(pod.metadata.labels or {})}
    return int(marks.get("batch.kubernetes.io/job-completion-index", 0))


def pod_state(pod: Any) -> str:
    """The phase of a pod, and why it does not run, in a few words."""
    waiting = [
        f"{status.state.waiting.reason}: {status.state.waiting.message or ''}".strip(": ")
        for status in _statuses(pod)
        if status.state.waiting and status.state.waiting.reason not in (None, "ContainerCreating", "PodInitializing")
    ]
    unscheduled = [
        f"{found.reason}: {found.message}"
        for found in pod.status.conditions or []
        if found.type == "PodScheduled" and found.status == "False"
    ]
    why = "; ".join([*unscheduled, *waiting])
    return f"{pod.status.phase} ({why})" if why else pod.status.phase


def waits_for(pod: Any) -> set[str]:
    """The reasons why containers of a pod wait."""
    return {status.state.waiting.reason for status in _statuses(pod) if status.state.waiting}


def pod_failure(pod: Any) -> str | None:
    """Why a pod failed: out of memory, an exit status, evicted, or no image; None if it did not fail."""
    for status in _statuses(pod):
        for state in (status.state, status.last_state):
            ended = state.terminated if state else None
            if ended and ended.reason == "OOMKilled":
                return f"{pod.metadata.name} was OOMKilled: it needs more memory than compute.resources.memory"
            if ended and ended.exit_code:
                return f"{pod.metadata.name} ended with exit status {ended.exit_code} ({ended.reason})"
    if pod.status.phase == "Failed":
        return f"{pod.metadata.name} failed: {pod.status.reason or ''} {pod.status.message or ''}".strip()
    if (HOPELESS | UNLIKELY) & waits_for(pod):
        return f"{pod.metadata.name} does not start: {pod_state(pod)}"
    return None


def _statuses(pod: Any) -> list[Any]:
    return [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
