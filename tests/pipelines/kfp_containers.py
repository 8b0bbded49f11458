"""The release pipeline by the real kfp.local, each task in a container that a test starts, and what it needs.

Kubeflow's own backend cannot be had here. What its driver makes of a compiled pipeline (image, command, environment,
secrets, volumes, labels) the tests do; a folder that every container has takes the place of its launcher's bucket.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pipelines.attacks import Place
from pipelines.release import release_pipeline
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.storage import publish

REDUCED = """
data: {sizes: {utility: 400}}
attacks: {suite: [{algorithm: grpo, steps: 30}]}
evaluation: {fine_tuning: null}
policy: {required_attacks: [grpo], max_utility_drop: 0.05, max_fine_tuning_drop: null}
output: {root: /work/runs}
"""
"""The default defence under half a GRPO attack; as much of a policy as that can pass."""


# Read before any fixture of another server changes them.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", ""),
    "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
    "AWS_DEFAULT_REGION": os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
}


class Task(NamedTuple):
    """A task as kfp.local would start it by Docker."""

    stage: str
    image: str
    command: list[str]
    env: dict[str, str]
    folder: Path
    """What all tasks share, at the same place in each."""


def run_release(
    spec: ReleaseSpec, place: Place, folder: Path, run: Callable[[Task], int], shared_quarantine: bool = False
) -> None:
    """Runs the pipeline.

    Args:
        spec: The release spec.
        place: Says where each task runs; of that kfp.local itself knows only image and environment.
        folder: For the artifacts.
        run: Runs a task and returns its exit status. Takes the place of kfp's own way, which reads a container that
            has vanished as one that succeeded (kubeflow/pipelines#13332).
        shared_quarantine: Whether the attacks share one.

    Raises:
        RuntimeError: If a task fails.
    """
    from kfp import local
    from kfp.local.docker_task_handler import DockerTaskHandler
    from kfp.local.status import Status

    def run_task(handler: DockerTaskHandler) -> Status:
        command = handler.full_command
        stage = command[command.index("--function_to_execute") + 1].replace("_", "-")
        status = run(Task(stage, handler.image, command, handler.env_vars, folder))
        return Status.SUCCESS if status == 0 else Status.FAILURE

    with pytest.MonkeyPatch.context() as patch, anyone_may_write():
        folder.mkdir()
        patch.setattr(DockerTaskHandler, "run", run_task)
        local.init(local.DockerRunner(), pipeline_root=str(folder))
        release_pipeline(place, shared_quarantine)(spec=spec.to_yaml())


@contextmanager
def anyone_may_write() -> Iterator[None]:
    """What is made meanwhile can be written by the images' user, who is another one."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


class Bucket(NamedTuple):
    """A bucket of the test's own on a server that checks keys."""

    name: str
    endpoint: str
    client: Any

    @property
    def env(self) -> dict[str, str]:
        """How the containers reach the server."""
        return CREDENTIALS | {"MLFLOW_S3_ENDPOINT_URL": self.endpoint}

    def keys(self, prefix: str) -> list[str]:
        """The objects below a prefix."""
        return [found["Key"] for found in self.client.list_objects_v2(Bucket=self.name, Prefix=prefix)["Contents"]]


@contextmanager
def bucket() -> Iterator[Bucket]:
    """A new bucket on the server that TEST_S3 names; deleted at the end."""
    if "TEST_S3" not in os.environ:
        pytest.skip("needs an S3 server that checks keys: TEST_S3=http://HOST:PORT, and the usual AWS_... variables")
    import boto3
    from botocore.exceptions import ClientError

    endpoint = os.environ["TEST_S3"]

    def client_with(secret: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=secret,
            region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        )

    with pytest.raises(ClientError, match="Signature"):
        client_with("another").list_buckets()
    client = client_with(CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
    name = f"tokenbuncher-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    yield Bucket(name, endpoint, client)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for found in page.get("Contents", ()):
            client.delete_object(Bucket=name, Key=found["Key"])
    client.delete_bucket(Bucket=name)


def release_from(store: Bucket, scratch: Path, tracking_uri: str) -> ReleaseSpec:
    """A reduced release of the organism, whose model is in a bucket."""
    fetch_model(parse_spec(""), scratch / "base")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": store.endpoint}.items():
            patch.setenv(name, value)
        pinned = publish(scratch / "base", f"s3://{store.name}/models/organism")
    return parse_spec(REDUCED, [f"model.source={pinned}", f"tracking.uri={tracking_uri}"])


def guard_files(spec: ReleaseSpec) -> dict[str, str]:
    """What the guard in front of `champion` reads, but for the public key."""
    return {
        "guard.yaml": yaml.safe_dump(
            {
                "apiVersion": "tokenbuncher/v1",
                "aliases": {"champion": {"policy": "policy.yaml", "keys": ["release.pub"]}},
            }
        ),
        "policy.yaml": yaml.safe_dump(spec.policy.model_dump(mode="json")),
    }
