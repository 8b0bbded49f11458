"""The images, run as the manifests run them."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.evidence_factory import passing_release, release_spec
from tests.images.conftest import LOCKED, docker, tag
from tokenbuncher import __version__
from tokenbuncher.attestation import generate_key
from tokenbuncher.core.files import folder_digest

pytestmark = pytest.mark.docker

MEGABYTE = 1_000_000
LARGEST = {"trainer": 2500, "gate": 275, "mlflow-guard": 900}
"""Megabytes of what an image adds to its base; python:3.11-slim has 125, so that the gate stays under 400."""
SECRET = re.compile(r"(?i)password|secret|credential|AKIA|PRIVATE KEY|://[^/\s:]+:[^/\s@]+@")
GUARD = """
apiVersion: tokenbuncher/v1
aliases:
  champion: {policy: policy.yaml, keys: [release.pub]}
"""


def test_labels_tell_what_it_is(image, inspected):
    labels = inspected["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == f"tokenbuncher {image}"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert {"org.opencontainers.image.revision", "org.opencontainers.image.source"} <= labels.keys()


def test_has_the_package_of_this_version(python):
    ran = python("import importlib.metadata as m, tokenbuncher as t; print(t.__version__, m.version('tokenbuncher'))")
    assert ran.stdout.split() == [__version__, __version__], ran.stderr


def test_nothing_secret_is_in_its_history_or_environment(image, inspected):
    history = docker("history", "--no-trunc", "--format={{.CreatedBy}}", tag(image)).stdout
    assert history
    assert not SECRET.search(history)
    assert not [variable for variable in inspected["Config"]["Env"] if SECRET.search(variable)]


def test_runs_without_rights_on_a_file_system_that_cannot_be_written(python):
    ran = python(
        "import os, pathlib\n"
        "assert os.getuid() == os.getgid() == 10001\n"
        "for place in ('/opt/tokenbuncher', '/etc', '/work', '/usr/bin'):\n"
        "    assert not os.access(place, os.W_OK), place\n"
        "pathlib.Path('/tmp/x').write_text('x')\n"
        "assert 'CapEff:\\t0000000000000000' in pathlib.Path('/proc/self/status').read_text()\n"
    )
    assert ran.returncode == 0, ran.stderr


def test_has_no_compiler_and_no_installer_of_its_own(python):
    ran = python(
        "import shutil, sys, pathlib\n"
        "assert not [name for name in ('gcc', 'cc', 'g++', 'make', 'git') if shutil.which(name)]\n"
        "assert not pathlib.Path(sys.prefix, 'bin', 'pip').exists()\n"
    )
    assert ran.returncode == 0, ran.stderr


def test_is_not_larger_than_it_has_to_be(image, python, record_property):
    ran = python(
        "from pathlib import Path\n"
        "files = [path for path in Path('/opt/tokenbuncher').rglob('*') if path.is_file() and not path.is_symlink()]\n"
        "print(sum(path.stat().st_size for path in files))"
    )
    size = int(ran.stdout) / MEGABYTE
    record_property("megabytes", round(size))
    print(f"{tag(image)} adds {size:.0f} MB to its base")
    assert size < LARGEST[image]


@pytest.mark.parametrize("name", ["trainer", "gate"])
def test_is_the_command_line(engine, name):
    ran = engine("run", "--rm", *LOCKED, tag(name), "--help")
    assert ran.returncode == 0, ran.stderr
    assert "Release gate" in ran.stdout


@pytest.mark.parametrize("image", ["trainer", "gate"], indirect=True)
def test_kubeflow_s_executor_starts_in_it(python):
    ran = python("import os; os.environ['_KFP_RUNTIME'] = 'true'; import kfp.dsl.executor_main")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("image", ["trainer"], indirect=True)
def test_has_what_reaches_buckets_registries_and_clusters(python):
    ran = python("import boto3, mlflow, tokenbuncher.training.cluster.jobs")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("image", ["gate", "mlflow-guard"], indirect=True)
def test_has_no_torch(python):
    ran = python("from importlib.util import find_spec as f; assert not (f('torch') or f('transformers') or f('trl'))")
    assert ran.returncode == 0, ran.stderr


def test_the_gate_judges_signs_and_verifies(engine, shared):
    folder = shared / "release"
    release = passing_release()
    release.write(folder)
    (folder / "spec.yaml").write_text(release.spec.to_yaml(), encoding="utf-8")
    generate_key(shared / "release.pem")
    (shared / "release.pem").chmod(0o644)
    run = ["run", "--rm", *LOCKED, f"--volume={shared}:/work", tag("gate")]
    judged = engine(*run, "gate", "--evidence=release", "--key=release.pem", "--out=verdict")
    assert judged.returncode == 0, judged.stdout + judged.stderr
    verified = engine(*run, "verify", "verdict/attestation.json", "--key=release.pub")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "passed" in verified.stdout


def test_the_trainer_loads_a_model_and_prepares_data(engine, shared):
    (shared / "spec.yaml").write_text("name: organism\n", encoding="utf-8")
    run = ["run", "--rm", *LOCKED, f"--volume={shared}:/work", tag("trainer")]
    for stage in ("fetch-model", "prepare-data"):
        ran = engine(*run, stage, "--spec=spec.yaml", f"--out={stage}", timeout=600)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (shared / "fetch-model" / "model.safetensors").is_file()


class Server(NamedTuple):
    """A container that runs the guarded MLflow server."""

    container: str
    key: Path
    """The private key whose attestations the guard believes."""

    def ask(self, code: str):
        """Runs a piece of Python beside the server."""
        return docker("exec", self.container, "python", "-c", code, timeout=120)


@pytest.fixture(scope="module")
def server(engine, tmp_path_factory):
    """The guarded server, with the environment of the manifests."""
    folder, keys = tmp_path_factory.mktemp("guard"), tmp_path_factory.mktemp("keys")
    folder.chmod(0o755)
    public = generate_key(keys / "release.pem")
    shutil.copyfile(public, folder / "release.pub")
    (folder / "guard.yaml").write_text(GUARD, encoding="utf-8")
    (folder / "policy.yaml").write_text(yaml.safe_dump(release_spec().policy.model_dump(mode="json")), encoding="utf-8")
    started = engine(
        "run",
        "--detach",
        *LOCKED,
        f"--volume={folder}:/etc/tokenbuncher:ro",
        "--env=TOKENBUNCHER_GUARD=/etc/tokenbuncher/guard.yaml",
        "--env=MLFLOW_BACKEND_STORE_URI=sqlite:////tmp/mlflow.db",
        "--env=MLFLOW_REGISTRY_STORE_URI=guarded-sqlite:////tmp/mlflow.db",
        "--env=MLFLOW_ARTIFACTS_DESTINATION=/tmp/artifacts",
        f"--env=MLFLOW_SERVER_ALLOWED_HOSTS={allowed_hosts()}",
        "--env=MLFLOW_PORT=tcp://10.0.0.1:5000",  # as Kubernetes sets it
        tag("mlflow-guard"),
        "--workers=1",
    )
    assert started.returncode == 0, started.stderr
    server = Server(started.stdout.strip(), keys / "release.pem")
    try:
        health = "from urllib.request import urlopen; urlopen('http://127.0.0.1:5000/health', timeout=5)"
        deadline = time.monotonic() + 300
        while server.ask(health).returncode != 0:
            assert time.monotonic() < deadline, engine("logs", server.container).stderr
            time.sleep(2)
        yield server
    finally:
        engine("rm", "--force", server.container)


def allowed_hosts():
    """The names that the manifests let the server be called by."""
    document = next(yaml.safe_load_all(Path("manifests/base/mlflow.yaml").read_text(encoding="utf-8")))
    variables = document["spec"]["template"]["spec"]["containers"][0]["env"]
    return next(variable["value"] for variable in variables if variable["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS")


def test_the_server_guards_its_aliases(server):
    asked = server.ask(
        "from mlflow import MlflowClient\n"
        "client = MlflowClient('http://127.0.0.1:5000', 'http://127.0.0.1:5000')\n"
        "client.create_registered_model('m')\n"
        "run = client.create_run('0')\n"
        "client.log_text(run.info.run_id, 'x', 'model/weights')\n"
        "client.create_model_version('m', f'runs:/{run.info.run_id}/model', run.info.run_id)\n"
        "client.set_registered_model_alias('m', 'challenger', '1')\n"
        "try:\n"
        "    client.set_registered_model_alias('m', 'champion', '1')\n"
        "except Exception as error:\n"
        "    print(error.error_code, error.message)\n"
        "print(client.get_registered_model('m').aliases)\n"
    )
    assert asked.returncode == 0, asked.stderr
    assert "PERMISSION_DENIED" in asked.stdout
    assert "{'challenger': '1'}" in asked.stdout


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("mlflow:5000", 200),
        ("mlflow.tokenbuncher:5000", 200),
        ("mlflow.tokenbuncher.svc.cluster.local:5000", 200),
        ("evil.example:5000", 403),
    ],
)
def test_the_server_knows_its_names_in_the_cluster(server, host, status):
    asked = server.ask(
        "import requests\n"
        "url = 'http://127.0.0.1:5000/api/2.0/mlflow/registered-models/search'\n"
        f"print(requests.get(url, headers={{'Host': {host!r}}}).status_code)"
    )
    assert asked.stdout.strip() == str(status), asked.stderr


def test_the_gate_brings_an_attested_version_past_the_guard(engine, server, shared):
    """Its MLflow is the client alone."""
    spec = release_spec(tracking={"uri": "http://127.0.0.1:5000"})
    candidate, evidence = shared / "candidate", shared / "evidence"
    candidate.mkdir()
    (candidate / "config.json").write_text("{}", encoding="utf-8")
    (candidate / "model.safetensors").write_bytes(b"weights")
    passing_release(spec).about(folder_digest(candidate)).write(evidence)
    (evidence / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    for path in (server.key, server.key.with_suffix(".pub")):
        shutil.copyfile(path, shared / path.name)
    evidence.chmod(0o777)
    (evidence / "registration").chmod(0o777)
    beside = [word for word in LOCKED if word != "--network=none"]
    run = ["run", "--rm", *beside, f"--network=container:{server.container}", f"--volume={shared}:/work", tag("gate")]
    for command in (
        ["register", "--spec=evidence/spec.yaml", "--candidate=candidate", "--out=evidence/registration"],
        ["gate", "--evidence=evidence", "--key=release.pem", "--out=verdict"],
        ["promote", "--evidence=evidence", "--verdict=verdict"],
        ["verify", "models:/organism@champion", "--key=release.pub", "--tracking-uri=http://127.0.0.1:5000"],
    ):
        ran = engine(*run, *command)
        assert ran.returncode == 0, f"{command} {ran.stdout} {ran.stderr}"
    assert "organism version 1 passed, 2 files of it are these" in ran.stdout


def test_the_server_does_not_start_half_guarded(engine):
    ran = engine(
        "run",
        "--rm",
        *LOCKED,
        "--env=MLFLOW_BACKEND_STORE_URI=sqlite:////tmp/mlflow.db",
        "--env=MLFLOW_REGISTRY_STORE_URI=guarded-sqlite:////tmp/mlflow.db",
        tag("mlflow-guard"),
        timeout=300,
    )
    assert ran.returncode != 0
    assert "TOKENBUNCHER_GUARD names no settings" in ran.stdout + ran.stderr
