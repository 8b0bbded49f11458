"""What stores say of their files: S3 over HTTP, and local folders."""

import hashlib
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from tokenbuncher.core.errors import UserError
from tokenbuncher.storage.artifacts import inside, located, stored_files, version_location
from tokenbuncher.storage.s3 import Stored

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


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "model",
        "./model",
        "/",
        "/a/../b",
        "/a/./b",
        "/a//b",
        "/a/b/",
        "/a/%2e%2e/b",
        "/a\\..\\b",
        "/a;b",
        "file:model",
        "file://host/a",
        "file:////a",
        "file:///a/../b",
        "file:///a/%2e%2e/b",
        "file:///a%2fb",
        "file:///a%252fb",
        "file:///a/%5cb",
        "file:///a b",
        "FILE:///a",
        "mlflow-artifacts:",
        "mlflow-artifacts:1/model",
        "mlflow-artifacts:/",
        "mlflow-artifacts://host/1/model",
        "mlflow-artifacts:/1/../2",
        "mlflow-artifacts:/1/%2e%2e/2",
        "mlflow-artifacts:/1//model",
        "mlflow-artifacts:/1/model?a=b",
        "mlflow-artifacts:/1/model#a",
        "mlflow-artifacts:/api/2.0/mlflow-artifacts/artifacts/1/model",
        "http://127.0.0.1:5000/api/2.0/mlflow-artifacts/artifacts/1/model",
        "https://example.org/model",
        "s3:///key",
        "s3://user:word@bucket/key",
        "s3://bucket",
        "s3://bucket/a/../b",
        "s3://bucket/a//b",
        "s3://bucket/a%2fb",
        "s3://bucket/a\n",
        " s3://bucket/a",
        "S3://bucket/a",
        "ftp://host/a",
        "dbfs:/a",
        "models:/name/1",
        "models:/name@champion",
        "models:/m-1",
        "runs:/",
        "runs:/1//absolute/path",
        "runs:/1/a/../b",
        "runs:/1/%2e%2e/b",
        "runs:/1/a\\b",
        "runs:/1/a?b",
        "runs:/1/a#b",
        "runs:/1/a/",
        "runs://profile@databricks/1/a",
        "Runs:/1/a",
        None,
    ],
)
def test_a_source_with_two_readings_is_refused_before_anybody_is_asked(uri):
    with pytest.raises(UserError, match="its source"):
        version_location(None, uri, uri)


@pytest.mark.parametrize(
    "uri",
    [
        "/srv/my models/1",
        "file:///srv/my%20models/1",
        "file:/srv/1",
        "s3://bucket/1/model",
        "gs://bucket/1/model",
        "wasbs://container@account.blob.core.windows.net/1/model",
        "mlflow-artifacts:/1/2/artifacts/model",
    ],
)
def test_a_source_with_one_reading_is_where_the_files_are(uri):
    assert version_location(None, uri, uri) == uri


@pytest.mark.parametrize(
    ("location", "root", "within"),
    [
        ("s3://bucket/a/model", "s3://bucket/a", True),
        ("s3://bucket/a/model", "s3://bucket/a/", True),
        ("s3://bucket/a/model", "s3://bucket", True),
        ("s3://bucket/ab/model", "s3://bucket/a", False),
        ("s3://bucket/a", "s3://bucket/a", False),
        ("s3://other/a/model", "s3://bucket/a", False),
        ("gs://bucket/a/model", "s3://bucket/a", False),
        ("mlflow-artifacts:/1/model", "mlflow-artifacts:/", True),
        ("/srv/a/model", "file:///srv/a", True),
        ("file:///srv/a/model", "/srv/a", True),
        ("/srv/ab/model", "/srv/a", False),
        ("/srv/a", "/srv/a", False),
        ("/srv/a/model", "s3://srv/a", False),
    ],
)
def test_inside_a_root(location, root, within):
    assert inside(location, [root]) is within


def test_a_link_does_not_lead_out_of_a_root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere" / "model").mkdir(parents=True)
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    assert not inside(str(tmp_path / "root" / "link" / "model"), [str(tmp_path / "root")])


@pytest.fixture
def mlflow(mlflow_server):
    return MlflowClient(mlflow_server, mlflow_server)


@pytest.fixture
def version(mlflow, tmp_path, request):
    """Makes a version from a source, in which {run} and {uri} stand for its run; gives version and run."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("judged", encoding="utf-8")
    name = request.node.name.replace("/", " ").replace(":", " ")
    mlflow.create_registered_model(name)
    run = mlflow.create_run("0").info
    mlflow.log_artifacts(run.run_id, str(tmp_path / "model"), "model")

    def make(source):
        given = source.format(run=run.run_id, uri=run.artifact_uri)
        return mlflow.create_model_version(name, given, run.run_id), run

    return make


@pytest.mark.parametrize("source", ["runs:/{run}/model", "{uri}/model"])
def test_a_version_is_where_its_run_keeps_it(source, mlflow, version):
    made, run = version(source)
    assert located(mlflow, made.name, made.version) == f"{run.artifact_uri}/model"


def overlay(mlflow, run, folder, name="model"):
    """A logged model that MLflow's client lays over the run's own files."""
    model = mlflow.create_logged_model(run.experiment_id, name=name, source_run_id=run.run_id)
    (folder / "weights").write_text("others", encoding="utf-8")
    mlflow.log_model_artifacts(model.model_id, str(folder))
    mlflow.finalize_logged_model(model.model_id, "READY")
    return model


def downloaded(mlflow, uri, folder):
    """What MLflow's client gets, by relative path."""
    folder = folder / "got"
    at = {"tracking_uri": mlflow.tracking_uri, "registry_uri": mlflow.tracking_uri}
    got = Path(download_artifacts(uri, dst_path=str(folder), **at))
    return {
        path.relative_to(got).as_posix(): path.read_text(encoding="utf-8") for path in got.rglob("*") if path.is_file()
    }


def test_a_logged_model_laid_over_the_run_is_refused(mlflow, version, tmp_path):
    made, run = version("runs:/{run}/model")
    overlay(mlflow, run, tmp_path / "model")
    assert downloaded(mlflow, made.source, tmp_path) == {"weights": "others"}
    with pytest.raises(UserError, match="lays over the files"):
        located(mlflow, made.name, made.version)


def test_nothing_is_laid_over_the_run_s_own_address(mlflow, version, tmp_path):
    made, run = version("{uri}/model")
    overlay(mlflow, run, tmp_path / "model")
    assert downloaded(mlflow, made.source, tmp_path) == {"weights": "judged"}
    assert located(mlflow, made.name, made.version) == f"{run.artifact_uri}/model"


def test_a_logged_model_is_where_it_keeps_its_files(mlflow, version, tmp_path):
    made, run = version("{uri}/model")
    model = overlay(mlflow, run, tmp_path / "model", name="another")
    assert version_location(mlflow, f"models:/{model.model_id}", model.artifact_location) == model.artifact_location
    with pytest.raises(UserError, match="differ"):
        version_location(mlflow, f"models:/{model.model_id}", f"{run.artifact_uri}/model")
    with pytest.raises(UserError, match="differ"):
        version_location(mlflow, f"models:/{made.name}/{made.version}", f"{run.artifact_uri}/model")


def test_a_run_whose_files_lie_where_programs_differ_is_refused(mlflow):
    experiment = mlflow.create_experiment("elsewhere", artifact_location="s3://bucket/a//b")
    run = mlflow.create_run(experiment).info.run_id
    with pytest.raises(UserError, match="the place of its run's files has empty parts"):
        version_location(mlflow, f"runs:/{run}/model", f"runs:/{run}/model")
