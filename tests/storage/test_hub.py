"""Models from a small server that speaks the hub's API, each in a process of its own, as the hub's library reads its
environment but once."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tokenbuncher.core.files import folder_digest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "model.safetensors": bytes(range(256)) * 1000,
    "config.json": b"{}",
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"{{ messages }}",
    "LICENSE": b"free",
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
}
BROUGHT = {"LICENSE", "model.safetensors", "config.json", "tokenizer.model", "chat_template.jinja"}
SCRIPT = """
import logging
import sys
from pathlib import Path
from tokenbuncher.core.errors import UserError
from tokenbuncher.storage import resolve
logging.basicConfig(stream=sys.stdout, format="%(message)s")
logging.getLogger("tokenbuncher").setLevel("INFO")
try:
    print(resolve(sys.argv[1], Path(sys.argv[2])))
except UserError as error:
    sys.exit(f"refused: {error}")
"""


class Hub(BaseHTTPRequestHandler):
    """One model with one commit, tagged v1."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if not path.removeprefix("/api/models").startswith("/org/small/"):
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path == "/api/models/org/small/revision/v1":
            self.answer(200, json.dumps({"id": "org/small", "sha": COMMIT}).encode())
        elif path == f"/api/models/org/small/tree/{COMMIT}":
            self.answer(200, json.dumps([entry(name, content) for name, content in FILES.items()]).encode())
        elif path.startswith(f"/org/small/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            self.answer(
                200,
                self.server.sent.get(name, FILES[name]),
                {"X-Repo-Commit": COMMIT, "ETag": f'"{entry(name, FILES[name])["oid"]}"'},
            )
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})

    do_HEAD = do_GET

    def answer(self, status, body, headers=None):
        self.send_response_only(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def entry(name, content):
    """As git knows a file, and the hub's large file store."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    described = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if name.endswith(".safetensors"):
        described["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return described


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.sent = [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def resolved(hub, tmp_path):
    """Resolves a URI in another process; gives what it says."""

    def resolved(uri, **environment):
        named = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "hf")}
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, uri, str(tmp_path / "cache")],
            env=os.environ | named | {"HF_HUB_OFFLINE": "0"} | environment,
            capture_output=True,
            encoding="utf-8",
        )

    return resolved


def folder(process):
    assert process.returncode == 0, process.stderr
    return Path(process.stdout.splitlines()[-1])


def refusal(process, cache):
    assert not cache.exists() or {path.suffix for path in cache.iterdir()} <= {".lock"}
    return process.stderr.splitlines()[-1]


def test_a_commit_is_brought_once_without_code_and_pickles(hub, resolved):
    found = folder(resolved(f"hf://org/small@{COMMIT}"))
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {name: FILES[name] for name in BROUGHT}
    hub.asked.clear()
    assert folder(resolved(f"hf://org/small@{COMMIT}#sha256={folder_digest(found)}", HF_HUB_OFFLINE="1")) == found
    assert hub.asked == []


def test_a_tag_is_looked_up(hub, resolved):
    process = resolved("hf://org/small@v1")
    assert f"hf://org/small@v1 is commit {COMMIT}" in process.stdout
    hub.asked.clear()
    assert folder(resolved("hf://org/small@v1")) == folder(process)
    assert [asked for asked in hub.asked if "/org/" in asked] == ["GET /api/models/org/small/revision/v1"]


@pytest.mark.parametrize(
    ("uri", "telling"),
    [
        ("hf://org/small@v2", "Revision Not Found"),
        ("hf://org/nosuch@v1", "Repository Not Found"),
        (f"hf://org/nosuch@{COMMIT}", "Repository Not Found"),
        (f"hf://org/small@{COMMIT[::-1]}", "Revision Not Found"),
    ],
)
def test_what_is_not_on_the_hub(uri, telling, resolved, tmp_path):
    said = refusal(resolved(uri), tmp_path / "cache")
    assert said.startswith(f"refused: {uri} cannot be read: ")
    assert telling in said


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("model.safetensors", FILES["model.safetensors"][::-1]),
        ("config.json", b"[]"),
        ("config.json", b"{ }"),
    ],
)
def test_a_damaged_file_is_refused(name, sent, hub, resolved, tmp_path):
    hub.sent[name] = sent
    said = refusal(resolved("hf://org/small@v1"), tmp_path / "cache")
    assert said.startswith("refused: hf://org/small@")
    assert "try again" in said or "expected" in said.lower()


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_offline(revision, resolved, tmp_path):
    said = refusal(resolved(f"hf://org/small@{revision}", HF_HUB_OFFLINE="1"), tmp_path / "cache")
    assert "is not in the cache, and the hub is off; set HF_HUB_OFFLINE=0, or copy the model" in said


def test_out_of_reach(resolved, tmp_path):
    said = refusal(resolved("hf://org/small@v1", HF_ENDPOINT="http://127.0.0.1:9"), tmp_path / "cache")
    assert "refused: hf://org/small@v1: the hub http://127.0.0.1:9 cannot be reached" in said
