"""A namespace of a real API server with Kubeflow Trainer's CRDs, and stand-ins for the controllers behind them."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

from tokenbuncher.settings import ComputeSpec
from tokenbuncher.training.cluster.jobs import TrainJobs
from tokenbuncher.training.cluster.trainjob import GROUP, PLURAL, VERSION, build_trainjob

IDENTITY = ("0", "the spec", "the data", "the base")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cluster: needs a Kubernetes API server; make test-cluster")


@pytest.fixture(scope="module")
def namespace():
    """A namespace of the tests' own, deleted at the end."""
    if os.environ.get("TEST_CLUSTER") != "1" or not os.environ.get("KUBECONFIG"):
        pytest.skip("needs a Kubernetes API server; KUBECONFIG=... make test-cluster")
    from kubernetes import client
    from urllib3.exceptions import HTTPError

    jobs = TrainJobs("default")
    try:
        jobs.objects.list_namespaced_custom_object(GROUP, VERSION, "default", PLURAL)
    except HTTPError as error:
        pytest.skip(f"the cluster of KUBECONFIG does not answer: {error}")
    except client.ApiException as error:
        pytest.skip(f"the cluster has no Kubeflow Trainer CRDs: {error.reason}")
    name = f"tokenbuncher-trainjobs-{uuid.uuid4().hex[:8]}"
    jobs.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    until = time.monotonic() + 30
    while not jobs.core.list_namespaced_service_account(name).items:
        assert time.monotonic() < until, "the namespace has got no service account"
        time.sleep(0.2)
    yield name
    jobs.core.delete_namespace(name)


@pytest.fixture
def jobs(namespace):
    """The TrainJobs of the tests' namespace; none is left over from another test."""
    jobs = TrainJobs(namespace)
    jobs.objects.delete_collection_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL)
    jobs.core.delete_collection_namespaced_pod(namespace, grace_period_seconds=0)
    until = time.monotonic() + 60
    while jobs.objects.list_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL)["items"]:
        assert time.monotonic() < until, "TrainJobs of another test do not go away"
        time.sleep(0.2)
    return jobs


@pytest.fixture
def make(namespace):
    """Builds a defence's TrainJob for the tests' namespace."""

    def build(identity=IDENTITY, **changes):
        compute = ComputeSpec(kind="trainjob", storage="s3://bucket/tests", namespace=namespace, **changes)
        return build_trainjob(
            compute,
            "defend",
            identity,
            arguments={"spec": "s3://bucket/spec"},
            output="s3://bucket/output",
            environment={},
        )

    return build


@pytest.fixture
def controller(jobs):
    """What Kubeflow Trainer's controller would do, done by the test: it sets conditions and makes pods."""
    return Controller(jobs)


class Controller:
    """The stand-in for Kubeflow Trainer's and JobSet's controllers."""

    def __init__(self, jobs: TrainJobs) -> None:
        self.jobs = jobs

    def set_condition(self, name, kind, reason, message="set by the test"):
        """Sets a condition of a TrainJob, as its controller would."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
        self.jobs.objects.patch_namespaced_custom_object_status(
            GROUP, VERSION, self.jobs.namespace, PLURAL, name, {"status": {"conditions": [found]}}
        )

    def make_pod(self, name, image, code="", node=0, **spec):
        """Makes the pod of a node, as JobSet would; the cluster's own kubelet runs it."""
        container = {"name": "node", "image": image, "command": ["python3", "-uc", code], **spec.pop("container", {})}
        return self.jobs.core.create_namespaced_pod(
            self.jobs.namespace,
            {
                "metadata": {
                    "name": f"{name}-node-{node}-0-{uuid.uuid4().hex[:5]}",
                    "labels": {
                        "jobset.sigs.k8s.io/jobset-name": name,
                        "jobset.sigs.k8s.io/replicatedjob-name": "node",
                        "batch.kubernetes.io/job-completion-index": str(node),
                    },
                },
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 1,
                    "automountServiceAccountToken": False,
                    "containers": [container],
                    **spec,
                },
            },
        ).metadata.name


@pytest.fixture(scope="module")
def python_image(namespace):
    """An image with Python that a node has already."""
    nodes = TrainJobs(namespace).core.list_node().items
    names = [name for node in nodes for image in node.status.images or [] for name in image.names or []]
    found = [name for name in names if ("tokenbuncher/" in name or "base-ca" in name) and "@" not in name]
    if not found:
        pytest.skip("no node of the cluster has an image with Python: tokenbuncher/gate or base-ca")
    return found[0]


@pytest.fixture
def unreliable(jobs):
    """Has the client go through a proxy, whose connections can be cut."""
    api = urlsplit(jobs.core.api_client.configuration.host)
    proxy = Proxy(api.hostname, api.port)
    there = TrainJobs(jobs.namespace)
    for part in (there.core, there.objects):
        part.api_client.configuration.refresh_api_key_hook = None  # it would read the kubeconfig again
        part.api_client.configuration.host = f"{api.scheme}://127.0.0.1:{proxy.port}"
    yield there, proxy
    proxy.close()


class Proxy:
    """Forwards TCP connections to a server until they are cut."""

    def __init__(self, host: str, port: int) -> None:
        self.target = host, port
        self.open: list[socket.socket] = []
        self.cuts = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            self.open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self):
        """Cuts every connection there is."""
        connections, self.open = self.open, []
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
                self.cuts += 1
            except OSError:
                pass
            connection.close()

    def close(self):
        """Cuts all and takes no more."""
        self.listener.close()
        self.cut()
