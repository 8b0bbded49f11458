"""Model versions of a real MLflow server."""

import hashlib

import pytest

from tests.storage.model_files import FILES, contents, nothing_in
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest
from tokenbuncher.storage import resolve


@pytest.fixture
def registered(mlflow_server, monkeypatch, model, request):
    """Registers the model with a server that stores the files itself; gives its name."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    client = MlflowClient(mlflow_server, mlflow_server)
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    run = client.create_run("0")
    client.log_artifacts(run.info.run_id, str(model), "model")
    client.create_registered_model(name)
    client.create_model_version(name, source=f"runs:/{run.info.run_id}/model", run_id=run.info.run_id)
    client.set_registered_model_alias(name, "champion", "1")
    client.run_id = run.info.run_id
    client.name = name
    return client


def test_a_registered_version(registered, model, cache):
    uri = f"models:/{registered.name}"
    folder = resolve(f"{uri}/1#sha256={folder_digest(model)}", cache)
    assert contents(folder) == FILES
    assert resolve(f"{uri}@champion", cache) == folder
    with pytest.raises(UserError, match="no version with alias nosuch"):
        resolve(f"{uri}@nosuch", cache)
    with pytest.raises(UserError, match="MLflow failed"):
        resolve(f"{uri}/2", cache)
    with pytest.raises(UserError, match="MLflow failed"):
        resolve("models:/nosuch@champion", cache)


def test_a_registered_pickle_is_refused(registered, cache, tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"x")
    registered.log_artifact(registered.run_id, str(tmp_path / "model.pkl"), "model/sub")
    with pytest.raises(UserError, match=r"sub/model.pkl may hold code or a pickle"):
        resolve(f"models:/{registered.name}/1", cache)
    assert nothing_in(cache)


def test_a_registered_version_in_a_bucket(registered, uploaded, proxy, cache):
    registered.create_model_version(registered.name, source=uploaded)
    assert contents(resolve(f"models:/{registered.name}/2", cache)) == FILES
    assert proxy.count("GET .*model.safetensors") == 3


def test_a_version_in_the_embedded_registry(model, cache, tmp_path, monkeypatch):
    from tokenbuncher.storage.tracking import connected

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with connected(uri) as client:
        run = client.create_run("0").info
        client.log_artifacts(run.run_id, str(model), "model")
        client.create_registered_model("small")
        client.create_model_version("small", source=f"runs:/{run.run_id}/model", run_id=run.run_id)
    assert contents(resolve(f"models:/small/1#sha256={folder_digest(model)}", cache)) == FILES
    assert nothing_in(cache)


def test_a_registry_that_is_nowhere_or_down(monkeypatch, cache):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="Set MLFLOW_TRACKING_URI"):
        resolve("models:/large/1", cache)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="MLflow failed"):
        resolve("models:/large/1", cache)
