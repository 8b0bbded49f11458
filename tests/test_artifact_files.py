"""Files as they are read from stores: local folders, S3 over HTTP, and MLflow's own server."""

import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tokenbuncher.core.errors import UserError
from tokenbuncher.storage.artifact_files import files_at

FILES = {"model.safetensors": bytes(range(256)) * 4096 * 3, "tokenizer/tokenizer.json": b"{}", "empty": b""}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    return tmp_path / "model"


@pytest.fixture(params=["local", "file:", "s3", "served"])
def files(request, folder, s3, mlflow_server):
    """The files in each kind of store."""
    if request.param == "served":
        mlflow = MlflowClient(mlflow_server, mlflow_server)
        run = mlflow.create_run("0").info
        mlflow.log_artifacts(run.run_id, str(folder), "model")
        return files_at(f"{run.artifact_uri}/model", mlflow_server)
    if request.param == "s3":
        bucket = hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
        s3.create_bucket(Bucket=bucket)
        for name, content in FILES.items():
            s3.put_object(Bucket=bucket, Key=f"1/model/{name}", Body=content)
        s3.put_object(Bucket=bucket, Key="1/model-of-another/x", Body=b"")
        return files_at(f"s3://{bucket}/1/model")
    return files_at(folder.as_uri() if request.param == "file:" else str(folder))


def test_names_and_sizes(files):
    assert files.sizes(3) == {name: len(content) for name, content in FILES.items()}


def test_no_more_names_than_are_asked_for(files):
    with pytest.raises(UserError, match="more than 2 files"):
        files.sizes(2)


@pytest.mark.parametrize("name", FILES)
def test_content_is_hashed_to_its_end(files, name):
    assert files.digest(name, len(FILES[name])) == hashlib.sha256(FILES[name]).hexdigest()


def test_no_more_bytes_are_read_than_are_asked_for(files):
    with pytest.raises(UserError, match="more than the 1048577 bytes"):
        files.digest("model.safetensors", 1024 * 1024 + 1)


def test_local_and_s3_files_are_not_copied(files, request, monkeypatch):
    if "served" in request.node.name:
        pytest.skip("MLflow's own code copies what its server keeps")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert files.digest("model.safetensors", len(FILES["model.safetensors"]))


def test_what_mlflow_copies_is_one_file_at_a_time_and_gone_afterwards(folder, mlflow_server, tmp_path, monkeypatch):
    mlflow = MlflowClient(mlflow_server, mlflow_server)
    run = mlflow.create_run("0").info
    mlflow.log_artifacts(run.run_id, str(folder), "model")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    files = files_at(f"{run.artifact_uri}/model", mlflow_server)
    for name in files.sizes(3):
        with files.opened(name):
            kept = [path.name for path in (tmp_path / "scratch").rglob("*") if path.is_file()]
        assert kept == [Path(name).name]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_nothing_there(tmp_path):
    assert files_at(str(tmp_path / "nowhere")).sizes(1) == {}


@pytest.mark.parametrize("target", ["model.safetensors", "tokenizer", "/etc/hostname", "/dev/zero", "nowhere"])
def test_a_link_is_no_plain_file_wherever_it_leads(target, folder):
    (folder / "link").symlink_to(target)
    with pytest.raises(UserError, match="file link is a link, a device or a pipe"):
        files_at(str(folder)).sizes(10)


def test_a_pipe_is_no_plain_file(folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(UserError, match="file pipe is a link, a device or a pipe"):
        files_at(str(folder)).sizes(10)


def test_a_file_exchanged_for_a_link_or_a_pipe_after_the_listing_is_not_read(folder):
    files = files_at(str(folder))
    (folder / "empty").unlink()
    os.mkfifo(folder / "empty")
    with pytest.raises(UserError, match="file empty is a link, a device or a pipe"):
        files.digest("empty", 1)
    (folder / "empty").unlink()
    (folder / "empty").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="cannot be read"):
        files.digest("empty", 1)
