"""The manifests as kustomize renders them, and a cluster to try them on."""

from __future__ import annotations

import base64
import copy
import json
import os
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = Path("manifests")
OVERLAYS = ["dev", "production"]

Document = dict[str, Any]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cluster: needs a Kubernetes API server; make test-cluster")


def kubectl(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs kubectl, whatever it returns."""
    return subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, encoding="utf-8", timeout=300)


@cache
def render(folder: str) -> list[Document]:
    """The objects of a kustomization below manifests/."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl, which renders the manifests")
    rendered = kubectl("kustomize", str(MANIFESTS / folder))
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Document]:
    """The objects of each overlay."""
    return render(f"overlays/{request.param}")


@pytest.fixture(params=[*(f"overlays/{name}" for name in OVERLAYS), "examples/serving"])
def everything(request: pytest.FixtureRequest) -> list[Document]:
    """The objects of each overlay, and of the example."""
    return render(request.param)


@pytest.fixture(scope="session")
def cluster() -> tuple[int, int]:
    """The version of the cluster's API server."""
    if os.environ.get("TEST_CLUSTER") != "1":
        pytest.skip("needs a Kubernetes API server; KUBECONFIG=... make test-cluster")
    answer = kubectl("version", "--output=json")
    assert answer.returncode == 0, answer.stderr
    major, minor, _ = json.loads(answer.stdout)["serverVersion"]["gitVersion"].removeprefix("v").split(".", 2)
    return int(major), int(minor)


def named(documents: list[Document], kind: str, name: str) -> Document:
    """The one object of that kind and name; generated names may have a hash at their end."""
    return next(
        document
        for document in documents
        if document["kind"] == kind and (document["metadata"]["name"] == name or _without_hash(document) == name)
    )


def _without_hash(document: Document) -> str:
    return str(document["metadata"]["name"]).rsplit("-", 1)[0]


def pods(documents: list[Document]) -> dict[str, Document]:
    """The pod template of everything that makes pods, by kind and name."""
    found = {}
    for document in documents:
        spec = document.get("spec", {})
        match document["kind"]:
            case "Deployment" | "StatefulSet":
                template = spec["template"]
            case "CronJob":
                template = spec["jobTemplate"]["spec"]["template"]
            case "TrainingRuntime":
                template = spec["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
            case _:
                continue
        found[f"{document['kind']}/{document['metadata']['name']}"] = template
    return found


def containers(template: Document) -> list[Document]:
    """The containers of a pod, with those that run before."""
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def moved(documents: list[Document], namespace: str) -> list[Document]:
    """The same objects in another namespace; those of no namespace stay."""
    documents = copy.deepcopy(documents)
    for document in documents:
        if document["kind"] == "Namespace":
            document["metadata"]["name"] = namespace
        elif "namespace" in document["metadata"]:
            document["metadata"]["namespace"] = namespace
        for subject in document.get("subjects", []):
            subject["namespace"] = namespace
    return documents


def supply(namespace: str, keys: Path, artifact_store: dict[str, str] | None = None) -> None:
    """Creates what secrets.example.md asks for; the database is a file in MLflow's pod.

    Args:
        namespace: Where.
        keys: Folder of release.pem and release.pub.
        artifact_store: Credentials of the server of artifacts.
    """
    secrets = {
        "signing-key": {"release.pem": (keys / "release.pem").read_text(encoding="utf-8")},
        "mlflow-database": {"uri": "sqlite:////tmp/mlflow.db"},
        "mlflow-artifact-store": artifact_store or {"AWS_ACCESS_KEY_ID": "none"},
        "webhook": {"secret": "x" * 32, "encryption-key": base64.urlsafe_b64encode(bytes(32)).decode()},
    }
    documents: list[Document] = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}
        for name, values in secrets.items()
    ]
    public = {"release.pub": (keys / "release.pub").read_text(encoding="utf-8")}
    documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "release-keys"}, "data": public})
    apply(documents, namespace)


def apply(documents: list[Document], namespace: str) -> None:
    """Applies objects to a namespace."""
    answer = kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump_all(documents))
    assert answer.returncode == 0, answer.stderr


def ended(namespace: str, name: str, within: float = 120) -> Document:
    """The status of a pod when it has ended; skips if the cluster cannot have its image."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        status = json.loads(kubectl("get", "pod", name, "-n", namespace, "-o", "json").stdout)["status"]
        if status["phase"] in ("Succeeded", "Failed"):
            return status
        for container_status in status.get("containerStatuses", []):
            if "Image" in container_status["state"].get("waiting", {}).get("reason", ""):
                pytest.skip(f"needs the image {container_status['image']} in the cluster")
        time.sleep(1)
    return status
