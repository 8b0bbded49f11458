"""Folders from local disks, and from a real S3 API over HTTP, with a proxy in front that makes trouble."""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.storage.faulty_proxy import corrupt, hang_up, hang_up_halfway, refuse
from tests.storage.model_files import FILES, PARTIAL, contents, nothing_in, write
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest
from tokenbuncher.storage import publish, resolve


@pytest.mark.parametrize("form", [str, lambda folder: folder.as_uri()], ids=["path", "file-uri"])
def test_a_local_folder_is_taken_as_it_is(tmp_path, form):
    folder = write(tmp_path / "a folder")
    assert resolve(form(folder)) == folder
    assert resolve(f"{form(folder)}#sha256={folder_digest(folder)}") == folder
    with pytest.raises(UserError, match="is not the folder that is expected"):
        resolve(f"{form(folder)}#sha256={'0' * 64}")
    with pytest.raises(UserError, match="is not a folder"):
        resolve(form(folder / "nosuch"))


def test_a_plain_prefix_is_brought_once(uploaded, proxy, cache, capsys):
    folder = resolve(uploaded, cache)
    assert contents(folder) == FILES
    assert re.search(r"download s3://.*, MB: 11/11", capsys.readouterr().out)
    assert proxy.count("GET .*model.safetensors") == 3  # parts
    proxy.asked.clear()
    assert resolve(uploaded + "/", cache) == folder
    assert proxy.count("GET .*/base/") == 0
    assert proxy.count("GET .*list-type=2") == 1


def test_a_changed_object_is_brought_anew(uploaded, bucket, s3, proxy, cache):
    before = resolve(uploaded, cache)
    s3.put_object(Bucket=bucket, Key="base/config.json", Body=b"{}")
    after = resolve(uploaded, cache)
    assert contents(after) == FILES | {"config.json": b"{}"}
    assert contents(before) == FILES  # others may be reading it


def test_a_damaged_cache_is_brought_anew(uploaded, proxy, cache):
    folder = resolve(uploaded, cache)
    (folder / "config.json").write_bytes(b"damaged")
    assert contents(resolve(uploaded, cache)) == FILES


def test_a_versioned_bucket(bucket, s3, model, proxy, cache):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert contents(resolve(publish(model, f"s3://{bucket}/new"), cache)) == FILES


def test_two_who_want_the_same_bring_it_once(uploaded, proxy, cache):
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: resolve(uploaded, cache), range(4)))
    assert len(folders) == 1
    assert proxy.count("GET .*config.json") == 1


def test_objects_that_stand_for_folders_are_no_files(uploaded, bucket, s3, cache):
    for name in ("base/", "base/empty/"):
        s3.put_object(Bucket=bucket, Key=name, Body=b"")
    assert contents(resolve(uploaded, cache)) == FILES


def test_a_prefix_with_nothing_but_a_folder_is_empty(bucket, s3, cache):
    s3.put_object(Bucket=bucket, Key="base/", Body=b"")
    with pytest.raises(UserError, match="there is nothing at"):
        resolve(f"s3://{bucket}/base", cache)


def test_a_digest_pins_a_prefix(uploaded, model, cache):
    assert contents(resolve(f"{uploaded}#sha256={folder_digest(model)}", cache)) == FILES
    with pytest.raises(UserError, match=f"its sha256 is {folder_digest(model)}, not 000"):
        resolve(f"{uploaded}#sha256={'0' * 64}", cache)


@pytest.mark.parametrize("key", ["../evil.json", "a/../../evil.json", "/etc/passwd", "./x", "a//b", "a\\b"])
def test_keys_that_lead_elsewhere_are_refused(key, uploaded, bucket, s3, proxy, cache):
    # The server for tests normalises some of these names when they are written; real ones do not.
    listing = f"<ListBucketResult><Contents><Key>base/{key}</Key><Size>2</Size></Contents></ListBucketResult>".encode()
    proxy.fault("GET .*list-type=2", lambda f: f.reply(200, [("Content-Length", str(len(listing)))], listing))
    head = [("ETag", '"00"'), ("Content-Length", "2")]
    proxy.fault("HEAD", lambda f: f.reply(200, head, b""))
    with pytest.raises(UserError, match="is no file name within a folder"):
        resolve(uploaded, cache)
    assert proxy.count("GET .*/base/") == 0
    assert nothing_in(cache)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "w.PT", "a/b.pickle", "modeling_evil.py"])
def test_code_and_pickles_are_refused_unread(name, uploaded, bucket, s3, proxy, cache):
    s3.put_object(Bucket=bucket, Key=f"base/{name}", Body=b"x")
    with pytest.raises(UserError, match=f"{name} may hold code or a pickle"):
        resolve(uploaded, cache)
    assert proxy.count("GET .*/base/") == 0
    assert nothing_in(cache)


def test_what_does_not_fit_on_the_disk_is_refused_unread(uploaded, bucket, s3, proxy, cache):
    head = [("ETag", '"00-1"'), ("Content-Length", str(10**18))]
    proxy.fault("HEAD .*model.safetensors", lambda f: f.reply(200, head, b""))
    with pytest.raises(UserError, match=r"has 1000000000000 MB, but only .* MB are free"):
        resolve(uploaded, cache)
    assert proxy.count("GET .*/base/") == 0


@pytest.mark.parametrize(
    ("asked", "act", "times"),
    [
        ("GET .*list-type=2", refuse(503, "SlowDown"), 3),
        ("GET .*config.json", refuse(500, "InternalError"), 3),
        ("GET .*model.safetensors", refuse(503, "SlowDown"), 3),
        ("GET .*model.safetensors", hang_up, 3),
        ("GET .*model.safetensors", hang_up_halfway, 3),
        ("HEAD .*config.json", hang_up, 2),
    ],
)
def test_a_download_gets_over_passing_trouble(asked, act, times, uploaded, proxy, cache):
    proxy.fault(asked, act, times)
    assert contents(resolve(uploaded, cache)) == FILES


@pytest.mark.parametrize(
    ("asked", "act", "telling"),
    [
        ("GET .*list-type=2", refuse(503, "SlowDown"), "SlowDown.*reached max retries: 2.*AWS_MAX_ATTEMPTS"),
        ("GET .*model.safetensors", refuse(503, "SlowDown"), "SlowDown.*try again later"),
        ("GET .*model.safetensors", hang_up, "cannot be read: .*onnection"),
        ("GET .*model.safetensors", hang_up_halfway, "the connection broke again and again"),
        ("GET .*config.json", corrupt, "config.json did not arrive as it is stored|checksum"),
        ("", refuse(403, "ExpiredToken"), r"ExpiredToken.*\(renew the credentials\)"),
        ("", refuse(403, "InvalidAccessKeyId"), "InvalidAccessKeyId.*check AWS_ACCESS_KEY_ID"),
        ("GET .*model.safetensors", refuse(403, "ExpiredToken"), "renew the credentials"),
        ("", refuse(403, "AccessDenied"), "AccessDenied.*lack this permission"),
        ("HEAD", refuse(403, ""), "403.*lack this permission, or have expired"),
        ("GET .*model.safetensors", refuse(412, "PreconditionFailed"), "written anew meanwhile, try again"),
    ],
)
def test_a_download_that_cannot_succeed_leaves_nothing(asked, act, telling, uploaded, proxy, cache, monkeypatch, slept):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    proxy.fault(asked, act, times=-1)
    with pytest.raises(UserError, match=telling) as refused:
        resolve(uploaded, cache)
    assert str(refused.value).startswith(uploaded)
    assert sum(slept) < 30
    assert nothing_in(cache)
    proxy.faults.clear()
    assert contents(resolve(uploaded, cache)) == FILES


def test_endless_trouble_takes_seconds_by_default(uploaded, proxy, cache, slept):
    proxy.fault("", refuse(503, "SlowDown"), times=-1)
    with pytest.raises(UserError, match="reached max retries: 4"):
        resolve(uploaded, cache)
    assert 0 < sum(slept) < 30


def test_missing_buckets_and_prefixes(uploaded, bucket, proxy, cache):
    with pytest.raises(UserError, match=r"NoSuchBucket.*make the bucket, or correct its name"):
        resolve("s3://nosuch/model", cache)
    with pytest.raises(UserError, match=f"there is nothing at s3://{bucket}/bas"):
        resolve(f"s3://{bucket}/bas", cache)


def test_no_credentials(uploaded, proxy, cache, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="Unable to locate credentials"):
        resolve(uploaded, cache)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"])
def test_the_server_is_named_by_the_environment(variable, uploaded, proxy, cache, monkeypatch):
    for other in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, proxy.url)
    resolve(uploaded, cache)
    assert proxy.asked


@pytest.mark.parametrize(
    ("tamper", "telling"),
    [
        (lambda put, drop: put("config.json", b'{"model_type": "evils"}'), "config.json is damaged: it has sha256"),
        (lambda put, drop: put("config.json", b"{}"), "config.json has 2 bytes, not the 23 that were published"),
        (lambda put, drop: drop("config.json"), "config.json is missing"),
        (lambda put, drop: put("extra.json", b"{}"), "extra.json was not published with the rest"),
        (lambda put, drop: put("MANIFEST.json", b"{}"), "MANIFEST.json cannot be read"),
        (lambda put, drop: drop("MANIFEST.json"), PARTIAL),
    ],
)
def test_a_published_prefix_that_was_tampered_with_is_refused(tamper, telling, model, bucket, s3, proxy, cache):
    published = publish(model, f"s3://{bucket}/new")
    tamper(
        lambda name, body: s3.put_object(Bucket=bucket, Key=f"new/{name}", Body=body),
        lambda name: s3.delete_object(Bucket=bucket, Key=f"new/{name}"),
    )
    with pytest.raises(UserError, match=telling):
        resolve(published, cache)
    assert nothing_in(cache)


def test_a_manifest_made_to_fit_other_files_is_refused(model, bucket, s3, proxy, cache):
    published = publish(model, f"s3://{bucket}/new")
    evil = b'{"model_type": "evils"}'
    manifest = json.loads(s3.get_object(Bucket=bucket, Key="new/MANIFEST.json")["Body"].read())
    manifest["files"]["config.json"]["sha256"] = hashlib.sha256(evil).hexdigest()
    s3.put_object(Bucket=bucket, Key="new/config.json", Body=evil)
    s3.put_object(Bucket=bucket, Key="new/MANIFEST.json", Body=json.dumps(manifest).encode())
    with pytest.raises(UserError, match="its digest is not that of its files"):
        resolve(published, cache)
    (model / "config.json").write_bytes(evil)
    manifest["digest"] = folder_digest(model)
    s3.put_object(Bucket=bucket, Key="new/MANIFEST.json", Body=json.dumps(manifest).encode())
    with pytest.raises(UserError, match="is not the folder that is expected"):
        resolve(published, cache)


def test_bytes_corrupted_on_the_way_are_noticed(model, bucket, proxy, cache):
    published = publish(model, f"s3://{bucket}/new")
    proxy.fault("GET .*model.safetensors", corrupt)
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        resolve(published, cache)
    assert nothing_in(cache)
    assert contents(resolve(published, cache)) == FILES
