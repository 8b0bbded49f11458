"""The manifests on a real API server, in a namespace of the test's own. What it does not know is left out."""

from __future__ import annotations

import copy
import json
import re
import uuid
from typing import NamedTuple

import pytest
import yaml

from tests.manifests.conftest import OVERLAYS, ended, kubectl, moved, named, pods, render, supply
from tokenbuncher.attestation import generate_key

pytestmark = pytest.mark.cluster

ACCOUNTS = ["pipeline-runner", "attacker", "gate", "mlflow", "watcher"]


class Applied(NamedTuple):
    """An overlay on the server."""

    namespace: str
    all_documents: list
    documents: list
    """Those that the server knows."""
    left_out: set
    """Kinds of the others."""


@pytest.fixture(scope="module", params=OVERLAYS)
def applied(request, cluster):
    """Each overlay, applied."""
    namespace = f"tokenbuncher-test-{uuid.uuid4().hex[:8]}"
    documents = moved(render(f"overlays/{request.param}"), namespace)
    resources = kubectl("api-resources", "--no-headers").stdout.splitlines()
    kinds = {(version, kind) for version, _, kind in (line.split()[-3:] for line in resources)}
    known = [document for document in documents if (document["apiVersion"], document["kind"]) in kinds]
    answer = kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(known))
    assert answer.returncode == 0, answer.stderr
    yield Applied(namespace, documents, known, {document["kind"] for document in documents if document not in known})
    kubectl("delete", "namespace", namespace, "--wait=false")


def test_the_server_has_what_was_applied(applied):
    for document in applied.documents:
        found = kubectl("get", document["kind"], document["metadata"]["name"], "-n", applied.namespace)
        assert found.returncode == 0, found.stderr


def test_applying_again_changes_nothing(applied):
    before = generations(applied)
    again = kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(applied.documents))
    assert again.returncode == 0, again.stderr
    assert generations(applied) == before


def generations(applied):
    """How often each object was changed, of those that count."""
    kinds = {document["kind"] for document in applied.documents} & {
        "Deployment",
        "StatefulSet",
        "NetworkPolicy",
        "TrainingRuntime",
    }
    answer = kubectl("get", ",".join(kinds), "-n", applied.namespace, "--output=json")
    assert answer.returncode == 0, answer.stderr
    found = (item["metadata"] for item in json.loads(answer.stdout)["items"])
    return {metadata["uid"]: metadata["generation"] for metadata in found}


def test_nothing_but_newer_kinds_is_left_out(applied):
    """CronJobs are in batch/v1 since Kubernetes 1.21; TrainingRuntimes are Kubeflow Trainer's."""
    assert applied.left_out <= {"CronJob", "TrainingRuntime"}


def test_policies_and_quota_are_in_force(applied):
    policies = kubectl("get", "networkpolicies", "-n", applied.namespace, "-o", "name").stdout.split()
    assert {"default-deny", "dns-and-mlflow", "storage", "kubeflow", "mlflow", "watcher"} <= {
        policy.split("/")[1] for policy in policies
    }
    quota = json.loads(kubectl("get", "resourcequota", "tokenbuncher", "-n", applied.namespace, "-o", "json").stdout)
    assert quota["status"]["hard"] == quota["spec"]["hard"]


NAMED = ("secrets", "configmaps")
"""Kinds that are followed by the name of one of them; others by a part."""
RIGHTS = {
    "pipeline-runner": [
        ("create", "workflowtaskresults.argoproj.io"),
        ("patch", "workflowtaskresults.argoproj.io"),
        ("get", "pods"),
        ("get", "pods/log"),
        ("get", "configmaps/kfp-launcher"),
        ("get", "secrets/mlpipeline-minio-artifact"),
        ("create", "trainjobs.trainer.kubeflow.org"),
        ("get", "trainjobs.trainer.kubeflow.org"),
        ("delete", "trainjobs.trainer.kubeflow.org"),
    ],
    "gate": [("get", "secrets/signing-key")],
}
WISHES = [
    ("get", "secrets/signing-key"),
    ("get", "secrets/mlflow-database"),
    ("list", "secrets"),
    ("get", "secrets"),
    ("create", "pods"),
    ("get", "pods"),
    ("create", "pods/exec"),
    ("create", "jobs.batch"),
    ("patch", "deployments.apps"),
    ("patch", "configmaps"),
    ("delete", "persistentvolumeclaims"),
    ("delete", "networkpolicies.networking.k8s.io"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("impersonate", "serviceaccounts"),
    ("create", "serviceaccounts/token"),
    ("create", "trainjobs.trainer.kubeflow.org"),
]


@pytest.mark.parametrize("account", ACCOUNTS)
def test_each_account_may_do_what_it_needs_and_no_more(applied, account):
    rights = RIGHTS.get(account, [])
    told = {right: may(applied.namespace, account, *right) for right in {*rights, *WISHES}}
    assert {right for right, yes in told.items() if yes} == set(rights)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_no_account_may_do_anything_elsewhere(applied, account):
    for verb, resource in [*RIGHTS.get(account, []), ("get", "nodes"), ("list", "namespaces")]:
        assert not may("default", account, verb, resource, of=applied.namespace), f"{verb} {resource}"


def may(namespace, account, verb, resource, of=None):
    """Whether an account may; asked of the server."""
    kind, _, rest = resource.partition("/")
    kind, _, group = kind.partition(".")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{of or namespace}:{account}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{of or namespace}", "system:authenticated"],
            "resourceAttributes": {
                "namespace": namespace,
                "verb": verb,
                "group": group,
                "resource": kind,
                "name" if kind in NAMED else "subresource": rest,
            },
        },
    }
    answer = kubectl("create", "-f", "-", "--output=json", stdin=yaml.safe_dump(review))
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)["status"]["allowed"]


def pod(**changes):
    """A pod that meets the restricted standard."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one"},
        "spec": {
            "serviceAccountName": "attacker",
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "one",
                    "image": "tokenbuncher/gate:none",
                    "resources": {"requests": {"cpu": "100m"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
            **changes,
        },
    }


def container(**changes):
    return {**pod()["spec"]["containers"][0], **changes}


def policy(**rule):
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "one"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]},
    }


def changed(kind, name, *path, value):
    """An object of the overlay with one field changed."""
    document = copy.deepcopy(named(render("overlays/dev"), kind, name))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


REFUSED = {
    "unknown field": (lambda: changed("Deployment", "mlflow", "spec", "replica", value=2), "unknown field"),
    "selector that its pods do not have": (
        lambda: changed("Deployment", "mlflow", "spec", "selector", "matchLabels", value={"a": "b"}),
        "does not match|immutable",
    ),
    "role of a binding exchanged": (
        lambda: changed("RoleBinding", "gate", "roleRef", "name", value="pipeline-runner"),
        "cannot change roleRef",
    ),
    "storage smaller than before": (
        lambda: changed(
            "PersistentVolumeClaim", "quarantine", "spec", "resources", "requests", value={"storage": "1Gi"}
        ),
        "forbidden|immutable|less than",
    ),
    "priority changed": (
        lambda: changed("PriorityClass", "tokenbuncher-registry", "value", value=5),
        "updat|immutable",
    ),
    "quota exceeded": (
        lambda: pod(containers=[container(resources={"requests": {"cpu": "100000"}, "limits": {"cpu": "100000"}})]),
        "exceeded quota",
    ),
    "no such account": (lambda: pod(serviceAccountName="nobody"), "serviceaccount.* not found"),
    "no such priority": (lambda: pod(priorityClassName="nobody"), "no PriorityClass"),
    "more asked than allowed": (
        lambda: pod(containers=[container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})]),
        "less than or equal to cpu limit",
    ),
    "volume that is not there": (
        lambda: pod(containers=[container(volumeMounts=[{"name": "nothing", "mountPath": "/x"}])]),
        "volumeMounts.*[nN]ot found",
    ),
    "address that is none": (
        lambda: policy(to=[{"ipBlock": {"cidr": "10.0.0.0/99"}}]),
        "must be a valid CIDR|valid value",
    ),
    "port that is none": (lambda: policy(ports=[{"protocol": "TCP", "port": 70000}]), "between 1 and 65535"),
}


@pytest.mark.parametrize("variant", REFUSED)
def test_the_server_refuses_what_is_broken(applied, variant):
    make, reason = REFUSED[variant]
    (document,) = moved([make()], applied.namespace)
    document["metadata"].setdefault("namespace", applied.namespace)
    answer = kubectl("apply", "--validate=true", "-n", applied.namespace, "-f", "-", stdin=yaml.safe_dump(document))
    assert answer.returncode != 0, answer.stdout
    assert re.search(reason, answer.stderr), answer.stderr


def test_the_server_refuses_a_runtime_that_is_none(applied):
    if "TrainingRuntime" in applied.left_out:
        pytest.skip("needs Kubeflow Trainer's definitions on the server")
    broken = changed("TrainingRuntime", "trainer", "spec", "mlPolicy", "numNodes", value="two")
    (document,) = moved([broken], applied.namespace)
    answer = kubectl("apply", "--validate=false", "-f", "-", stdin=yaml.safe_dump(document))
    assert answer.returncode != 0
    assert "numNodes" in answer.stderr


def test_the_server_refuses_a_privileged_pod(applied, cluster):
    if cluster < (1, 25):
        pytest.skip("needs Kubernetes 1.25 or newer, which enforces pod security standards")
    privileged = pod(containers=[container(securityContext={"privileged": True})])
    answer = kubectl("apply", "-n", applied.namespace, "-f", "-", stdin=yaml.safe_dump(privileged))
    assert answer.returncode != 0
    assert "violates PodSecurity" in answer.stderr


READ_GUARD = """
from pathlib import Path
from tokenbuncher.guard import load_guard
print(*load_guard(Path("/etc/tokenbuncher/guard.yaml")).aliases)
"""


@pytest.fixture(scope="module")
def supplied(applied, tmp_path_factory):
    """The overlay with what secrets.example.md asks for; the database is a file in the pod."""
    folder = tmp_path_factory.mktemp("keys")
    generate_key(folder / "release.pem")
    supply(applied.namespace, folder)
    return applied


def test_a_pod_runs_as_the_manifests_have_it(supplied):
    """The recurring gate's pod, which reads the guard's settings and the key instead of asking a server."""
    template = copy.deepcopy(pods(supplied.all_documents)["CronJob/recurring-gate"])
    del template["spec"]["containers"][0]["args"]
    template["spec"]["containers"][0]["command"] = ["python", "-c", READ_GUARD]
    template["metadata"]["name"] = "recurring-gate"
    document = {"apiVersion": "v1", "kind": "Pod", **template}
    started = kubectl("apply", "-n", supplied.namespace, "-f", "-", stdin=yaml.safe_dump(document))
    assert started.returncode == 0, started.stderr
    status = ended(supplied.namespace, "recurring-gate")
    logs = kubectl("logs", "recurring-gate", "-n", supplied.namespace)
    assert status["phase"] == "Succeeded", f"{status} {logs.stdout} {logs.stderr}"
    assert logs.stdout.strip() == "champion"


@pytest.mark.parametrize("server", ["mlflow", "watcher"])
def test_a_server_becomes_ready(supplied, server):
    rolled_out = kubectl("rollout", "status", f"deployment/{server}", "-n", supplied.namespace, "--timeout=240s")
    if rolled_out.returncode != 0:
        found = kubectl("get", "pods", "-n", supplied.namespace, "--output=yaml").stdout
        if "ErrImage" in found or "ImagePullBackOff" in found:
            pytest.skip("needs our images in the cluster")
        pytest.fail(found + kubectl("logs", f"deployment/{server}", "-n", supplied.namespace).stdout)
