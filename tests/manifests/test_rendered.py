"""What the overlays and the example consist of, without a cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.manifests.conftest import MANIFESTS, OVERLAYS, containers, named, pods, render
from tests.manifests.network import Address, Pod, allowed
from tokenbuncher import __version__
from tokenbuncher.attestation import generate_key
from tokenbuncher.cli import main
from tokenbuncher.core.stages import STAGES
from tokenbuncher.guard import load_guard
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.policy import load_policy

DOCUMENTED = (MANIFESTS / "secrets.example.md").read_text(encoding="utf-8")
SERVERS = {"Deployment", "StatefulSet"}


def test_every_container_is_restricted(everything):
    for name, template in pods(everything).items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert not any("hostPath" in volume for volume in spec.get("volumes", [])), name
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_every_container_says_what_it_needs_and_may_use(everything):
    for name, template in pods(everything).items():
        for container in containers(template):
            for amounts in (container["resources"]["requests"], container["resources"]["limits"]):
                assert {"cpu", "memory"} <= amounts.keys(), name


def test_servers_have_probes(everything):
    for name, template in pods(everything).items():
        if name.split("/")[0] in SERVERS:
            for container in template["spec"]["containers"]:
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name


def test_no_pod_has_a_token_of_the_api_or_the_addresses_of_services(everything):
    """MLflow would take MLFLOW_PORT, which Kubernetes sets for a service of its name, for its own."""
    for name, template in pods(everything).items():
        assert template["spec"]["automountServiceAccountToken"] is False, name
        assert template["spec"]["enableServiceLinks"] is False, name


def test_images_have_tags_and_ours_the_version(everything):
    for name, template in pods(everything).items():
        for container in containers(template):
            image, _, tag = container["image"].rpartition(":")
            assert image, f"{name}: {container['image']} has no tag"
            assert tag != "latest", name
            if image.startswith("tokenbuncher/"):
                assert tag == __version__, name
                assert (Path("images") / image.removeprefix("tokenbuncher/") / "Dockerfile").is_file(), name


def test_secrets_are_named_in_the_documentation_and_never_given(everything):
    assert not [document for document in everything if document["kind"] == "Secret"]
    for name, template in pods(everything).items():
        for secret, key in secret_references(template):
            row = re.search(rf"`{secret}` \|(.*)\|", DOCUMENTED)
            assert row, f"{name}: secret {secret} is not in secrets.example.md"
            assert key is None or f"`{key}`" in row[1], f"{name}: key {key} of {secret} is not in secrets.example.md"
        for container in containers(template):
            for variable in container.get("env", []):
                if re.search(r"PASSWORD|SECRET|ACCESS_KEY|_URI$", variable["name"]) and "value" in variable:
                    assert re.fullmatch(r"(guarded-)?\$\(\w+\)|http://[\w.:-]+", variable["value"]), name


def secret_references(template):
    """Every secret that a pod names, with its key."""
    for container in containers(template):
        for source in container.get("envFrom", []):
            if "secretRef" in source:
                yield source["secretRef"]["name"], None
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                yield reference["name"], reference["key"]
    for volume in template["spec"].get("volumes", []):
        if "secret" in volume:
            yield volume["secret"]["secretName"], None


def test_only_mlflow_knows_the_database_and_the_artifact_store(overlay):
    who = {
        name
        for name, template in pods(overlay).items()
        for secret, _ in secret_references(template)
        if secret in ("mlflow-database", "mlflow-artifact-store")
    }
    assert who <= {"Deployment/mlflow", "StatefulSet/postgresql"}


def test_no_pod_mounts_the_signing_key(everything):
    """The gate's task does, by the placement of the pipeline; no pod that stands."""
    assert "signing-key" not in {
        secret for template in pods(everything).values() for secret, _ in secret_references(template)
    }


def test_what_pods_name_exists(overlay):
    existing = {(document["kind"], document["metadata"]["name"]) for document in overlay}
    for name, template in pods(overlay).items():
        spec = template["spec"]
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", spec["serviceAccountName"]) in existing, name
        if "priorityClassName" in spec:
            assert ("PriorityClass", spec["priorityClassName"]) in existing, name
        for volume in spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in existing, name
            for source in volume.get("projected", {}).get("sources", []):
                config = source["configMap"]["name"]
                assert ("ConfigMap", config) in existing or f"`{config}`" in DOCUMENTED, name
        mounted = {mount["name"] for container in containers(template) for mount in container.get("volumeMounts", [])}
        claimed = {"data"} if name == "StatefulSet/postgresql" else set()
        assert mounted == {volume["name"] for volume in spec.get("volumes", [])} | claimed, name


def test_services_find_their_pods_and_ports(everything):
    templates = pods(everything).values()
    for service in (document for document in everything if document["kind"] == "Service"):
        selector = service["spec"]["selector"].items()
        chosen = [template for template in templates if selector <= template["metadata"]["labels"].items()]
        assert len(chosen) == 1, service["metadata"]["name"]
        names = {port["name"] for container in containers(chosen[0]) for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def test_commands_are_those_of_this_version(everything):
    for name, template in pods(everything).items():
        for container in containers(template):
            if container["image"].startswith("tokenbuncher/gate:") and "args" in container:
                command, *arguments = container["args"]
                assert command in main.commands, name
                known = {option for parameter in main.commands[command].params for option in parameter.opts}
                given = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
                assert given <= known, name


def test_the_guard_s_document_and_policy_can_be_read(overlay, tmp_path):
    for name, text in named(overlay, "ConfigMap", "guard")["data"].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    generate_key(tmp_path / "release.pem")
    assert set(load_guard(tmp_path / "guard.yaml").aliases) == {"champion"}
    assert load_policy(tmp_path / "policy.yaml").digest() == load_policy(Path("specs/policies/default.yaml")).digest()


def test_guard_and_watcher_and_recurring_gate_read_the_same_settings(overlay):
    name = named(overlay, "ConfigMap", "guard")["metadata"]["name"]
    who = {
        pod
        for pod, template in pods(overlay).items()
        for volume in template["spec"].get("volumes", [])
        if {"configMap": {"name": name}} in volume.get("projected", {}).get("sources", [])
    }
    assert who == {"Deployment/mlflow", "Deployment/watcher", "CronJob/recurring-gate"}


def test_a_stage_that_trains_as_a_trainjob_finds_what_it_names(overlay):
    compute = ReleaseSpec().compute
    assert named(overlay, "Namespace", compute.namespace)
    assert named(overlay, "TrainingRuntime", compute.defence_runtime)
    attacker = named(overlay, "TrainingRuntime", compute.attack_runtime)
    assert pods([attacker])["TrainingRuntime/attacker"]["spec"]["serviceAccountName"] == "attacker"


def test_placement_is_one_of_this_version_and_labels_every_stage(overlay):
    placement = pytest.importorskip("pipelines.placement")
    placed = placement.load_placement(MANIFESTS / "placement.yaml")
    for stage in STAGES:
        # Controls attack the undefended model, under the network policy of attacks.
        label = "attack" if stage == "controls" else stage
        assert placed.of(stage).pod_labels["tokenbuncher.io/stage"] == label
    assert named(overlay, "PersistentVolumeClaim", placed.quarantine.claim)
    attacker = pods(overlay)["TrainingRuntime/attacker"]["spec"]["containers"][0]
    assert {"name": "quarantine", "mountPath": placed.quarantine.path} in attacker["volumeMounts"]


def test_quarantine_is_for_as_many_nodes_as_the_overlay_has(overlay):
    one_node = "postgresql" in str(overlay)  # dev has its database inside
    modes = named(overlay, "PersistentVolumeClaim", "quarantine")["spec"]["accessModes"]
    assert modes == ["ReadWriteOnce" if one_node else "ReadWriteMany"]


def test_quarantine_loses_what_is_a_week_old_and_keeps_what_is_at_work(overlay, tmp_path):
    for folder, weeks in (("killed", 2), ("at-work", 0)):
        path = tmp_path / folder / "checkpoint-20" / "model.safetensors"
        path.parent.mkdir(parents=True)
        path.write_text("hazardous", encoding="utf-8")
        for place, age in ((path, weeks), (path.parent, 2), (path.parent.parent, 2)):
            then = time.time() - age * 7 * 86400 - 60
            os.utime(place, (then, then))
    command = pods(overlay)["CronJob/quarantine-cleanup"]["spec"]["containers"][0]["command"]
    subprocess.run([str(tmp_path) if word == "/quarantine" else word for word in command], check=True)
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["model.safetensors"]
    assert (tmp_path / "at-work" / "checkpoint-20" / "model.safetensors").exists()


MLFLOW, DATABASE = Pod({"app.kubernetes.io/name": "mlflow"}), Pod({"app.kubernetes.io/name": "postgresql"})
WATCHER = Pod({"app.kubernetes.io/name": "watcher"})
KUBEFLOW, DNS, ELSEWHERE = Pod(namespace="kubeflow"), Pod(namespace="kube-system"), Pod(namespace="elsewhere")
SERVING = Pod(namespace="serving", namespace_labels={"tokenbuncher.io/registry-client": "true"})
INTERNET, METADATA_SERVICE = Address("93.184.216.34"), Address("169.254.169.254")
IN_A_RUN = {"workflows.argoproj.io/workflow": "tokenbuncher-release-x"}


def stage(name, **labels):
    return Pod({"tokenbuncher.io/stage": name, **labels})


NODE = stage("defend", **{"jobset.sigs.k8s.io/jobset-name": "train"})


@pytest.mark.parametrize(
    ("source", "target", "port", "expected"),
    [
        pytest.param(stage("attack"), DNS, 53, True, id="an attack resolves names"),
        pytest.param(stage("attack"), MLFLOW, 5000, True, id="an attack is tracked"),
        pytest.param(stage("attack"), KUBEFLOW, 9000, True, id="an attack reaches its artifacts"),
        pytest.param(stage("attack"), KUBEFLOW, 8888, False, id="an attack does not reach Kubeflow's API"),
        pytest.param(stage("attack"), INTERNET, 443, False, id="an attack does not reach the internet"),
        pytest.param(stage("attack", **IN_A_RUN), INTERNET, 443, False, id="an attack in a run neither"),
        pytest.param(
            stage("attack", **IN_A_RUN), METADATA_SERVICE, 80, False, id="an attack gets no cloud credentials"
        ),
        pytest.param(stage("attack"), DATABASE, 5432, False, id="an attack does not reach the database"),
        pytest.param(stage("attack"), WATCHER, 8080, False, id="an attack does not reach the watcher"),
        pytest.param(stage("attack"), stage("defend"), 29500, False, id="an attack does not reach other stages"),
        pytest.param(stage("attack", **IN_A_RUN), KUBEFLOW, 8080, True, id="a task of a run tells how it ended"),
        pytest.param(stage("register", **IN_A_RUN), MLFLOW, 5000, True, id="register reaches the guard"),
        pytest.param(stage("gate", **IN_A_RUN), INTERNET, 443, False, id="the gate does not reach the internet"),
        pytest.param(stage("fetch-model", **IN_A_RUN), INTERNET, 443, True, id="fetch-model reaches the internet"),
        pytest.param(stage("fetch-model"), METADATA_SERVICE, 443, False, id="but not the cloud's metadata"),
        pytest.param(NODE, NODE, 29500, True, id="nodes of a TrainJob reach each other"),
        pytest.param(WATCHER, MLFLOW, 5000, True, id="the watcher asks MLflow"),
        pytest.param(MLFLOW, WATCHER, 8080, True, id="MLflow tells the watcher"),
        pytest.param(MLFLOW, INTERNET, 443, False, id="MLflow does not reach the internet"),
        pytest.param(SERVING, MLFLOW, 5000, True, id="who serves models asks MLflow"),
        pytest.param(ELSEWHERE, MLFLOW, 5000, False, id="others do not"),
        pytest.param(ELSEWHERE, stage("attack"), 8080, False, id="nobody reaches an attack"),
        pytest.param(Pod(), INTERNET, 443, False, id="a pod without a label reaches nothing"),
    ],
)
def test_who_reaches_whom(overlay, source, target, port, expected):
    policies = [document for document in overlay if document["kind"] == "NetworkPolicy"]
    assert allowed(policies, source, target, port) is expected


def test_in_dev_only_mlflow_reaches_the_database():
    policies = [document for document in render("overlays/dev") if document["kind"] == "NetworkPolicy"]
    assert allowed(policies, MLFLOW, DATABASE, 5432)
    assert not allowed(policies, WATCHER, DATABASE, 5432)


def test_in_production_a_run_reaches_the_api_and_the_object_store_and_no_other_address():
    policies = [document for document in render("overlays/production") if document["kind"] == "NetworkPolicy"]
    task = stage("attack", **IN_A_RUN)
    assert allowed(policies, task, Address("192.0.2.1"), 443)
    assert allowed(policies, stage("attack"), Address("198.51.100.7"), 443)
    assert not allowed(policies, stage("attack"), Address("192.0.2.1"), 443)
    assert not allowed(policies, task, Address("10.0.0.5"), 443)


def test_the_namespace_enforces_the_restricted_standard(overlay):
    labels = named(overlay, "Namespace", "tokenbuncher")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_only_the_gate_may_read_the_signing_key(overlay):
    readers = {
        role["metadata"]["name"]
        for role in overlay
        if role["kind"] in ("Role", "ClusterRole")
        for rule in role["rules"]
        if "secrets" in rule["resources"] and "signing-key" in rule.get("resourceNames", ["signing-key"])
    }
    assert readers == {"gate"}


def test_the_attacker_is_in_no_binding(overlay):
    bindings = [document for document in overlay if document["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    assert bindings
    assert not any(subject["name"] == "attacker" for binding in bindings for subject in binding["subjects"])


def test_rights_name_what_they_are_about(overlay):
    for role in (document for document in overlay if document["kind"] in ("Role", "ClusterRole")):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], role["metadata"]["name"]


@pytest.mark.parametrize("folder", [*(f"overlays/{name}" for name in OVERLAYS), "examples/serving"])
def test_objects_are_those_of_kubernetes_today(folder, tmp_path):
    validator = shutil.which("kubernetes-validate")
    if validator is None:
        pytest.skip("needs kubernetes-validate (pip install kubernetes-validate), on the PATH")
    path = tmp_path / "rendered.yaml"
    own = [document for document in render(folder) if not document["apiVersion"].startswith("trainer.kubeflow.org/")]
    path.write_text(yaml.safe_dump_all(own), encoding="utf-8")
    checked = subprocess.run([validator, "--strict", "-k", "1.37", path], capture_output=True, encoding="utf-8")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert (checked.stdout + checked.stderr).count("passed") == len(own)
