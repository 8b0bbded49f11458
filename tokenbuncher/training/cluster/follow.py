"""Waiting for a TrainJob: its conditions, its pods, the log of its first node, its end."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

from urllib3.exceptions import HTTPError

from tokenbuncher.core.errors import UserError
from tokenbuncher.training.cluster.jobs import ROUND_SECONDS, ApiException, TrainJobs
from tokenbuncher.training.cluster.trainjob import (
    HOPELESS,
    UNLIKELY,
    condition,
    node_number,
    pod_failure,
    pod_state,
    waits_for,
)

logger = logging.getLogger(__name__)

TAIL = 15
"""Lines of the log that a failure is told with."""
PATIENCE = 300
"""Seconds for a registry or a node to get over what keeps a container from starting."""
GRACE = 60
"""Seconds after the deadline for Kubeflow Trainer to end the TrainJob itself."""


def follow(jobs: TrainJobs, job: dict[str, Any]) -> None:
    """Waits until a TrainJob is complete, and logs its progress.

    A dropped connection or an API server that is away for a while only delays it.

    Raises:
        UserError: If it fails, is deleted, cannot start or takes too long: with the reason, and the last lines of the
            log.
    """
    name, deadline = job["metadata"]["name"], _deadline(job)
    watched = _Watched(jobs, name)
    while True:
        try:
            current = jobs.get(name)
            if current is None:
                raise UserError(f"trainjob {name} was deleted by someone else")
            watched.look(current)
            if condition(current, "Complete"):
                watched.log_ends()
                return
            if watched.failed(current):
                raise UserError(watched.failure(current))
            jobs.wait_for_change(current)
        except (HTTPError, ApiException) as error:
            if isinstance(error, ApiException) and 400 <= (error.status or 0) < 500 and error.status != 429:
                with jobs.errors(f"trainjob {name}"):
                    raise
            watched.tell("cluster", f"does not answer ({type(error).__name__}); trying again")
            time.sleep(ROUND_SECONDS)
        if datetime.now(UTC).timestamp() > deadline:
            raise UserError(f"trainjob {name} is not done after {job['spec']['activeDeadlineSeconds']} s, the timeout")


def _deadline(job: dict[str, Any]) -> float:
    created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    return created.timestamp() + job["spec"]["activeDeadlineSeconds"] + GRACE


class _Watched:
    """What has been seen of a TrainJob, so that only news is printed."""

    def __init__(self, jobs: TrainJobs, name: str) -> None:
        self.jobs, self.name = jobs, name
        self.told: dict[str, str] = {}
        self.pods: list[Any] = []
        self.stuck_since: float | None = None
        self.log: NodeLog | None = None

    def tell(self, what: str, state: str) -> None:
        """Logs the state of an object if it has changed."""
        if self.told.get(what) != state:
            self.told[what] = state
            logger.info(f"trainjob {self.name}: {what} {state}")

    def look(self, job: dict[str, Any]) -> None:
        """Reads the state of the TrainJob and its pods, and follows the log of the first node."""
        self.pods = self.jobs.pods(self.name)
        for kind in ("Suspended", "Failed", "Complete"):
            if found := condition(job, kind):
                self.tell("is", f"{kind.lower()}: {found['message'] or found['reason']}")
        for pod in self.pods:
            self.tell(f"node {node_number(pod)}", pod_state(pod))
        first = [pod for pod in self.pods if node_number(pod) == 0 and pod.status.phase != "Pending"]
        if first and (self.log is None or self.log.pod != first[-1].metadata.name):
            self.log_ends()
            self.log = NodeLog(self.jobs, first[-1].metadata.name)
            self.log.start()

    def failed(self, job: dict[str, Any]) -> bool:
        """Whether it has failed, or a container waits for something that will never happen."""
        waiting = set().union(*(waits_for(pod) for pod in self.pods))
        if not waiting & UNLIKELY:
            self.stuck_since = None
        elif self.stuck_since is None:
            self.stuck_since = time.monotonic()
        stuck = self.stuck_since is not None and time.monotonic() - self.stuck_since > PATIENCE
        return condition(job, "Failed") is not None or bool(waiting & HOPELESS) or stuck

    def failure(self, job: dict[str, Any]) -> str:
        """Why it failed, by the TrainJob, its pods, and the end of the log."""
        self.log_ends()
        found = condition(job, "Failed")
        causes = {pod.metadata.name: cause for pod in self.pods if (cause := pod_failure(pod))}
        reasons = [f"{found['reason']}: {found['message']}"] if found else []
        lines = self._last_lines(next(iter(causes), None))
        return "\n  ".join([f"trainjob {self.name} failed: " + "; ".join([*reasons, *causes.values()]), *lines])

    def _last_lines(self, pod: str | None) -> list[str]:
        seen = list(self.log.tail) if self.log else []
        if pod is None or (self.log and self.log.pod == pod and seen):
            return seen
        try:
            text: bytes = self.jobs.log(pod, tail_lines=TAIL).data
        except (ApiException, HTTPError):  # the pod is gone, or never started
            return seen
        return text.decode(errors="replace").splitlines()

    def log_ends(self) -> None:
        """Reads the log to its end."""
        if self.log:
            self.log.finish()


class NodeLog(threading.Thread):
    """Relays the log of a pod as it grows, each line once, however often the connection drops."""

    def __init__(self, jobs: TrainJobs, pod: str) -> None:
        super().__init__(daemon=True)
        self.jobs, self.pod = jobs, pod
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._last = ""
        self._seen = time.monotonic()
        self._over = threading.Event()

    def run(self) -> None:
        """Reads until the log is over."""
        while True:
            last = self._over.is_set()
            try:
                self._read(follow=not last)
            except (ApiException, HTTPError):
                pass
            if last:
                return
            self._over.wait(1)

    def _read(self, follow: bool) -> None:
        since = {"since_seconds": int(time.monotonic() - self._seen) + 10} if self._last else {}
        response = self.jobs.log(self.pod, follow=follow, timestamps=True, _request_timeout=(5, 60), **since)
        try:
            rest = b""
            for chunk in response.stream():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(line.decode(errors="replace"))
        finally:
            response.close()

    def _take(self, line: str) -> None:
        stamp, _, text = line.partition(" ")
        moment = _comparable(stamp)
        if moment <= self._last:
            return
        self._last, self._seen = moment, time.monotonic()
        self.tail.append(text)
        logger.info(text)

    def finish(self) -> None:
        """Reads what is left, for a few seconds at most."""
        self._over.set()
        self.join(10)


def _comparable(stamp: str) -> str:
    """A time stamp that sorts: the API leaves out zeros at the end of the fraction."""
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"
