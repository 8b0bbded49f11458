"""What a placement makes of the compiled pipeline, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.readme import NAMES, load_component
from pipelines.compile import compile_pipeline
from pipelines.lint import Documents, lint, read_ir
from pipelines.placement import Placement, load_placement
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.stages import STAGES


@pytest.fixture(scope="module")
def containers(placed: Documents) -> dict[str, Any]:
    """Container of each stage."""
    executors = placed[0]["deploymentSpec"]["executors"]
    return {label.removeprefix("exec-"): executor["container"] for label, executor in executors.items()}


@pytest.fixture(scope="module")
def pods(placed: Documents) -> dict[str, Any]:
    """What each stage asks of Kubernetes."""
    executors = placed[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {label.removeprefix("exec-"): pod for label, pod in executors.items()}


def env(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container.get("env", [])}


def test_every_component_has_a_placement() -> None:
    assert sorted(STAGES) == [load_component(name).component_spec.name for name in NAMES]


def test_without_a_document_every_stage_has_cpu_and_memory(built: Path) -> None:
    documents = read_ir(built / "release.yaml")

    assert len(documents) == 1
    for executor in documents[0]["deploymentSpec"]["executors"].values():
        assert {"resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit"} <= set(
            executor["container"]["resources"]
        )


def test_placed_pipeline_is_sound(placed: Documents) -> None:
    assert lint(placed) == []


def test_images(containers: dict[str, Any]) -> None:
    for stage, container in containers.items():
        assert container["image"].startswith(
            f"registry.example:5000/{'gate@sha256:' if STAGES[stage].image == 'gate' else 'trainer:1.0'}"
        )


def test_a_stage_has_what_all_have_and_its_own(containers: dict[str, Any], pods: dict[str, Any]) -> None:
    attack, defend = containers["attack"], containers["defend"]

    assert env(defend) == {"MLFLOW_S3_ENDPOINT_URL": "http://minio:9000"}
    assert env(attack) == {**env(defend), "TMPDIR": "/scratch"}
    assert attack["resources"]["accelerator"] == {
        "count": "2",
        "resourceCount": "2",
        "resourceType": "nvidia.com/gpu",
        "type": "nvidia.com/gpu",
    }
    assert "accelerator" not in defend["resources"]
    assert (attack["resources"]["resourceCpuRequest"], attack["resources"]["resourceMemoryLimit"]) == ("2", "64Gi")
    assert (defend["resources"]["resourceCpuRequest"], defend["resources"]["resourceMemoryLimit"]) == ("1", "8Gi")
    assert pods["defend"]["podMetadata"]["labels"] == {"team": "safety"}
    assert pods["attack"]["podMetadata"]["labels"] == {"team": "safety", "hazard": "attacked-weights"}
    assert {pod["imagePullPolicy"] for pod in pods.values()} == {"IfNotPresent"}


def test_pod_of_an_attack(pods: dict[str, Any]) -> None:
    pod = pods["attack"]

    assert pod["activeDeadlineSeconds"] == "7200"
    assert pod["nodeSelector"] == {"labels": {"gpu": "h100"}}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["emptyDirMounts"] == [
        {"mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi", "volumeName": "shared-memory"}
    ]


def test_quarantine_is_mounted_by_the_attacks_and_their_controls_alone(pods: dict[str, Any]) -> None:
    assert {stage for stage, pod in pods.items() if "pvcMount" in pod} == {"attack", "controls"}
    for stage in ("attack", "controls"):
        (mount,) = pods[stage]["pvcMount"]
        assert (mount["constant"], mount["mountPath"]) == ("quarantine", "/work/runs/quarantine")


def test_controls_are_placed_like_an_attack_without_its_deadline(pods: dict[str, Any]) -> None:
    assert pods["controls"] == {key: part for key, part in pods["attack"].items() if key != "activeDeadlineSeconds"}


def test_controls_can_be_placed_by_themselves() -> None:
    placement = Placement.model_validate(
        {"stages": {"attack": {"timeout": 60, "env": {"A": "1"}}, "controls": {"timeout": 90}}}
    )

    assert (placement.of("controls").timeout, placement.of("controls").env) == (90, {})


def test_secrets_are_named_and_never_given(pods: dict[str, Any]) -> None:
    for pod in pods.values():
        (secret,) = pod["secretAsEnv"]
        assert secret["secretName"] == "s3"
        assert secret["keyToEnv"] == [{"secretKey": "access-key", "envVar": "AWS_ACCESS_KEY_ID"}]
    (files,) = pods["gate"]["secretAsVolume"]
    assert (files["secretName"], files["mountPath"]) == ("signing-key", "/etc/signing")
    assert {stage for stage, pod in pods.items() if "secretAsVolume" in pod} == {"gate"}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("stages: {atack: {timeout: 3}}", r"stages\.atack.*'fetch-model'"),
        ("stages: {attack: {gpus: 2}}", r"stages\.attack\.gpus: unknown field; allowed here: .*cpu"),
        ("all: {cpu: {request: 2 cores, limit: 4}}", r"all\.cpu\.request"),
        ("all: {cpu: {request: 8, limit: 4}}", r"all\.cpu: request 8 is more than the limit 4"),
        ("all: {memory: {request: 10000Mi, limit: 8Gi}}", r"all\.memory: request 10000Mi is more than the limit 8Gi"),
        ("all: {memory: {request: 1Gi}}", r"all\.memory\.limit: Field required"),
        ("stages: {gate: {cpu: null}}", "gate has no cpu"),
        ("all: {shared_memory: 4Gi}", "shared_memory 4Gi, which is part of its memory of at most 2Gi"),
        ("stages: {attack: {accelerator: {count: 0}}}", r"accelerator\.count"),
        ("all: {timeout: -1}", r"all\.timeout"),
        ("all: {env: {A-B: c}}", r"all\.env\.A-B"),
        ("all: {secret_env: [{secret: s3, key: k, env: A, value: hunter2}]}", r"secret_env\.0\.value: unknown field"),
        ("all: {secret_env: [{secret: s3, env: A}]}", r"secret_env\.0\.key: Field required"),
        ("all: {secret_files: [{secret: s3, path: relative}]}", r"secret_files\.0\.path"),
        ("all: {cpu: {request: 0, limit: 0}}", r"all\.cpu: request 0 and limit 0 must both be above zero"),
        ("all: {memory: {request: 0Gi, limit: 1Gi}}", r"all\.memory: request 0Gi and limit 1Gi must both be above"),
        ("all: {memory: {request: 1K, limit: 1Gi}}", r"all\.memory\.request"),
        ("all: {memory: {request: 512m, limit: 1Gi}}", r"all\.memory\.request"),
        ("all: {shared_memory: 1GB}", r"all\.shared_memory"),
        ("parallelism: 0", "parallelism"),
        ("parallelism: yes", "parallelism"),
        ("quarantine: {claim: q, path: /}", r"quarantine\.path"),
        ("quarantine: {claim: q, path: /q, access: ReadOnlyMany}", r"quarantine\.access"),
        ("quarantine: {claim: q, path: /q, access: ReadWriteOnce}", "q is ReadWriteOnce, which one node at a time"),
        ("{quarantine: {claim: q, path: /q, access: ReadWriteOnce}, parallelism: 2}", "q is ReadWriteOnce"),
        (
            "{quarantine: {claim: q, path: /q, access: ReadWriteOnce}, "
            "stages: {attack: {node_selector: {kubernetes.io/hostname: a}}, controls: {}}}",
            "q is ReadWriteOnce",
        ),
        ("quarantine: {claim: q}", r"quarantine\.path: Field required"),
        ("all: {image_pull_policy: Sometimes}", r"all\.image_pull_policy"),
        ("all: {timeout: 1, timeout: 2}", "key 'timeout' stands twice"),
        ("- all", "must be a mapping"),
    ],
)
def test_refused(document: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "placement.yaml"
    path.write_text(document, encoding="utf-8")

    with pytest.raises(UserError, match=rf"(?s)placement\.yaml.*{says}"):
        load_placement(path)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        *(
            ("memory", text)
            for text in ["2 Gi", "2GB", "2gi", "2K", "512m", "-2Gi", "0Gi", "lots", "{{$.inputs.parameters['memory']}}"]
        ),
        *(("cpu", text) for text in ["2 cores", "1Gi", "0", "0.5m", "NaN", "-1"]),
    ],
)
@pytest.mark.parametrize("side", ["request", "limit"])
def test_a_quantity_that_kubernetes_cannot_read_is_refused(what: str, text: str, side: str) -> None:
    others = {"memory": {"request": "512Mi", "limit": "1Gi"}, "cpu": {"request": "250m", "limit": "1"}}

    with pytest.raises(ValidationError, match=what):
        Placement.model_validate({"stages": {"gate": {what: {**others[what], side: text}}}})


@pytest.mark.parametrize(
    "gate",
    [
        {"memory": {"request": "512Mi", "limit": "500M"}},
        {"cpu": {"request": "250m", "limit": "0.249"}},
        {"shared_memory": "8GB"},
        {"shared_memory": "0Gi"},
        {"accelerator": {"count": 0.5}},
        {"accelerator": {"count": "1"}},
        {"secret_env": [{"secret": "", "key": "k", "env": "A"}]},
        {"secret_files": [{"secret": "s", "path": ""}]},
    ],
)
def test_what_kubernetes_would_refuse_is_refused(gate: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Placement.model_validate({"stages": {"gate": gate}})


def test_what_speaks_for_one_run_is_neither_cached_nor_retried(tmp_path: Path) -> None:
    compile_pipeline("release", tmp_path / "release.yaml", Placement().caching(STAGES))
    parts = read_ir(tmp_path / "release.yaml")[0]["components"].values()
    tasks = {name: task for part in parts for name, task in part.get("dag", {}).get("tasks", {}).items()}

    for name in set(tasks) & set(STAGES):
        repeatable = STAGES[name].repeatable
        assert bool(tasks[name].get("cachingOptions", {}).get("enableCache")) is repeatable
        assert ("retryPolicy" in tasks[name]) is repeatable


def test_missing_document(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read placement"):
        load_placement(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "document",
    [
        {"parallelism": 1},
        {"stages": {"attack": {"node_selector": {"kubernetes.io/hostname": "a"}}}},
        {"all": {"node_selector": {"kubernetes.io/hostname": "a"}}},
    ],
    ids=["in turn", "attacks on a node", "all on a node"],
)
def test_a_claim_of_one_node_does_where_one_node_has_it(document: dict[str, Any]) -> None:
    quarantine = {"claim": "q", "path": "/q", "access": "ReadWriteOnce"}

    Placement.model_validate({"quarantine": quarantine, **document})


def limit_of(name: str, placement: Placement, folder: Path) -> int | None:
    compile_pipeline(name, folder / f"{name}.yaml", placement)
    (loop,) = read_ir(folder / f"{name}.yaml")[0]["components"]["comp-attacks"]["dag"]["tasks"].values()
    return loop.get("iteratorPolicy", {}).get("parallelismLimit")


@pytest.mark.parametrize("name", ["release", "red-team"])
def test_so_many_attacks_at_once(name: str, tmp_path: Path) -> None:
    assert limit_of(name, Placement(), tmp_path) is None
    assert limit_of(name, Placement(parallelism=3), tmp_path) == 3


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("all: {secret_files: [{secret: signing-key, path: /keys}]}", "exec-attack.*Secret signing-key"),
        (
            "stages: {promote: {secret_files: [{secret: release-signing, path: /keys}]}}",
            "exec-promote.*release-signing",
        ),
        (
            "all: {secret_files: [{secret: k, path: /keys}], env: {TOKENBUNCHER_SIGNING_KEY: /keys/release.pem}}",
            "exec-attack.*Secret k; the signing key is the gate's alone",
        ),
        (
            "{all: {secret_files: [{secret: k, path: /a/../keys/}]}, "
            "stages: {gate: {env: {TOKENBUNCHER_SIGNING_KEY: /keys/./release.pem}}}}",
            "exec-register.*Secret k",
        ),
        (
            "{all: {secret_files: [{secret: k, path: /keys}]}, "
            "stages: {gate: {env: {TOKENBUNCHER_SIGNING_KEY: /keys/release.pem}}}}",
            "exec-register.*Secret k",
        ),
        (
            "all: {secret_env: [{secret: k, key: p, env: TOKENBUNCHER_KEY_PASSPHRASE}]}",
            "exec-defend.*variable of the signing key",
        ),
        ("all: {pod_labels: {tokenbuncher.io/stage: fetch-model}}", "exec-attack.*the network of fetch-model"),
        ("stages: {attack: {pod_labels: {app.kubernetes.io/name: mlflow}}}", "exec-attack.*the network of another"),
    ],
)
def test_a_placement_that_gives_a_task_too_much_is_not_compiled(document: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "placement.yaml").write_text(document, encoding="utf-8")

    with pytest.raises(UserError, match=rf"(?s)is not sound as placed.*{says}"):
        compile_pipeline("release", tmp_path / "release.yaml", load_placement(tmp_path / "placement.yaml"))
    assert not (tmp_path / "release.yaml").exists()
