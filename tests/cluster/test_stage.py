"""A stage sent to a cluster: a real API server, a real S3 server, the real command of the node.

In Kubeflow's place stands the test: it runs the TrainJob's command on this machine and sets the condition.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest
from tokenbuncher.defence import defend
from tokenbuncher.evidence import read_evidence
from tokenbuncher.settings import parse_spec
from tokenbuncher.training.cluster.trainjob import GROUP, PLURAL, VERSION

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore:Unverified HTTPS request")]
CLI = Path(sys.executable).with_name("tokenbuncher")


@pytest.fixture
def spec(tiny_spec, jobs, s3, tmp_path):
    """The tiny release, whose defence and attacks are TrainJobs."""
    bucket = f"b{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=bucket)
    compute = {"kind": "trainjob", "namespace": jobs.namespace, "storage": f"s3://{bucket}/work", "processes": 2}
    suite = [{"algorithm": "grpo", "steps": 2, "prompts_per_step": 4}]
    return parse_spec(
        tiny_spec.to_yaml(), [f"compute={compute}", f"attacks.suite={suite}", f"output.root={tmp_path / 'runs'}"]
    )


@pytest.fixture
def kubeflow(jobs, controller, tmp_path):
    """The stand-in for Kubeflow: runs the first TrainJob that appears."""
    node = tmp_path / "node"
    node.mkdir()

    def serve():
        while not (found := _trainjobs(jobs)):
            time.sleep(0.2)
        name, trainer = found[0]["metadata"]["name"], found[0]["spec"]["trainer"]
        done = subprocess.run(
            [sys.executable, *trainer["command"][1:], *trainer["args"]],
            cwd=node,
            env=os.environ
            | {"HOME": str(node), "OMP_NUM_THREADS": "1"}
            | {entry["name"]: entry["value"] for entry in trainer["env"]},
            capture_output=True,
            encoding="utf-8",
        )
        (node / "log").write_text(done.stdout + done.stderr, encoding="utf-8")
        controller.set_condition(name, "Failed" if done.returncode else "Complete", "Done", f"rc {done.returncode}")

    threading.Thread(target=serve, daemon=True).start()
    return node


def _trainjobs(jobs):
    """Those that are not on their way out."""
    found = jobs.objects.list_namespaced_custom_object(GROUP, VERSION, jobs.namespace, PLURAL)["items"]
    return [job for job in found if "deletionTimestamp" not in job["metadata"]]


def _told(node):
    return (node / "log").read_text(encoding="utf-8") if (node / "log").exists() else "no log"


def test_a_defence_on_two_processes_comes_back_whole(spec, organism_data, organism_base, jobs, kubeflow, tmp_path):
    out = tmp_path / "candidate"
    defend(spec, organism_data, organism_base, out=out)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    assert folder_digest(out) != folder_digest(organism_base)
    assert len((tmp_path / "candidate.steps.jsonl").read_text(encoding="utf-8").splitlines()) == spec.defence.steps
    assert _trainjobs(jobs) == [], "it is cleaned up"
    assert "log-entropy: 4/4" in _told(kubeflow)


def test_an_attack_s_evidence_is_bound_to_the_caller_s_spec(
    spec, organism_data, organism_base, jobs, kubeflow, tmp_path
):
    from tokenbuncher.attacks import attack

    attack(spec, "grpo-1000", organism_data, base=organism_base, candidate=organism_base, out=tmp_path / "attack")
    evidence = read_evidence(tmp_path / "attack")
    assert evidence.spec == spec.evidence_digest()
    assert evidence.candidate == folder_digest(organism_base)
    assert evidence.control_arm.rollouts == 32
    assert (tmp_path / "attack" / "control.steps.jsonl").exists()


def test_a_node_that_fails_fails_the_stage(spec, organism_data, tmp_path, kubeflow, jobs):
    broken = tmp_path / "base"
    broken.mkdir()
    (broken / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"trainjob defend-\w+ failed: Done: rc 1"):
        defend(spec, organism_data, broken, out=tmp_path / "candidate")
    assert not (tmp_path / "candidate").exists()
    assert _trainjobs(jobs) == [], "it is cleaned up"


@pytest.fixture
def start(spec, organism_data, organism_base, tmp_path):
    """Starts the command as a user would."""
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    started = []

    def command():
        arguments = ["--data", organism_data, "--base", organism_base, "--out", tmp_path / "out"]
        process = subprocess.Popen(
            [CLI, "defend", "--spec", tmp_path / "spec.yaml", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env=os.environ | {"HOME": str(tmp_path)},
        )
        started.append(process)
        return process

    yield command
    for process in started:
        process.kill()
        process.wait()


def _appears(jobs, process):
    until = time.monotonic() + 120
    while not (found := _trainjobs(jobs)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.2)
    return found[0]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_caller_cancels_the_trainjob(start, jobs, how):
    process = start()
    _appears(jobs, process)
    time.sleep(2)
    process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "deleted" in said
    assert _trainjobs(jobs) == []


def test_a_killed_caller_s_trainjob_goes_on_and_is_adopted(start, jobs, controller):
    process = start()
    job = _appears(jobs, process)
    process.kill()
    process.wait()
    assert [found["metadata"]["uid"] for found in _trainjobs(jobs)] == [job["metadata"]["uid"]]
    again = start()
    controller.set_condition(job["metadata"]["name"], "Complete", "Done")
    said, _ = again.communicate(timeout=120)
    assert "going on with the one that is there" in said
    assert again.returncode == 2, "complete, but no node has published anything"
    assert job["metadata"]["annotations"]["tokenbuncher.io/output"] in said
