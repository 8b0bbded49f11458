"""Verifying a registered version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.registry.conftest import Registered
from tokenbuncher.attestation import generate_key, load_private_key, load_public_key
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest
from tokenbuncher.registry import verify_version
from tokenbuncher.settings import ReleaseSpec

Enter = Callable[..., Registered]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    generate_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


@pytest.fixture
def attested(enter: Enter, spec: ReleaseSpec, key: Path) -> str:
    """The name of a model whose version 1 is attested and has the alias."""
    enter(spec, signer=load_private_key(key)).promote()
    return spec.tracking.model_name


@pytest.mark.parametrize("which", ["/1", "@champion"])
def test_the_files_that_were_verified_are_put_where_they_are_wanted(
    which: str, attested: str, key: Path, spec: ReleaseSpec, candidate: Path, tmp_path: Path
) -> None:
    out = tmp_path / "served" / "model"
    trusted = [load_public_key(key.with_suffix(".pub"))]
    statement, problems = verify_version(f"models:/{attested}{which}", trusted, spec.tracking_uri(), out=out)
    assert (statement.predicate.model, statement.predicate.version, problems) == (attested, "1", [])
    assert folder_digest(out) == folder_digest(candidate)
    assert list(out.parent.iterdir()) == [out]


def test_files_that_are_not_the_judged_ones_are_put_nowhere(
    attested: str, key: Path, spec: ReleaseSpec, tmp_path: Path
) -> None:
    client = MlflowClient(spec.tracking_uri(), spec.tracking_uri())
    client.log_text(client.get_model_version(attested, "1").run_id, "more", "model/added")
    trusted = [load_public_key(key.with_suffix(".pub"))]
    out = tmp_path / "model"
    _, problems = verify_version(f"models:/{attested}@champion", trusted, spec.tracking_uri(), out=out)
    assert problems == ["file added was not judged"]
    assert not out.exists()


def test_a_policy_that_it_was_not_judged_by(attested: str, key: Path, spec: ReleaseSpec) -> None:
    trusted = [load_public_key(key.with_suffix(".pub"))]
    _, problems = verify_version(f"models:/{attested}/1", trusted, spec.tracking_uri(), policy="0" * 64)
    assert problems == [f"it was judged by policy {spec.policy_digest()[:12]}, not 000000000000"]


@pytest.mark.parametrize(
    ("uri", "telling"),
    [
        ("models:/{name}", "is neither models:/NAME/VERSION nor models:/NAME@alias"),
        ("models:/{name}@best", "has no version with alias best"),
        ("models:/{name}/1", "has no attestation"),
        ("models:/{name}/9", "MLflow failed"),
    ],
)
def test_what_is_not_attested(uri: str, telling: str, enter: Enter, spec: ReleaseSpec) -> None:
    enter(spec)
    with pytest.raises(UserError, match=telling):
        verify_version(uri.format(name=spec.tracking.model_name), [], spec.tracking_uri())


def test_where_the_registry_is_must_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="Give --tracking-uri"):
        verify_version("models:/organism@champion", [], None)
