"""S3 servers that do less than Amazon's: what they lack is done without, or named."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.evidence_factory import release_spec
from tests.storage.faulty_proxy import Forward, Proxy, ignore_conditions, refuse
from tests.storage.model_files import FILES, PART, contents, keys, uploads, write
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest
from tokenbuncher.preflight.doctor._servers import check_s3
from tokenbuncher.registry import register
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.storage import publish, resolve
from tokenbuncher.storage._bucket import client_of_bucket
from tokenbuncher.storage.artifact_files import files_at
from tokenbuncher.storage.artifacts import stored_files
from tokenbuncher.storage.tracking import connected

NEWER = re.compile(r"x-amz-(checksum|sdk-checksum|trailer|decoded)", re.IGNORECASE)


@pytest.fixture
def proxy(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy(s3.meta.endpoint_url.removeprefix("http://"))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr("tokenbuncher.storage._bucket.PART", PART)
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model")


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """What botocore is told for servers without the newer checksums."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")


def without_checksums(status: int, code: str) -> Any:
    """A server that refuses what has the newer checksums, or is sent in chunks with one behind."""

    def act(forward: Forward) -> None:
        chunked = "aws-chunked" in forward.headers.get("Content-Encoding", "")
        if chunked or any(NEWER.match(name) for name in forward.headers):
            refuse(status, code)(forward)
        else:
            forward.pass_on()

    return act


def without_conditions(status: int, code: str, header: str = "") -> Any:
    def act(forward: Forward) -> None:
        if "If-None-Match" not in forward.headers:
            forward.pass_on()
            return
        named = f"<Header>{header}</Header>" if header else ""
        body = f"<Error><Code>{code}</Code><Message>A header is not implemented</Message>{named}</Error>".encode()
        forward.reply(status, [("Content-Length", str(len(body))), ("Content-Type", "application/xml")], body)

    return act


def without(header: str) -> Any:
    def act(forward: Forward) -> None:
        status, headers, body = forward.fetch()
        forward.reply(status, [pair for pair in headers if pair[0].lower() != header], body)

    return act


def first_version_only(forward: Forward) -> None:
    """A server that lists as of old, a page of two, whatever it is asked."""
    forward.path = re.sub(r"list-type=2&?|continuation-token=[^&]*&?", "", forward.path) + "&max-keys=2"
    forward.pass_on()


# Checksums


def test_a_server_without_newer_checksums_is_sent_none(
    model: Path, bucket: str, s3: Any, proxy: Proxy, older: None, tmp_path: Path
) -> None:
    proxy.fault("", without_checksums(400, "InvalidArgument"), times=-1)
    pinned = publish(model, f"s3://{bucket}/new")
    assert contents(resolve(pinned, tmp_path / "cache")) == FILES
    assert publish(model, f"s3://{bucket}/new") == pinned
    assert uploads(s3, bucket) == []
    assert set(stored_files(f"s3://{bucket}/new") or ()) == keys_below(s3, bucket)
    assert contents_by_hash(f"s3://{bucket}/new")["config.json"] == hashlib.sha256(FILES["config.json"]).hexdigest()


def keys_below(s3: Any, bucket: str) -> set[str]:
    return {key.removeprefix("new/") for key in keys(s3, bucket)}


def contents_by_hash(location: str) -> dict[str, str]:
    files = files_at(location)
    hashes = {}
    for name, _ in files.entries():
        with files.opened(name) as stream:
            hashes[name] = hashlib.sha256(stream.read()).hexdigest()
    return hashes


def test_the_configuration_file_says_it_too(
    model: Path, bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(
        "[default]\nrequest_checksum_calculation = when_required\nresponse_checksum_validation = when_required\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    proxy.fault("", without_checksums(501, "NotImplemented"), times=-1)
    assert contents(resolve(publish(model, f"s3://{bucket}/new"), tmp_path / "cache")) == FILES


def test_what_was_uploaded_without_checksums_is_compared_all_the_same(
    model: Path, bucket: str, s3: Any, proxy: Proxy, older: None
) -> None:
    def spoil(forward: Forward) -> None:
        forward.body = b"x" * len(forward.body)
        forward.pass_on()

    proxy.fault("PUT .*config.json", spoil)
    with pytest.raises(UserError, match=r"config\.json did not arrive as it was"):
        publish(model, f"s3://{bucket}/new")
    assert "new/MANIFEST.json" not in keys(s3, bucket)
    proxy.asked.clear()
    publish(model, f"s3://{bucket}/new")
    assert proxy.count("PUT .*config.json") == 1
    assert proxy.count("PUT .*README.md") == 0  # it was there


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "InvalidArgument"),
        (501, "NotImplemented"),
        (403, "SignatureDoesNotMatch"),
        (400, "XAmzContentSHA256Mismatch"),
        (411, "MissingContentLength"),
    ],
)
def test_a_server_that_refuses_checksums_is_told_with_what_to_set(
    status: int, code: str, model: Path, bucket: str, proxy: Proxy
) -> None:
    proxy.fault("PUT|POST", without_checksums(status, code), times=-1)
    with pytest.raises(UserError, match=f"{code}.*AWS_REQUEST_CHECKSUM_CALCULATION=when_required"):
        publish(model, f"s3://{bucket}/new")


def test_the_advice_is_not_given_to_who_follows_it(model: Path, bucket: str, proxy: Proxy, older: None) -> None:
    proxy.fault("PUT .*config.json", refuse(400, "InvalidArgument"), times=-1)
    with pytest.raises(UserError) as error:
        publish(model, f"s3://{bucket}/new")
    assert "when_required" not in str(error.value)


# Conditional writes


@pytest.mark.parametrize(
    ("status", "code", "header"),
    [(501, "NotImplemented", "If-None-Match"), (501, "NotImplemented", ""), (400, "InvalidArgument", "If-None-Match")],
)
def test_a_server_without_conditional_writes_is_refused_by_name(
    status: int, code: str, header: str, model: Path, bucket: str, s3: Any, proxy: Proxy, older: None
) -> None:
    proxy.fault("PUT", without_conditions(status, code, header), times=-1)
    with pytest.raises(UserError, match=r"does the server not know If-None-Match\?.*a newer version"):
        publish(model, f"s3://{bucket}/new")
    assert keys(s3, bucket) == set()


def test_a_refusal_that_names_nothing_is_told_with_both_reasons(model: Path, bucket: str, proxy: Proxy) -> None:
    proxy.fault("PUT", without_conditions(501, "NotImplemented"), times=-1)
    with pytest.raises(UserError, match=r"If-None-Match\?.*unless it is not that.*when_required"):
        publish(model, f"s3://{bucket}/new")


def test_a_server_that_ignores_conditions_is_found_out(model: Path, bucket: str, s3: Any, proxy: Proxy) -> None:
    proxy.fault("PUT", ignore_conditions, times=-1)
    with pytest.raises(UserError, match="the server ignores If-None-Match"):
        publish(model, f"s3://{bucket}/new")
    assert keys(s3, bucket) == {"new/MANIFEST.claim"}


def test_a_server_that_heeds_conditions_is_not_suspected(model: Path, bucket: str, proxy: Proxy) -> None:
    publish(model, f"s3://{bucket}/new")
    assert proxy.count("PUT .*MANIFEST.claim") == 2


# Listings and names of contents


@pytest.mark.parametrize(
    "act", [first_version_only, refuse(501, "NotImplemented"), refuse(400, "InvalidArgument")], ids=["old", 501, 400]
)
def test_a_server_without_list_objects_v2_lists_all(
    act: Any, model: Path, bucket: str, s3: Any, proxy: Proxy, tmp_path: Path
) -> None:
    pinned = publish(model, f"s3://{bucket}/new")
    proxy.fault("GET .*list-type=2", act, times=-1)
    proxy.fault(r"GET /\w+\?.*prefix=", first_version_only, times=-1)
    assert contents(resolve(pinned, tmp_path / "cache")) == FILES
    assert set(stored_files(f"s3://{bucket}/new") or ()) == keys_below(s3, bucket)
    assert set(contents_by_hash(f"s3://{bucket}/new")) == keys_below(s3, bucket)


def test_a_server_that_may_not_be_listed_is_no_old_one(model: Path, bucket: str, proxy: Proxy) -> None:
    proxy.fault("GET .*list-type=2", refuse(403, "AccessDenied"), times=-1)
    with pytest.raises(UserError, match=r"AccessDenied.*lack this permission"):
        publish(model, f"s3://{bucket}/new")


def test_a_server_without_etags(model: Path, bucket: str, s3: Any, proxy: Proxy, tmp_path: Path) -> None:
    s3.put_object(Bucket=bucket, Key="base/config.json", Body=b"{}")
    proxy.fault("HEAD|GET .*base/", without("etag"), times=-1)
    found = resolve(f"s3://{bucket}/base", tmp_path / "cache")
    assert contents(found) == {"config.json": b"{}"}
    stored = stored_files(f"s3://{bucket}/base") or {}
    assert (stored["config.json"].size, stored["config.json"].name) == (2, None)
    proxy.fault("PUT", without("etag"), times=-1)
    with pytest.raises(UserError, match="the server's answer to an upload has no ETag"):
        publish(model, f"s3://{bucket}/new")


@pytest.mark.parametrize(("status", "code"), [(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")])
def test_a_bucket_of_another_region_is_told(status: int, code: str, bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    def elsewhere(forward: Forward) -> None:
        body = f"<Error><Code>{code}</Code><Message>elsewhere</Message><Region>eu-north-1</Region></Error>".encode()
        headers = [("Content-Length", str(len(body))), ("x-amz-bucket-region", "eu-north-1")]
        forward.reply(status, headers, body)

    proxy.fault("", elsewhere, times=-1)
    with pytest.raises(UserError, match=rf"{code}.*AWS_DEFAULT_REGION"):
        resolve(f"s3://{bucket}/base", tmp_path / "cache")


@pytest.mark.parametrize(("style", "host"), [("path", "{endpoint}/models/a"), ("virtual", "models.{endpoint}/a")])
def test_addresses_are_as_the_configuration_says(
    style: str, host: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(f"[default]\ns3 =\n  addressing_style = {style}\n", encoding="utf-8")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example:9000")
    url = client_of_bucket().generate_presigned_url("get_object", {"Bucket": "models", "Key": "a"})
    assert url.startswith(f"http://{host.format(endpoint='s3.example:9000')}")


def test_the_digest_is_that_of_the_folder(model: Path, bucket: str, proxy: Proxy, older: None) -> None:
    assert publish(model, f"s3://{bucket}/new").endswith(folder_digest(model))


# MLflow's own client, to the same server


@pytest.fixture
def in_bucket(bucket: str, tmp_path: Path) -> ReleaseSpec:
    """A release whose files MLflow's client writes to the bucket."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with connected(uri) as mlflow:
        mlflow.create_experiment("tokenbuncher", artifact_location=f"s3://{bucket}/tokenbuncher")
    return release_spec(tracking={"uri": uri, "model_name": "in-a-bucket"})


def test_a_release_is_registered_in_a_bucket_without_newer_checksums(
    in_bucket: ReleaseSpec, model: Path, proxy: Proxy, older: None, tmp_path: Path
) -> None:
    proxy.fault("", without_checksums(400, "InvalidArgument"), times=-1)
    registration = register(in_bucket, model, tmp_path / "out")
    assert registration.digest == folder_digest(model)
    assert all(file.stored for file in registration.files)


def test_a_server_that_refuses_checksums_is_told_of_a_registration_too(
    in_bucket: ReleaseSpec, model: Path, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.fault("PUT|POST", without_checksums(400, "InvalidArgument"), times=-1)
    with pytest.raises(UserError, match=r"InvalidArgument.*AWS_REQUEST_CHECKSUM_CALCULATION=when_required"):
        register(in_bucket, model, tmp_path / "out")


@pytest.mark.parametrize("code", ["301", "AuthorizationHeaderMalformed", "PermanentRedirect"])
def test_doctor_names_the_region(code: str, bucket: str, proxy: Proxy) -> None:
    def elsewhere(forward: Forward) -> None:
        body = f"<Error><Code>{code}</Code><Message>elsewhere</Message></Error>".encode()
        status = 400 if code.startswith("Auth") else 301
        forward.reply(status, [("Content-Length", str(len(body))), ("x-amz-bucket-region", "eu-north-1")], body)

    proxy.fault("", elsewhere, times=-1)
    told = str(*check_s3([bucket] if code == "301" else []))
    assert "AWS_DEFAULT_REGION" in told
