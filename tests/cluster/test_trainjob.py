"""The TrainJob object, the words for what pods say, and the command of a node; no cluster is needed."""

import json
import sys

import pytest
import yaml
from kubernetes import client

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings import ComputeSpec, parse_spec
from tokenbuncher.training.cluster.follow import _comparable
from tokenbuncher.training.cluster.node import launcher, run
from tokenbuncher.training.cluster.trainjob import build_trainjob, condition, pod_failure, pod_state

IDENTITY = ("0", "spec", "data", "base")
ARGUMENTS = {"spec": "s3://b/spec#sha256=1", "data": "s3://b/data#sha256=2"}


def trainjob(stage="defend", identity=IDENTITY, environment=None, **changes):
    compute = ComputeSpec(kind="trainjob", storage="s3://b/work", **changes)
    return build_trainjob(
        compute, stage, identity, arguments=ARGUMENTS, output="s3://b/out", environment=environment or {}
    )


def test_a_plain_trainjob_leaves_to_the_runtime_what_the_spec_leaves_out():
    job = trainjob()
    assert job["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    assert job["spec"] == {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "trainer"},
        "activeDeadlineSeconds": 86400,
        "trainer": {
            "command": ["python", "-m", "tokenbuncher.training.cluster.node", "defend"],
            "args": ["--spec=s3://b/spec#sha256=1", "--data=s3://b/data#sha256=2", "--output=s3://b/out"],
            "numNodes": 1,
            "numProcPerNode": 1,
            "env": [],
        },
    }


def test_what_the_spec_says_is_asked_for():
    resources = {"cpu": "500m", "memory": "64Gi", "gpu": 8}
    job = trainjob(nodes=2, processes=8, image="trainer:1", resources=resources, timeout=60, namespace="mine")
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (2, 8, "trainer:1")
    wanted = {"cpu": "500m", "memory": "64Gi", "nvidia.com/gpu": "8"}
    assert trainer["resourcesPerNode"] == {"requests": wanted, "limits": wanted}
    assert job["spec"]["activeDeadlineSeconds"] == 60
    assert job["metadata"]["namespace"] == "mine"


def test_an_attack_has_the_attackers_runtime():
    assert trainjob("attack")["spec"]["runtimeRef"]["name"] == "attacker"
    assert trainjob("attack")["metadata"]["labels"]["tokenbuncher.io/stage"] == "attack"


def test_the_name_follows_the_work_and_is_short():
    name = trainjob()["metadata"]["name"]
    assert name == trainjob(nodes=2)["metadata"]["name"], "where it runs is not part of the work"
    assert name != trainjob(identity=(*IDENTITY, "grpo-1000"))["metadata"]["name"]
    assert len(f"{name}-node-0-0-abcde") <= 63


def test_no_secret_is_in_the_object():
    environment = {"AWS_ENDPOINT_URL": "http://s3", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hush"}
    job = trainjob(environment=environment, secret="storage")
    env = {entry["name"]: entry for entry in job["spec"]["trainer"]["env"]}
    assert env["AWS_ENDPOINT_URL"]["value"] == "http://s3"
    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "storage"
    assert "hush" not in json.dumps(job)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("compute={kind: trainjob}", "needs storage"),
        ("compute={kind: trainjob, storage: /mnt/work}", "s3://bucket/prefix only"),
        ("compute={kind: trainjob, storage: 's3://b/w', processes: 3}", r"prompts_per_step \(4\) must be a multiple"),
        ("compute={kind: trainjob, storage: 's3://b/w', image: 3}", "compute.image"),
        ("compute={accelerate: nowhere.yaml}", "nowhere.yaml"),
        ("compute={resources: {memory: lots}}", "compute.resources.memory"),
    ],
)
def test_a_compute_section_that_cannot_work_is_refused(tiny_spec, override, said):
    with pytest.raises(UserError, match=said):
        parse_spec(tiny_spec.to_yaml(), [override])


def test_attacked_weights_are_not_sent_through_the_storage(tiny_spec):
    with pytest.raises(UserError, match="must not leave the quarantine"):
        parse_spec(
            tiny_spec.to_yaml(), ["compute={kind: trainjob, storage: 's3://b/w'}", "attacks.keep_checkpoints=true"]
        )


def test_where_it_runs_does_not_shape_the_evidence(tiny_spec):
    elsewhere = parse_spec(tiny_spec.to_yaml(), ["compute={kind: trainjob, storage: 's3://b/w', processes: 4}"])
    assert elsewhere.evidence_digest() == tiny_spec.evidence_digest()


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_accelerate_s_configuration_travels_with_the_spec(tiny_spec, name):
    spec = parse_spec(tiny_spec.to_yaml(), [f"compute.accelerate=specs/accelerate/{name}.yaml"])
    assert spec.compute.accelerate["distributed_type"] == name.upper()
    assert parse_spec(spec.to_yaml()).compute == spec.compute


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_accelerate_takes_its_configuration(name, tmp_path):
    from accelerate.commands.config.config_args import load_config_from_file

    with open(f"specs/accelerate/{name}.yaml", encoding="utf-8") as stream:
        (tmp_path / "accelerate.json").write_text(json.dumps(yaml.safe_load(stream)), encoding="utf-8")
    config = load_config_from_file(str(tmp_path / "accelerate.json"))
    assert config.distributed_type == name.upper()


def test_a_node_starts_its_share_of_the_processes(tmp_path):
    environment = {"PET_NODE_RANK": "1", "PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29400"}
    words = launcher(ComputeSpec(nodes=2, processes=4), environment, tmp_path / "accelerate.json")
    assert words[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert dict(zip(words[3::2], words[4::2], strict=True)) == {
        "--nnodes": "2",
        "--nproc-per-node": "4",
        "--node-rank": "1",
        "--master-addr": "job-node-0-0.job",
        "--master-port": "29400",
    }
    assert launcher(ComputeSpec(), {}, tmp_path / "accelerate.json") == [sys.executable]


def test_with_a_configuration_accelerate_starts_them(tmp_path):
    compute = ComputeSpec(nodes=2, processes=4, accelerate={"distributed_type": "FSDP"})
    words = launcher(compute, {"PET_NODE_RANK": "1", "PET_MASTER_ADDR": "first"}, tmp_path / "accelerate.json")
    told = dict(zip(words[3::2], words[4::2], strict=True))
    assert (told["--num_machines"], told["--num_processes"], told["--machine_rank"]) == ("2", "8", "1")
    assert told["--main_process_ip"] == "first"
    assert json.loads((tmp_path / "accelerate.json").read_text(encoding="utf-8")) == {"distributed_type": "FSDP"}


def test_a_node_ends_as_its_processes_do():
    assert run([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]) == 137


def pod(phase="Running", conditions=(), **state):
    status = client.V1ContainerStatus(
        name="node", image="i", image_id="", ready=False, restart_count=0, state=client.V1ContainerState(**state)
    )
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name="job-node-0-0-abcde"),
        status=client.V1PodStatus(phase=phase, container_statuses=[status], conditions=list(conditions)),
    )


def test_a_pod_s_failure_is_told_in_words():
    terminated = client.V1ContainerStateTerminated
    assert pod_failure(pod("Succeeded", terminated=terminated(exit_code=0))) is None
    assert "OOMKilled" in pod_failure(pod("Failed", terminated=terminated(exit_code=137, reason="OOMKilled")))
    failed = pod_failure(pod("Failed", terminated=terminated(exit_code=2, reason="Error")))
    assert failed == "job-node-0-0-abcde ended with exit status 2 (Error)"
    waiting = pod("Pending", waiting=client.V1ContainerStateWaiting(reason="ErrImagePull", message="not found"))
    assert pod_failure(waiting) == "job-node-0-0-abcde does not start: Pending (ErrImagePull: not found)"


def test_an_evicted_pod_tells_why():
    evicted = client.V1Pod(
        metadata=client.V1ObjectMeta(name="p"),
        status=client.V1PodStatus(phase="Failed", reason="Evicted", message="node was low on memory"),
    )
    assert pod_failure(evicted) == "p failed: Evicted node was low on memory"


def test_a_pod_that_starts_is_only_pending():
    assert pod_state(pod("Pending", waiting=client.V1ContainerStateWaiting(reason="ContainerCreating"))) == "Pending"


def test_a_condition_counts_when_it_is_true():
    job = {"status": {"conditions": [{"type": "Failed", "status": "False"}, {"type": "Complete", "status": "True"}]}}
    assert condition(job, "Failed") is None
    assert condition(job, "Complete")
    assert condition({}, "Complete") is None


def test_the_api_s_time_stamps_sort():
    stamps = ["2026-01-01T00:00:05Z", "2026-01-01T00:00:05.1Z", "2026-01-01T00:00:05.12Z", "2026-01-01T00:00:06Z"]
    assert sorted(stamps, key=_comparable) == stamps
