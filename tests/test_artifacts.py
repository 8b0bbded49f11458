"""What stores say of their files: S3 over HTTP, and local folders."""

import hashlib

import pytest

from tokenbuncher.artifacts import Stored, stored_files
from tokenbuncher.errors import UserError

FILES = {"model.safetensors": bytes(range(256)), "tokenizer/tokenizer.json": b"{}", "with space & é.txt": b""}


@pytest.fixture
def fill(s3, request):
    """Makes a bucket with the files under a prefix; gives its name."""

    def fill(versioned):
        bucket = hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
        s3.create_bucket(Bucket=bucket)
        if versioned:
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        for name, content in FILES.items():
            s3.put_object(Bucket=bucket, Key=f"runs/1/model/{name}", Body=content)
        s3.put_object(Bucket=bucket, Key="runs/1/model-of-another/config.json", Body=b"{}")
        return bucket

    return fill


def etag(content):
    return f'"{hashlib.md5(content).hexdigest()}"'


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_versioned_bucket_names_content_by_etag_and_version(s3, fill, slash):
    bucket = fill(versioned=True)
    stored = stored_files(f"s3://{bucket}/runs/1/model{slash}")
    assert {name: file.size for name, file in stored.items()} == {name: len(FILES[name]) for name in FILES}
    for name, file in stored.items():
        version = s3.head_object(Bucket=bucket, Key=f"runs/1/model/{name}")["VersionId"]
        assert file.name == f"{etag(FILES[name])} {version}"


def test_the_same_bytes_written_again_have_another_name(s3, fill):
    bucket = fill(versioned=True)
    before = stored_files(f"s3://{bucket}/runs/1/model")
    s3.put_object(Bucket=bucket, Key="runs/1/model/model.safetensors", Body=FILES["model.safetensors"])
    after = stored_files(f"s3://{bucket}/runs/1/model")
    assert {name for name in FILES if before[name] != after[name]} == {"model.safetensors"}


def test_a_deleted_file_is_gone(s3, fill):
    bucket = fill(versioned=True)
    s3.delete_object(Bucket=bucket, Key="runs/1/model/model.safetensors")
    assert set(stored_files(f"s3://{bucket}/runs/1/model")) == set(FILES) - {"model.safetensors"}


def test_a_bucket_without_versions_names_content_by_etag(fill):
    stored = stored_files(f"s3://{fill(versioned=False)}/runs/1/model")
    assert {name: file.name for name, file in stored.items()} == {name: etag(FILES[name]) for name in FILES}


def test_nothing_below_a_prefix_is_no_file(fill):
    assert stored_files(f"s3://{fill(versioned=False)}/runs/2") == {}


def test_a_missing_bucket_is_the_users_error(s3):
    with pytest.raises(UserError, match=r"s3://nosuch/model/ cannot be read: .*NoSuchBucket"):
        stored_files("s3://nosuch/model")


def test_a_store_that_does_not_answer_is_the_users_error(monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UserError, match="s3://models/1/ cannot be read: Could not connect"):
        stored_files("s3://models/1")


@pytest.mark.parametrize("form", [str, lambda folder: folder.as_uri()], ids=["path", "file-uri"])
def test_a_local_folder_tells_sizes_alone(tmp_path, form):
    folder = tmp_path / "a folder"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    assert stored_files(form(folder)) == {name: Stored(len(content), None) for name, content in FILES.items()}


@pytest.mark.parametrize("uri", ["mlflow-artifacts:/1/model", "runs:/1/model", "https://example.org/model", "gs://b/m"])
def test_a_store_that_cannot_be_asked_says_nothing(uri):
    assert stored_files(uri) is None
