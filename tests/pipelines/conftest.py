"""The compiled pipelines, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.compile import PIPELINES, compile_pipeline
from pipelines.lint import Documents, read_ir
from pipelines.placement import Placement, load_placement

PLACEMENT = """
images:
  trainer: registry.example:5000/trainer:1.0
  gate: registry.example:5000/gate@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
all:
  image_pull_policy: IfNotPresent
  env: {MLFLOW_S3_ENDPOINT_URL: "http://minio:9000"}
  secret_env: [{secret: s3, key: access-key, env: AWS_ACCESS_KEY_ID}]
  pod_labels: {team: safety}
stages:
  attack:
    cpu: {request: 2, limit: 4}
    memory: {request: 32Gi, limit: 64Gi}
    accelerator: {type: nvidia.com/gpu, count: 2}
    shared_memory: 8Gi
    timeout: 7200
    node_selector: {gpu: h100}
    tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
    env: {TMPDIR: /scratch}
    pod_labels: {hazard: attacked-weights}
  gate:
    env: {TOKENBUNCHER_SIGNING_KEY: /etc/signing/key.pem}
    secret_files: [{secret: signing-key, path: /etc/signing}]
quarantine: {claim: quarantine, path: /work/runs/quarantine}
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with every pipeline as it is compiled without a placement."""
    folder = tmp_path_factory.mktemp("compiled") / "new"
    for name in PIPELINES:
        compile_pipeline(name, folder / f"{name}.yaml", Placement())
    return folder


@pytest.fixture(scope="session")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    """The release pipeline under a placement that says everything."""
    folder = tmp_path_factory.mktemp("placed")
    (folder / "placement.yaml").write_text(PLACEMENT, encoding="utf-8")
    compile_pipeline("release", folder / "release.yaml", load_placement(folder / "placement.yaml"))
    return read_ir(folder / "release.yaml")
