"""The release pipeline in containers of our images, with a real S3 server and the guarded MLflow server."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from kfp.dsl import PipelineTask
from mlflow import MlflowClient

from pipelines.placement import Placement
from tests.images.conftest import LOCKED, Finished, tag
from tests.pipelines.kfp_containers import Bucket, Task, bucket, guard_files, release_from, run_release
from tokenbuncher.attestation import generate_key
from tokenbuncher.settings import ReleaseSpec

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

HOST = [word for word in LOCKED if word != "--network=none"] + ["--network=host"]


class Site(NamedTuple):
    """Where the release takes place."""

    spec: ReleaseSpec
    store: Bucket
    keys: Path
    """Folder of release.pem and release.pub."""


@pytest.fixture(scope="module")
def site(engine: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, keys = tmp_path_factory.mktemp("guard"), tmp_path_factory.mktemp("keys")
    for path in (folder, keys):
        path.chmod(0o755)
    shutil.copyfile(generate_key(keys / "release.pem"), folder / "release.pub")
    (keys / "release.pem").chmod(0o644)  # for the image's user
    with bucket() as store, socket.create_server(("127.0.0.1", 0)) as free:
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        spec = release_from(store, tmp_path_factory.mktemp("base"), uri)
        for name, text in guard_files(spec).items():
            (folder / name).write_text(text, encoding="utf-8")
        free.close()
        started = engine(
            "run",
            "--detach",
            *HOST,
            f"--volume={folder}:/etc/tokenbuncher:ro",
            *(f"--env={name}={value}" for name, value in store.env.items()),
            "--env=TOKENBUNCHER_GUARD=/etc/tokenbuncher/guard.yaml",
            "--env=MLFLOW_BACKEND_STORE_URI=sqlite:////tmp/mlflow.db",
            "--env=MLFLOW_REGISTRY_STORE_URI=guarded-sqlite:////tmp/mlflow.db",
            f"--env=MLFLOW_ARTIFACTS_DESTINATION=s3://{store.name}/artifacts",
            tag("mlflow-guard"),
            "--workers=1",
            f"--port={uri.rpartition(':')[2]}",
        )
        assert started.returncode == 0, started.stderr
        container = started.stdout.strip()
        try:
            wait_until_healthy(uri, lambda: engine("logs", container).stderr)
            yield Site(spec, store, keys)
        finally:
            engine("rm", "--force", container)


def wait_until_healthy(uri: str, log: Callable[[], str]) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            if requests.get(f"{uri}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            assert time.monotonic() < deadline, log()
        time.sleep(1)


@pytest.fixture
def run_task(engine: Callable[..., Finished], site: Site) -> Callable[[Task], int]:
    """Runs a task as `docker run` does, with the secrets that its placement would name."""
    ended = {}

    def run(task: Task) -> int:
        secrets = {
            "fetch-model": [f"--env={name}={value}" for name, value in site.store.env.items()],
            "gate": [f"--volume={site.keys}:/keys:ro", "--env=TOKENBUNCHER_SIGNING_KEY=/keys/release.pem"],
        }
        done = engine(
            "run",
            "--rm",
            *HOST,
            "--tmpfs=/work/runs:uid=10001",
            f"--volume={task.folder}:{task.folder}",
            *(f"--env={name}={value}" for name, value in task.env.items()),
            *secrets.get(task.stage, []),
            "--entrypoint",
            task.command[0],
            task.image,
            *task.command[1:],
            timeout=1200,
        )
        ended[task.stage] = done.returncode
        print(done.stdout, done.stderr)
        return done.returncode

    run.ended = ended  # type: ignore[attr-defined]
    return run


@pytest.fixture
def folder(engine: Callable[..., Finished], tmp_path: Path) -> Iterator[Path]:
    """For artifacts; the containers' user owns what is in it, until it is deleted."""
    tmp_path.chmod(0o777)
    for above in list(tmp_path.parents)[:3]:
        above.chmod(0o755)
    yield tmp_path / "artifacts"
    engine(
        "run",
        "--rm",
        "--user=0",
        f"--volume={tmp_path}:/work",
        "--entrypoint=rm",
        tag("gate"),
        "-rf",
        "/work/artifacts",
    )


def test_a_model_from_a_bucket_is_released(
    engine: Callable[..., Finished], site: Site, run_task: Callable[[Task], int], folder: Path
) -> None:
    run_release(site.spec, Placement().place, folder, run_task)

    client = MlflowClient(site.spec.tracking_uri(), site.spec.tracking_uri())
    assert client.get_registered_model("organism").aliases == {"champion": "1"}
    version = client.get_model_version("organism", "1")
    assert [key for key in site.store.keys("artifacts") if f"{version.run_id}/artifacts/model/model.safetensors" in key]
    public = f"--volume={site.keys}:/keys:ro"
    verify = [
        "verify",
        "models:/organism@champion",
        "--key=/keys/release.pub",
        f"--tracking-uri={site.spec.tracking_uri()}",
    ]
    verified = engine("run", "--rm", *HOST, public, tag("gate"), *verify)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def once(task: PipelineTask) -> PipelineTask:
    """Places a task that is not run again when it fails."""
    return Placement().place(task).set_retry(0)


def test_a_task_that_fails_fails_the_run(site: Site, run_task: Callable[[Task], int], folder: Path) -> None:
    elsewhere = site.spec.model.model_copy(update={"source": f"s3://{site.store.name}/models/nothing"})
    with pytest.raises(RuntimeError, match="fetch-model"):
        run_release(site.spec.model_copy(update={"model": elsewhere}), once, folder, run_task)
    assert run_task.ended["fetch-model"] != 0  # type: ignore[attr-defined]
    assert "defend" not in run_task.ended  # type: ignore[attr-defined]
    assert run_task.ended["announce"] == 0  # type: ignore[attr-defined]
