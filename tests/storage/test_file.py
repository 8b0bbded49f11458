"""Single files: from a bucket, and from a dataset of a small server that speaks the hub's API."""

import os
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.storage import test_hub
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import file_digest
from tokenbuncher.storage import resolve_file

COMMIT = test_hub.COMMIT
CONTENT = b"prompt\nhow?\n"
SCRIPT = """
import logging
import sys
from pathlib import Path
from tokenbuncher.core.errors import UserError
from tokenbuncher.storage import resolve_file
logging.basicConfig(stream=sys.stdout, format="%(message)s")
logging.getLogger("tokenbuncher").setLevel("INFO")
try:
    print(resolve_file(sys.argv[1], cache=Path(sys.argv[2])))
except UserError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.fixture
def stored(s3, bucket):
    s3.put_object(Bucket=bucket, Key="data/prompts.csv", Body=CONTENT)
    s3.put_object(Bucket=bucket, Key="data/prompts.csv.bak", Body=b"other")
    return f"s3://{bucket}/data/prompts.csv"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_local_file_is_taken_as_it_is(tmp_path, form):
    path = tmp_path / "prompts.csv"
    path.write_bytes(CONTENT)
    assert resolve_file(form.format(path)) == path


def test_an_object_is_brought_once(stored, cache, s3, monkeypatch):
    path = resolve_file(stored, cache=cache)
    assert (path.name, path.read_bytes()) == ("prompts.csv", CONTENT)
    assert [other.name for other in path.parent.iterdir()] == ["prompts.csv"]
    monkeypatch.setattr("tokenbuncher.storage._bucket._download", None)
    assert resolve_file(stored, cache=cache) == path


def test_a_damaged_cache_is_mended(stored, cache):
    path = resolve_file(stored, cache=cache)
    path.write_bytes(b"")
    assert resolve_file(stored, cache=cache).read_bytes() == CONTENT


def test_an_object_at_the_top_of_a_bucket(s3, bucket, cache):
    s3.put_object(Bucket=bucket, Key="prompts.csv", Body=CONTENT)
    assert resolve_file(f"s3://{bucket}/prompts.csv", cache=cache).read_bytes() == CONTENT


def test_an_object_that_was_changed_is_brought_anew_and_refused_if_pinned(s3, bucket, stored, cache):
    pin = file_digest(resolve_file(stored, cache=cache))
    assert resolve_file(stored, pin, cache).read_bytes() == CONTENT
    s3.put_object(Bucket=bucket, Key="data/prompts.csv", Body=CONTENT + b"why?\n")
    assert resolve_file(stored, cache=cache).read_bytes() == CONTENT + b"why?\n"
    with pytest.raises(UserError, match=f"not the file that is expected: its sha256 is [0-9a-f]{{64}}, not {pin}"):
        resolve_file(stored, pin, cache)


@pytest.mark.parametrize("key", ["data/nosuch.csv", "data/", "data"])
def test_nothing_there(bucket, stored, cache, key):
    with pytest.raises(UserError, match=r"there is nothing at|is no file name"):
        resolve_file(f"s3://{bucket}/{key}", cache=cache)


def test_a_bucket_out_of_reach(monkeypatch, cache, s3):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UserError, match=r"s3://bucket/prompts\.csv cannot be read: Could not connect"):
        resolve_file("s3://bucket/prompts.csv", cache=cache)


@pytest.mark.parametrize(
    ("uri", "telling"),
    [
        ("https://host/prompts.csv", "use a local file"),
        ("s3://bucket", "write s3://bucket/key"),
        ("hf://org/name@v1/prompts.csv", "write hf://datasets/org/name@revision/path/of/the/file"),
        ("hf://datasets/org/name/prompts.csv", "without a revision the data could change"),
        ("hf://datasets/org/name@v1", "write hf://datasets"),
        ("hf://datasets/org/name@v1/../prompts.csv", "is no file name"),
    ],
)
def test_what_is_of_no_known_form(uri, telling, cache):
    with pytest.raises(UserError, match=telling):
        resolve_file(uri, cache=cache)


class Hub(test_hub.Hub):
    """The same files as a dataset."""

    def do_GET(self):
        self.path = self.path.replace("/api/datasets/", "/api/models/").replace("/datasets/org/", "/org/")
        super().do_GET()

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setitem(test_hub.FILES, "data/prompts.csv", CONTENT)
    monkeypatch.setitem(test_hub.FILES, "prompts.csv", CONTENT)
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


def test_one_file_of_a_commit_is_brought_once(hub, resolved):
    uri = f"hf://datasets/org/small@{COMMIT}/data/prompts.csv"
    process = resolved(uri)
    assert process.returncode == 0, process.stderr
    path = Path(process.stdout.splitlines()[-1])
    assert path.read_bytes() == CONTENT
    assert path.parts[-3:] == ("files", "data", "prompts.csv")
    assert [other for other in path.parents[1].rglob("*") if other.is_file()] == [path]
    hub.asked.clear()
    assert resolved(uri, HF_HUB_OFFLINE="1").stdout == f"{path}\n"
    assert hub.asked == []


def test_a_tag_is_looked_up(resolved):
    said = resolved("hf://datasets/org/small@v1/prompts.csv").stdout
    assert f"hf://datasets/org/small@v1/prompts.csv is commit {COMMIT}" in said


@pytest.mark.parametrize(
    ("uri", "telling"),
    [
        (f"hf://datasets/org/small@{COMMIT}/nosuch.csv", "there is nothing at hf://datasets/org/small@"),
        ("hf://datasets/org/nosuch@v1/prompts.csv", "Repository Not Found"),
        ("hf://datasets/org/small@v2/prompts.csv", "Revision Not Found"),
    ],
)
def test_what_is_not_on_the_hub(uri, telling, resolved):
    assert telling in resolved(uri).stderr.splitlines()[-1]


def test_a_damaged_file_of_the_hub_is_refused(hub, resolved):
    hub.sent["prompts.csv"] = CONTENT[::-1]
    assert "is not as it is on the hub" in resolved("hf://datasets/org/small@v1/prompts.csv").stderr


def test_offline(resolved):
    said = resolved("hf://datasets/org/small@v1/prompts.csv", HF_HUB_OFFLINE="1").stderr
    assert "the hub is off; set HF_HUB_OFFLINE=0, or copy the dataset and name its file" in said
