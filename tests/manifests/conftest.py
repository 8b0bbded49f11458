"""The manifests as kustomize renders them, and a cluster to try them on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
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
    return subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=300)


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
