"""A guarded server that keeps its artifacts in a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import RestException

from tests.guard.conftest import Guarded, mlflow_server
from tests.guard.test_store import Attested, assert_denied, put_on_record


@pytest.fixture(scope="module")
def guarded(
    s3_client: Any, s3_settings: dict[str, str], guard_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    """Its database is sqlite: that has no part in this."""
    s3_client.create_bucket(Bucket="guarded")
    folder = tmp_path_factory.mktemp("guarded-s3")
    database = f"sqlite:///{folder / 'db'}"
    settings = guard_folder / "guard.yaml"
    with mlflow_server(database, "s3://guarded/mlflow", settings, folder / "log", **s3_settings) as uri:
        yield Guarded(uri, guard_folder, folder / "artifacts", folds=False)


def key_of_weights(s3: Any, run: str) -> str:
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="guarded")["Contents"]]
    return next(key for key in keys if run in key and key.endswith("model.safetensors"))


def test_promote_moves_the_alias(attested: Attested) -> None:
    registered = attested()
    registered.promote()
    assert registered.champion == registered.release.registration.version


def test_other_weights_under_the_same_key(s3: Any, guarded: Guarded, attested: Attested) -> None:
    registered = attested()
    name, version = put_on_record(registered)
    s3.put_object(Bucket="guarded", Key=key_of_weights(s3, registered.version.run_id), Body=b"other weights")
    assert_denied(guarded, name, version, "file model.safetensors has sha256")


def test_an_object_beside_the_judged_ones(s3: Any, guarded: Guarded, attested: Attested) -> None:
    registered = attested()
    name, version = put_on_record(registered)
    key = key_of_weights(s3, registered.version.run_id)
    s3.put_object(Bucket="guarded", Key=key.replace("model.safetensors", "modeling.py"), Body=b"import os")
    assert_denied(guarded, name, version, "file modeling.py was not judged")


def test_the_same_bucket_by_its_own_name_unless_it_is_trusted(s3: Any, guarded: Guarded, attested: Attested) -> None:
    """Whoever may write there may do so after the move."""
    registered = attested()
    name, _ = put_on_record(registered)
    key = key_of_weights(s3, registered.version.run_id).removesuffix("/model.safetensors")
    guarded.client.delete_registered_model(name)
    guarded.client.create_registered_model(name)
    version = guarded.client.create_model_version(name, f"s3://guarded/{key}").version
    put_on_record(registered)
    assert_denied(guarded, name, str(version), "lie outside of the server's artifact root")
    with guarded.changed(artifact_roots=["s3://guarded/mlflow"]):
        guarded.client.set_registered_model_alias(name, "champion", str(version))


def test_a_bucket_that_cannot_be_read_is_not_described(s3: Any, guarded: Guarded, attested: Attested) -> None:
    registered = attested()
    name, _ = put_on_record(registered)
    guarded.client.delete_registered_model(name)
    guarded.client.create_registered_model(name)
    version = guarded.client.create_model_version(name, "s3://no-such-bucket/model").version
    put_on_record(registered)
    with (
        guarded.changed(artifact_roots=["s3://no-such-bucket"]),
        pytest.raises(RestException, match="see the server's log") as refusal,
    ):
        guarded.client.set_registered_model_alias(name, "champion", str(version))
    assert "no-such-bucket" not in str(refusal.value)
