"""Folders to local disks, and to a real S3 API over HTTP, with a proxy in front that makes trouble."""

import json
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.storage.faulty_proxy import hang_up, hang_up_when_done, ignore_conditions, refuse
from tests.storage.model_files import FILES, PART, PARTIAL, WEIGHTS, contents, keys, nothing_in, uploads, write
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest, folder_files
from tokenbuncher.storage import publish, resolve


def test_a_folder_is_published_by_name(model, tmp_path):
    pinned = publish(model, (tmp_path / "out").as_uri())
    assert contents(resolve(pinned)) == FILES
    assert publish(model, str(tmp_path / "out")).endswith(folder_digest(model))
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}


def test_a_published_folder_is_not_replaced(model, tmp_path):
    publish(model, str(tmp_path / "out"))
    (model / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="holds something else already"):
        publish(model, str(tmp_path / "out"))
    assert contents(tmp_path / "out") == FILES


def test_of_many_local_publishers_one_wins(tmp_path):
    models = [write(tmp_path / str(seed), **{"config.json": b"%d" % seed}) for seed in range(4)]

    def attempt(model):
        try:
            return bool(publish(model, str(tmp_path / "out")))
        except UserError:
            return False

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(attempt, models))
    assert won.count(True) == 1
    assert contents(tmp_path / "out") == contents(models[won.index(True)])


@pytest.mark.parametrize(
    ("name", "telling"),
    [("modeling.py", "code or a pickle"), ("optimizer.pt", "code or a pickle"), ("MANIFEST.json", "uses itself")],
)
def test_what_could_not_be_resolved_is_not_published(name, telling, model, bucket, s3):
    (model / name).write_bytes(b"x")
    with pytest.raises(UserError, match=telling):
        publish(model, f"s3://{bucket}/new")
    assert keys(s3, bucket) == set()


def test_an_empty_folder_and_a_registry_are_no_publications(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no files to be published"):
        publish(tmp_path / "empty", str(tmp_path / "out"))
    with pytest.raises(UserError, match="publish to a local folder, file:// or s3://"):
        publish(model, "models:/large/1")


def test_a_published_prefix_is_what_the_folder_was(model, bucket, s3, proxy, cache, capsys):
    pinned = publish(model, f"s3://{bucket}/runs/7/")
    assert pinned == f"s3://{bucket}/runs/7#sha256={folder_digest(model)}"
    assert re.search(r"upload s3://.*, MB: 11/11", capsys.readouterr().out)
    assert contents(resolve(pinned, cache)) == FILES
    manifest = json.loads(s3.get_object(Bucket=bucket, Key="runs/7/MANIFEST.json")["Body"].read())
    assert manifest["digest"] == folder_digest(model)
    assert {name: file["sha256"] for name, file in manifest["files"].items()} == folder_files(model)
    assert [line for line in proxy.asked if line.startswith(("PUT", "POST"))][-1].endswith("MANIFEST.json")
    assert uploads(s3, bucket) == []


def test_the_same_published_again_changes_nothing(model, bucket, s3, proxy):
    first = publish(model, f"s3://{bucket}/new")
    proxy.asked.clear()
    assert publish(model, f"s3://{bucket}/new") == first
    assert proxy.count("^(PUT|POST|DELETE)") == 0


def test_what_is_there_is_not_replaced(model, uploaded, bucket, s3, proxy, cache):
    with pytest.raises(UserError, match="holds files already"):
        publish(model, uploaded)
    published = publish(model, f"s3://{bucket}/new")
    (model / "config.json").write_bytes(b"{}")
    with pytest.raises(UserError, match="taken by another content"):
        publish(model, f"s3://{bucket}/new")
    assert contents(resolve(published, cache)) == contents(resolve(uploaded, cache)) == FILES


@pytest.mark.parametrize(
    ("asked", "act", "times"),
    [
        ("PUT .*partNumber=2", hang_up, 3),
        ("PUT .*partNumber=2", hang_up_when_done, 2),
        ("PUT .*partNumber", refuse(503, "SlowDown"), 3),
        ("PUT .*config.json", refuse(500, "InternalError"), 3),
        ("POST .*uploads", refuse(503, "SlowDown"), 3),
        # The server has done it, but the answer is lost: the second attempt finds it done.
        ("PUT .*MANIFEST.claim", hang_up_when_done, 1),
        ("PUT .*MANIFEST.json", hang_up_when_done, 1),
    ],
)
def test_a_publication_gets_over_passing_trouble(asked, act, times, model, bucket, s3, proxy, cache):
    proxy.fault(asked, act, times)
    assert contents(resolve(publish(model, f"s3://{bucket}/new"), cache)) == FILES
    assert uploads(s3, bucket) == []


@pytest.mark.parametrize(
    ("asked", "act", "telling"),
    [
        ("PUT .*partNumber=3", hang_up, "cannot be written: .*onnection"),
        ("PUT .*partNumber=3", refuse(503, "SlowDown"), "SlowDown.*try again later"),
        ("POST .*uploadId", refuse(403, "ExpiredToken"), "renew the credentials"),
        ("PUT .*config.json", refuse(403, "AccessDenied"), "AccessDenied"),
        ("PUT .*MANIFEST.json", refuse(503, "SlowDown"), "SlowDown"),
    ],
)
def test_a_publication_cut_short_is_not_seen_and_goes_on(
    asked, act, telling, model, bucket, s3, proxy, cache, monkeypatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.fault(asked, act, times=-1)
    with pytest.raises(UserError, match=telling) as refused:
        publish(model, f"s3://{bucket}/new")
    assert str(refused.value).startswith(f"s3://{bucket}/new cannot be written")
    assert "new/MANIFEST.json" not in keys(s3, bucket)
    with pytest.raises(UserError, match=PARTIAL):
        resolve(f"s3://{bucket}/new", cache)
    assert nothing_in(cache)
    there = keys(s3, bucket)
    proxy.faults.clear()
    proxy.asked.clear()
    assert contents(resolve(publish(model, f"s3://{bucket}/new"), cache)) == FILES
    for key in there:
        assert proxy.count(f"^(PUT|POST) .*{key}") == 0
    assert uploads(s3, bucket) == []


@pytest.mark.parametrize("when", ["PUT .*partNumber=2", "PUT .*MANIFEST.json"])
def test_a_killed_publication_is_not_seen_and_goes_on(when, model, bucket, s3, proxy, cache):
    reached, killed = threading.Event(), threading.Event()

    def wait_for_the_end(forward):
        reached.set()
        killed.wait()
        forward.close_connection = True

    proxy.fault(when, wait_for_the_end, times=-1)
    script = f"""if True:
        from pathlib import Path
        from tokenbuncher.storage import _bucket, publish
        _bucket.PART = {PART}
        publish(Path({str(model)!r}), "s3://{bucket}/new")
    """
    process = subprocess.Popen([sys.executable, "-c", script])
    reached.wait()
    while "new/config.json" not in keys(s3, bucket):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed.set()
    with pytest.raises(UserError, match=PARTIAL):
        resolve(f"s3://{bucket}/new", cache)
    assert bool(uploads(s3, bucket)) == ("part" in when)
    there = keys(s3, bucket)
    assert "new/config.json" in there
    proxy.faults.clear()
    proxy.asked.clear()
    assert contents(resolve(publish(model, f"s3://{bucket}/new"), cache)) == FILES
    for key in there:
        assert proxy.count(f"^(PUT|POST) .*{key}") == 0
    assert uploads(s3, bucket) == []


def attempt(model, uri):
    try:
        return publish(model, uri)
    except UserError:
        return None


@pytest.mark.parametrize("conditions", ["heeded", "ignored"])
def test_of_many_publishers_one_wins(conditions, bucket, proxy, cache, tmp_path):
    # Some servers take a write whatever its condition says, SeaweedFS 3.96 for one, 4.16 if they come together.
    if conditions == "ignored":
        proxy.fault("PUT .*MANIFEST", ignore_conditions, times=-1)
    models = [write(tmp_path / str(seed), **{"config.json": b"%d" % seed}) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda model: attempt(model, f"s3://{bucket}/new"), models))
    winners = [pinned for pinned in won if pinned]
    assert len(winners) == 1 if conditions == "heeded" else len(winners) <= 1
    if winners:
        assert contents(resolve(winners[0], cache)) == contents(models[won.index(winners[0])])
    else:
        with pytest.raises(UserError, match=PARTIAL):
            resolve(f"s3://{bucket}/new", cache)


def test_another_content_is_refused_while_one_is_published(model, bucket, s3, proxy, cache, tmp_path):
    other = write(tmp_path / "other", **{"config.json": b"other"})
    refused = []

    def meanwhile(forward):
        refused.append(attempt(other, f"s3://{bucket}/new"))
        forward.pass_on()

    proxy.fault("PUT .*partNumber=2", meanwhile)
    published = publish(model, f"s3://{bucket}/new")
    assert refused == [None]
    assert contents(resolve(published, cache)) == FILES


@pytest.mark.parametrize(
    ("when", "telling"),
    [
        ("PUT .*MANIFEST.claim", "was changed while it was published"),
        ("POST .*uploads", "model.safetensors did not arrive as it was"),
    ],
)
def test_a_file_changed_while_it_is_published(when, telling, model, bucket, s3, proxy, cache):
    def change(forward):
        (model / "model.safetensors").write_bytes(WEIGHTS[::-1])
        forward.pass_on()

    proxy.fault(when, change)
    with pytest.raises(UserError, match=telling):
        publish(model, f"s3://{bucket}/new")
    with pytest.raises(UserError, match=PARTIAL):
        resolve(f"s3://{bucket}/new", cache)
