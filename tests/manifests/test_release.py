"""The release pipeline on a real node: each task a pod, under the accounts, rights and settings of the manifests.

Needs a cluster of one node with our images, and an S3 server that checks keys and that pods can reach.
"""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pipelines.compile import compile_pipeline
from pipelines.lint import read_ir
from pipelines.placement import Placement, load_placement
from tests.manifests.conftest import Document, apply, ended, kubectl, moved, named, render, supply
from tests.pipelines.kfp_containers import Bucket, Task, bucket, guard_files, release_from, run_release
from tokenbuncher.attestation import generate_key
from tokenbuncher.core.stages import STAGES
from tokenbuncher.settings import ReleaseSpec

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

ACCOUNT = {"attack": "attacker", "gate": "gate"}
"""Those of the stages that have one of their own."""
LOCKED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


class Site(NamedTuple):
    """The overlay `dev` in a namespace of the test's own, with MLflow ready."""

    namespace: str
    mlflow: str
    """Address of its pod; this node need not have names and services."""
    spec: ReleaseSpec
    store: Bucket
    placement: Placement


@pytest.fixture(scope="module")
def site(cluster: tuple[int, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    namespace = f"tokenbuncher-release-{uuid.uuid4().hex[:8]}"
    folder = tmp_path_factory.mktemp("site")
    generate_key(folder / "release.pem")
    with bucket() as store:
        spec = release_from(store, folder, "http://mlflow:5000")
        (quarantine := folder / "quarantine").mkdir()
        quarantine.chmod(0o777)
        for above in [folder, *folder.parents[:2]]:
            above.chmod(0o755)
        placement = placed(store, folder)
        try:
            apply(moved(overlay(spec, store), namespace), namespace)
            supply(namespace, folder, store.env)
            apply([volume(namespace, quarantine)], namespace)
            rolled_out = kubectl("rollout", "status", "deployment/mlflow", "-n", namespace, "--timeout=240s")
            assert rolled_out.returncode == 0, kubectl("describe", "pods", "-n", namespace).stdout
            selector = "--selector=app.kubernetes.io/name=mlflow"
            pods = json.loads(kubectl("get", "pods", selector, "-n", namespace, "-o", "json").stdout)["items"]
            yield Site(namespace, pods[0]["status"]["podIP"], spec, store, placement)
        finally:
            kubectl("delete", "namespace", namespace, "--wait=false")
            kubectl("delete", "persistentvolume", namespace, "--wait=false")


def placed(store: Bucket, folder: Path) -> Placement:
    """The manifests' placement, and how fetch-model reaches the bucket."""
    placement = yaml.safe_load(Path("manifests/placement.yaml").read_text(encoding="utf-8"))
    placement["stages"]["fetch-model"] |= {
        "env": {"MLFLOW_S3_ENDPOINT_URL": store.endpoint, "AWS_DEFAULT_REGION": store.env["AWS_DEFAULT_REGION"]},
        "secret_env": [
            {"secret": "mlflow-artifact-store", "key": key, "env": key}
            for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        ],
    }
    (folder / "placement.yaml").write_text(yaml.safe_dump(placement), encoding="utf-8")
    return load_placement(folder / "placement.yaml")


def overlay(spec: ReleaseSpec, store: Bucket) -> list[Document]:
    """The overlay with another bucket and policy, without what it takes to run a database and old clusters lack."""
    documents = copy.deepcopy(render("overlays/dev"))
    named(documents, "ConfigMap", "settings")["data"] |= {
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{store.name}/artifacts",
        "MLFLOW_S3_ENDPOINT_URL": store.endpoint,
    }
    named(documents, "ConfigMap", "guard")["data"] = guard_files(spec)
    return [document for document in documents if document["kind"] not in ("StatefulSet", "CronJob", "TrainingRuntime")]


def volume(namespace: str, folder: Path) -> Document:
    """For the quarantine: what a storage class would make."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": str(folder)},
            "claimRef": {"namespace": namespace, "name": "quarantine"},
        },
    }


class Pods:
    """Starts each task as a pod, as Kubeflow's driver would by the compiled pipeline."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        compile_pipeline("release", folder / "release.yaml", site.placement)
        self.pipeline, self.platform = read_ir(folder / "release.yaml")
        self.accounts: dict[str, str] = {}
        """The account of each stage that has run."""

    def run(self, task: Task) -> int:
        name = f"{task.stage}-{uuid.uuid4().hex[:5]}"
        apply([self.pod(name, task)], self.site.namespace)
        status = ended(self.site.namespace, name, within=1200)
        print(kubectl("logs", name, "-n", self.site.namespace).stdout, status)
        ran_as = "--output=jsonpath={.spec.serviceAccountName}"
        self.accounts[task.stage] = kubectl("get", "pod", name, "-n", self.site.namespace, ran_as).stdout
        return int(status["containerStatuses"][0]["state"]["terminated"]["exitCode"])

    def pod(self, name: str, task: Task) -> Document:
        """A pod from what the compiled pipeline says of the task, which must meet the restricted standard."""
        compiled = self.pipeline["deploymentSpec"]["executors"][f"exec-{task.stage}"]["container"]
        executors = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        on_kubernetes = executors[f"exec-{task.stage}"]
        resources = compiled["resources"]
        folders: dict[str, tuple[Document, str]] = {
            "artifacts": ({"hostPath": {"path": str(task.folder)}}, str(task.folder)),
            "tmp": ({"emptyDir": {}}, "/tmp"),
            "work": ({"emptyDir": {}}, "/work/runs"),
        }
        for secret in on_kubernetes.get("secretAsVolume", []):
            folders[secret["secretName"]] = ({"secret": {"secretName": secret["secretName"]}}, secret["mountPath"])
        for claim in on_kubernetes.get("pvcMount", []):
            folders[claim["constant"]] = (
                {"persistentVolumeClaim": {"claimName": claim["constant"]}},
                claim["mountPath"],
            )
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": on_kubernetes["podMetadata"]["labels"]},
            "spec": {
                "serviceAccountName": ACCOUNT.get(task.stage, "pipeline-runner"),
                "restartPolicy": "Never",
                "hostAliases": [{"ip": self.site.mlflow, "hostnames": ["mlflow"]}],
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 10001,
                    "fsGroup": 10001,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "main",
                        "image": task.image,
                        "command": task.command,
                        "env": [*environment(task), *secret_environment(on_kubernetes)],
                        "resources": {
                            "requests": {
                                "cpu": resources["resourceCpuRequest"],
                                "memory": resources["resourceMemoryRequest"],
                            },
                            "limits": {
                                "cpu": resources["resourceCpuLimit"],
                                "memory": resources["resourceMemoryLimit"],
                            },
                        },
                        "securityContext": LOCKED,
                        "volumeMounts": [{"name": name, "mountPath": path} for name, (_, path) in folders.items()],
                    }
                ],
                "volumes": [{"name": name, **source} for name, (source, _) in folders.items()],
            },
        }


def environment(task: Task) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in task.env.items()]


def secret_environment(on_kubernetes: Document) -> list[dict[str, Any]]:
    return [
        {
            "name": pair["envVar"],
            "valueFrom": {"secretKeyRef": {"name": secret["secretName"], "key": pair["secretKey"]}},
        }
        for secret in on_kubernetes.get("secretAsEnv", [])
        for pair in secret["keyToEnv"]
    ]


@pytest.fixture
def pods(site: Site, tmp_path: Path) -> Iterator[Pods]:
    for above in [tmp_path, *tmp_path.parents[:2]]:
        above.chmod(0o755)
    yield Pods(site, tmp_path)
    shutil.rmtree(tmp_path / "artifacts")


def test_every_stage_runs_as_a_pod_and_the_model_is_released(site: Site, pods: Pods, tmp_path: Path) -> None:
    run_release(site.spec, site.placement.place, tmp_path / "artifacts", pods.run, shared_quarantine=True)

    stages = {*STAGES} - {"report-attacks"}
    assert pods.accounts == {stage: ACCOUNT.get(stage, "pipeline-runner") for stage in stages}
    aliases = ask_mlflow(site, "print(client.get_registered_model('organism').aliases)")
    assert aliases.strip() == "{'champion': '1'}"
    assert [key for key in site.store.keys("artifacts") if key.endswith("model/model.safetensors")]


def test_a_pod_that_fails_fails_the_run(site: Site, pods: Pods, tmp_path: Path) -> None:
    elsewhere = site.spec.model.model_copy(update={"source": f"s3://{site.store.name}/models/nothing"})
    with pytest.raises(RuntimeError, match="fetch-model"):
        run_release(
            site.spec.model_copy(update={"model": elsewhere}),
            lambda task: site.placement.place(task).set_retry(0),
            tmp_path / "artifacts",
            pods.run,
        )
    assert set(pods.accounts) == {"fetch-model", "prepare-data", "announce"}


def test_nobody_passes_the_guard_in_the_cluster(site: Site) -> None:
    denied = ask_mlflow(
        site,
        "from mlflow.exceptions import MlflowException\n"
        "client.create_registered_model('other')\n"
        "client.create_model_version('other', 's3://nothing/model')\n"
        "try:\n"
        "    client.set_registered_model_alias('other', 'champion', '1')\n"
        "except MlflowException as error:\n"
        "    print(error.error_code)",
    )
    assert denied.strip() == "PERMISSION_DENIED"


@pytest.mark.parametrize("exchanged", [False, True], ids=["as it was judged", "exchanged"])
def test_the_serving_example_starts_with_nothing_but_the_judged_files(site: Site, exchanged: bool) -> None:
    """Its own pod, but for the server, which looks whether there is a model instead."""
    if exchanged:
        (weights,) = [key for key in site.store.keys("artifacts") if key.endswith("model/model.safetensors")]
        site.store.client.put_object(Bucket=site.store.name, Key=weights, Body=b"another model")
    name = f"serving-{'exchanged' if exchanged else 'judged'}"
    template = copy.deepcopy(named(render("examples/serving"), "Deployment", "organism")["spec"]["template"])
    own = template["spec"]
    own["restartPolicy"] = "Never"
    own["hostAliases"] = [{"ip": site.mlflow, "hostnames": ["mlflow.tokenbuncher"]}]
    (server,) = own["containers"]
    server |= {
        "image": own["initContainers"][0]["image"],
        "command": ["test", "-s", "/model/organism/model.safetensors"],
    }
    for unwanted in ("args", "resources", "startupProbe", "readinessProbe", "livenessProbe"):
        del server[unwanted]
    policy = {"policy.yaml": guard_files(site.spec)["policy.yaml"]}
    apply(
        [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "policy"}, "data": policy},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **template["metadata"]}, "spec": own},
        ],
        site.namespace,
    )
    status = ended(site.namespace, name)
    log = kubectl("logs", name, "--container=verify", "-n", site.namespace).stdout
    assert status["phase"] == ("Failed" if exchanged else "Succeeded"), log
    assert ("file model.safetensors" if exchanged else "holds: organism version 1 passed") in log


def ask_mlflow(site: Site, code: str) -> str:
    """What a piece of Python beside the server prints; it has a client of it."""
    opened = "from mlflow import MlflowClient\nuri = 'http://localhost:5000'\nclient = MlflowClient(uri, uri)\n"
    asked = kubectl("exec", "deployment/mlflow", "-n", site.namespace, "--", "python", "-c", opened + code)
    assert asked.returncode == 0, asked.stderr
    return asked.stdout
