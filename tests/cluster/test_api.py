"""TrainJobs on a real API server. Nothing of Kubeflow runs there: the tests set the conditions and make the pods."""

import threading
import time

import pytest
from kubernetes.client import ApiException

from tests.cluster.conftest import IDENTITY
from tokenbuncher.core.errors import UserError
from tokenbuncher.training.cluster import follow as follow_module
from tokenbuncher.training.cluster.follow import follow
from tokenbuncher.training.cluster.jobs import TrainJobs
from tokenbuncher.training.cluster.trainjob import condition

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore:Unverified HTTPS request")]


class Following(threading.Thread):
    """Follows a TrainJob in the background."""

    def __init__(self, jobs, job):
        super().__init__(daemon=True)
        self.jobs, self.job, self.error = jobs, job, None
        self.start()

    def run(self):
        try:
            follow(self.jobs, self.job)
        except UserError as error:
            self.error = str(error)

    def ended(self, seconds=60):
        self.join(seconds)
        assert not self.is_alive(), "it still waits"
        return self.error


def wait_for(true, seconds=60):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.2)


def test_the_schema_takes_our_trainjob(jobs, make):
    resources = {"cpu": "2", "memory": "8Gi", "gpu": 1}
    job = jobs.create(make(nodes=2, processes=4, image="trainer:1", secret="storage", resources=resources))
    assert job["spec"]["trainer"]["numProcPerNode"] == 4
    assert job["spec"]["runtimeRef"]["name"] == "trainer"
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("trainer", "numNodes"), "two", "numNodes"),
        (("runtimeRef",), None, "runtimeRef"),
        (("activeDeadlineSeconds",), 0, "activeDeadlineSeconds"),
    ],
)
def test_the_schema_refuses_a_broken_one(jobs, make, where, value, said):
    job = make()
    part = job["spec"]
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    if value is None:
        del part[where[-1]]
    with pytest.raises(UserError, match=rf"cannot be created: .*{said}"):
        jobs.create(job)


def test_conditions_are_seen_and_told(jobs, make, controller, capfd):
    job = jobs.create(make())
    name = job["metadata"]["name"]
    following = Following(jobs, job)
    controller.set_condition(name, "Suspended", "Queued", "waits for its turn")
    wait_for(lambda: "is suspended: waits for its turn" in capfd.readouterr().out)
    began = time.monotonic()
    controller.set_condition(name, "Complete", "AllJobsCompleted", "jobset completed")
    assert following.ended() is None
    assert time.monotonic() - began < 3, "the watch wakes it up before a round is over"


def test_a_failure_is_told_with_reason_and_last_lines(jobs, make, controller, python_image):
    job = jobs.create(make())
    name = job["metadata"]["name"]
    controller.make_pod(name, python_image, "print('loading the model'); raise SystemExit('no such file')")
    following = Following(jobs, job)
    wait_for(lambda: jobs.pods(name)[0].status.phase == "Failed")
    controller.set_condition(name, "Failed", "FailedJobs", "jobset failed due to one or more job failures")
    error = following.ended()
    assert "FailedJobs: jobset failed due to one or more job failures" in error
    assert "ended with exit status 1 (Error)" in error
    assert error.splitlines()[-2:] == ["  loading the model", "  no such file"]


def test_of_several_nodes_the_log_of_the_failed_one_is_told(jobs, make, controller, python_image):
    job = jobs.create(make(nodes=2))
    name = job["metadata"]["name"]
    controller.make_pod(name, python_image, "print('first node', flush=True); import time; time.sleep(60)")
    controller.make_pod(name, python_image, "raise SystemExit('the second node broke')", node=1)
    following = Following(jobs, job)
    wait_for(lambda: {pod.status.phase for pod in jobs.pods(name)} == {"Failed", "Running"})
    controller.set_condition(name, "Failed", "FailedJobs")
    assert following.ended().endswith("\n  the second node broke")


def test_out_of_memory_is_told(jobs, make, controller, python_image):
    job = jobs.create(make())
    name = job["metadata"]["name"]
    limits = {"resources": {"limits": {"memory": "40Mi"}}}
    controller.make_pod(name, python_image, "x = bytearray(2 ** 30); x[:] = b'1' * 2 ** 30", container=limits)
    following = Following(jobs, job)
    wait_for(lambda: jobs.pods(name)[0].status.phase == "Failed")
    controller.set_condition(name, "Failed", "FailedJobs")
    assert "OOMKilled: it needs more memory" in following.ended()


def test_an_image_that_cannot_be_pulled_is_told(jobs, make, controller, monkeypatch):
    monkeypatch.setattr(follow_module, "PATIENCE", 1)
    job = jobs.create(make())
    controller.make_pod(job["metadata"]["name"], "registry.invalid/trainer:1")
    error = Following(jobs, job).ended(120)
    assert "does not start" in error
    assert "registry.invalid/trainer:1" in error


def test_an_image_that_has_no_name_is_given_up_at_once(jobs, make, controller):
    job = jobs.create(make())
    controller.make_pod(job["metadata"]["name"], "Not:An:Image")
    assert "InvalidImageName" in Following(jobs, job).ended()


def test_pods_that_find_no_node_are_told_and_waited_for(jobs, make, controller, python_image, capfd):
    job = jobs.create(make())
    name = job["metadata"]["name"]
    following = Following(jobs, job)
    controller.make_pod(name, python_image, nodeSelector={"no": "such"})
    wait_for(lambda: "Pending (Unschedulable: 0/" in capfd.readouterr().out)
    assert following.is_alive()
    controller.set_condition(name, "Complete", "Done")
    assert following.ended() is None


def test_each_line_is_told_once_though_the_connection_drops(unreliable, make, controller, python_image, capfd):
    jobs, proxy = unreliable
    job = jobs.create(make())
    name = job["metadata"]["name"]
    code = "import time\nfor n in range(30): print('line', n); time.sleep(0.3)"
    controller.make_pod(name, python_image, code)
    following = Following(jobs, job)
    told = ""
    while "line 20" not in told:
        time.sleep(1)
        proxy.cut()
        told += capfd.readouterr().out
    wait_for(lambda: controller.jobs.pods(name)[0].status.phase == "Succeeded")
    controller.set_condition(name, "Complete", "Done")
    assert following.ended() is None
    told += capfd.readouterr().out
    assert [line for line in told.splitlines() if line.startswith("line")] == [f"line {n}" for n in range(30)]
    assert proxy.cuts > 5


def test_a_version_that_the_server_has_forgotten_is_no_error(jobs, make):
    job = jobs.create(make())
    job["metadata"]["resourceVersion"] = "1"
    jobs.wait_for_change(job)


def test_one_that_is_deleted_by_someone_else_is_no_success(jobs, make):
    job = jobs.create(make())
    following = Following(jobs, job)
    jobs.delete(job["metadata"]["name"])
    assert "was deleted by someone else" in following.ended()


def test_a_trainjob_of_the_same_work_is_adopted(jobs, make, capfd):
    job = jobs.create(make())
    name = job["metadata"]["name"]
    adopted = TrainJobs(jobs.namespace).adopt(name, IDENTITY)
    assert adopted["metadata"]["uid"] == job["metadata"]["uid"]
    assert "going on with the one that is there" in capfd.readouterr().out
    again = jobs.create(make())
    assert again["metadata"]["uid"] == job["metadata"]["uid"], "of two callers one creates it"


def test_one_of_other_work_is_not_adopted(jobs, make):
    job = make()
    job["metadata"]["annotations"] = {}
    name = jobs.create(job)["metadata"]["name"]
    with pytest.raises(UserError, match="is not this work's"):
        jobs.adopt(name, IDENTITY)


def test_a_failed_one_is_replaced(jobs, make, controller):
    name = jobs.create(make())["metadata"]["name"]
    controller.set_condition(name, "Failed", "FailedJobs")
    assert jobs.adopt(name, IDENTITY) is None
    assert jobs.get(name) is None


def test_one_that_takes_too_long_is_given_up(jobs, make, monkeypatch):
    monkeypatch.setattr(follow_module, "GRACE", 0)
    job = jobs.create(make(timeout=3))
    assert "is not done after 3 s" in Following(jobs, job).ended()


def test_what_the_account_may_not_do_is_told(jobs, make):
    for part in (jobs.objects, jobs.core):
        part.api_client.configuration.refresh_api_key_hook = None  # it would read the kubeconfig again
        part.api_client.configuration.api_key = {"authorization": "Bearer wrong"}
    with pytest.raises(UserError, match="Unauthorized; log in again"):
        jobs.create(make())


def test_the_test_s_own_stand_in_sets_what_the_schema_knows(jobs, make, controller):
    name = jobs.create(make())["metadata"]["name"]
    with pytest.raises(ApiException):
        controller.set_condition(name, "Complete", "not a reason!")
    controller.set_condition(name, "Complete", "Done")
    assert condition(jobs.get(name), "Complete")["reason"] == "Done"
