"""The guard's check itself: time, and large versions that are compared without being read."""

from dataclasses import replace
from datetime import timedelta

import pytest
import yaml

from tests.evidence_factory import NOW, passing_release, release_spec
from tests.guard.conftest import POLICY
from tokenbuncher.attestation import attestation_digest, generate_key, load_private_key, sign
from tokenbuncher.core.files import folder_digest, folder_files
from tokenbuncher.evidence import ModelFile, Registration
from tokenbuncher.guard import check_version, load_guard
from tokenbuncher.guard.check import OnRecord
from tokenbuncher.storage.artifacts import stored_files

NAME, VERSION = "large", "3"


@pytest.fixture
def bucket(s3):
    """A client of an S3 server with a versioned bucket, `models`."""
    s3.create_bucket(Bucket="models")
    s3.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    return s3


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    (folder / "tokenizer" / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture
def uploaded(bucket, model, request):
    """The model in the bucket; gives its URI."""
    for name in folder_files(model):
        bucket.upload_file(str(model / name), "models", f"{request.node.name}/{name}")
    return f"s3://models/{request.node.name}"


@pytest.fixture
def settings(tmp_path):
    generate_key(tmp_path / "release.pem")
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY.model_dump(mode="json")), encoding="utf-8")

    def load(**changes):
        protected = {"policy": "policy.yaml", "keys": ["release.pub"]}
        document = {"apiVersion": "tokenbuncher/v1", "aliases": {"champion": protected}} | changes
        (tmp_path / "guard.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        return load_guard(tmp_path / "guard.yaml")

    return load


@pytest.fixture
def attestation(model, tmp_path, settings):
    """Signs that the model passed, with what the store calls its files."""

    def make(uri=None):
        settings()
        stored = stored_files(uri) if uri else {}
        files = [
            ModelFile(
                name=name,
                sha256=digest,
                size=(model / name).stat().st_size,
                stored=stored[name].name if uri else None,
            )
            for name, digest in folder_files(model).items()
        ]
        spec = release_spec(tracking={"model_name": NAME})
        registration = Registration(
            name=NAME, version=VERSION, digest=folder_digest(model), files=files, tracking_uri="http://mlflow"
        )
        release = replace(passing_release(spec).about(registration.digest), registration=registration)
        signer = load_private_key(tmp_path / "release.pem")
        return sign(spec, release.evidence, registration, verdict=release.judge(), signer=signer)

    return make


def checked(settings, attestation, location, **changes):
    given = {"name": NAME, "version": VERSION, "now": NOW, "refused_at": None, "made": None} | changes
    return check_version(
        settings,
        settings.aliases["champion"],
        given["name"],
        version=given["version"],
        attestation=attestation,
        location=lambda: str(location),
        now=given["now"],
        record=OnRecord(given["refused_at"], given["made"]),
    )


def test_a_local_version_is_hashed(settings, attestation, model):
    signed = attestation()
    assert checked(settings(), signed, model) == []
    (model / "model.safetensors").write_bytes(b"other")
    assert "file model.safetensors has sha256" in checked(settings(), signed, model)[0]


@pytest.mark.parametrize(
    ("changes", "telling"),
    [
        ({"now": NOW + timedelta(days=91)}, "it expired at"),
        ({"now": NOW - timedelta(days=1)}, "in the future"),
        ({"version": "4"}, "it is about version 3, not 4"),
        ({"name": "small"}, "it is about model large, not small"),
    ],
)
def test_an_attestation_about_another_time_version_or_model(changes, telling, settings, attestation, model):
    assert telling in checked(settings(), attestation(), model, **changes)[0]


def test_a_revoked_attestation(settings, attestation, model):
    signed = attestation()
    digest = attestation_digest(signed)
    assert checked(settings(revoked_attestations=["0" * 64]), signed, model) == []
    assert checked(settings(revoked_attestations=[digest]), signed, model) == [f"attestation {digest[:12]} is revoked"]


@pytest.mark.parametrize(
    ("times", "telling"),
    [
        ({NAME: NOW}, None),
        ({"small": NOW + timedelta(days=1)}, None),
        ({NAME: NOW + timedelta(days=1)}, f"of {NAME} nothing counts that was made before"),
    ],
)
def test_a_not_before(times, telling, settings, attestation, model):
    signed = attestation()
    not_before = {name: time.isoformat() for name, time in times.items()}
    found = checked(settings(not_before=not_before), signed, model)
    assert (telling in found[0]) if telling else found == []


def test_a_refusal_on_record(settings, attestation, model):
    signed, guard = attestation(), settings()
    assert checked(guard, signed, model, refused_at=(NOW - timedelta(hours=1)).isoformat()) == []
    for record, telling in {NOW.isoformat(): "refused the version", "?": "cannot be read"}.items():
        assert telling in checked(guard, signed, model, refused_at=record)[0]


def test_a_version_that_was_made_again(settings, attestation, model):
    """Its number, its name and its files are the same, but not what the registry knew of the one before."""
    signed, guard = attestation(), settings()
    assert checked(guard, signed, model, made=NOW - timedelta(hours=1)) == []
    assert checked(guard, signed, model, made=NOW + timedelta(minutes=4)) == []  # clocks differ
    assert "before the version was" in checked(guard, signed, model, made=NOW + timedelta(minutes=6))[0]


def test_no_attestation(settings, model):
    assert checked(settings(), None, model) == [f"{NAME} version {VERSION} has no attestation; promote it with one"]


def test_a_small_version_in_a_bucket_is_hashed(settings, attestation, uploaded):
    assert checked(settings(), attestation(uploaded), uploaded) == []


def test_a_large_version_is_compared_by_size_and_stored_name(settings, attestation, uploaded, bucket, model, request):
    large = settings(hash_below_mb=0)
    signed = attestation(uploaded)
    assert checked(large, signed, uploaded) == []
    # The very same bytes, written again, are another object: somebody has touched it since the gate.
    bucket.upload_file(str(model / "model.safetensors"), "models", f"{request.node.name}/model.safetensors")
    assert "file model.safetensors was written again" in checked(large, signed, uploaded)[0]
    assert checked(settings(), signed, uploaded) == []  # read in full, they are the judged ones


@pytest.mark.parametrize("hash_below_mb", [0, 4096])
def test_changed_added_and_removed_files_in_a_bucket(hash_below_mb, settings, attestation, uploaded, bucket, request):
    guard, signed = settings(hash_below_mb=hash_below_mb), attestation(uploaded)
    prefix = uploaded.removeprefix("s3://models/")
    bucket.put_object(Bucket="models", Key=f"{prefix}/model.safetensors", Body=b"x" * 2048)
    bucket.put_object(Bucket="models", Key=f"{prefix}/modeling.py", Body=b"import os")
    bucket.delete_object(Bucket="models", Key=f"{prefix}/tokenizer/tokenizer.json")
    problems = " ".join(checked(guard, signed, uploaded))
    assert "file tokenizer/tokenizer.json is missing" in problems
    assert "file modeling.py was not judged" in problems
    assert "file model.safetensors" in problems


def test_a_large_version_without_stored_names_is_hashed(settings, attestation, uploaded, bucket):
    guard, signed = settings(hash_below_mb=0), attestation()
    assert checked(guard, signed, uploaded) == []
    bucket.put_object(
        Bucket="models", Key=uploaded.removeprefix("s3://models/") + "/model.safetensors", Body=b"x" * 2048
    )
    assert "file model.safetensors has sha256" in checked(guard, signed, uploaded)[0]


def test_a_store_that_is_gone(settings, attestation, uploaded):
    signed = attestation(uploaded)
    problems = checked(settings(), signed, "s3://no-such-bucket/model")
    assert "cannot be read" in problems[0]
