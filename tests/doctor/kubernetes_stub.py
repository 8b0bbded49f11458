"""A loopback server that answers as a Kubernetes API server does to the doctor's questions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

ANSWERS = {
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
    "/api/v1/namespaces/tokenbuncher": {"kind": "Namespace", "metadata": {"name": "tokenbuncher"}},
    "/apis/trainer.kubeflow.org/v1alpha1/namespaces/tokenbuncher/trainjobs": {"kind": "TrainJobList", "items": []},
}
VERSION_FIELDS = ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform")


@contextmanager
def cluster(folder: Path, statuses: dict[str, int]) -> Iterator[Path]:
    """A kubeconfig of the server.

    Args:
        folder: Where the kubeconfig is written.
        statuses: By the last word of a path: what the server answers instead.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0].rstrip("/")
            status = statuses.get(path.rpartition("/")[2], 200 if path in ANSWERS else 404)
            answer: dict[str, Any] = ANSWERS.get(path, {}) if status == 200 else {"kind": "Status", "code": status}
            if path == "/version":
                answer = {**dict.fromkeys(VERSION_FIELDS, ""), **answer}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "test", "user": {"token": "kubernetes-secret"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig), encoding="utf-8")
    try:
        yield path
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
