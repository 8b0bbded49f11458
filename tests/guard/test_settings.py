import pytest
import yaml

from tests.guard.conftest import POLICY
from tokenbuncher.attestation import generate_key, load_public_key
from tokenbuncher.core.errors import UserError
from tokenbuncher.guard import load_guard
from tokenbuncher.guard.settings import trusted_keys

PROTECTED = {"policy": "policy.yaml", "keys": ["release.pub"]}


@pytest.fixture
def write(tmp_path):
    generate_key(tmp_path / "release.pem")
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY.model_dump(mode="json")), encoding="utf-8")

    def write(**settings):
        document = {"apiVersion": "tokenbuncher/v1", "aliases": {"champion": PROTECTED}} | settings
        (tmp_path / "guard.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        return tmp_path / "guard.yaml"

    return write


def test_paths_count_from_the_document_s_folder(write, monkeypatch, tmp_path):
    path = write()
    monkeypatch.chdir("/")
    protected = load_guard(path).aliases["champion"]
    assert (protected.policy, protected.keys) == (tmp_path / "policy.yaml", [tmp_path / "release.pub"])


def test_a_revoked_key_is_not_trusted(write, tmp_path):
    key = load_public_key(tmp_path / "release.pub")
    settings = load_guard(write())
    assert [k.keyid for k in trusted_keys(settings, settings.aliases["champion"])] == [key.keyid]
    settings = load_guard(write(revoked=[key.keyid]))
    assert trusted_keys(settings, settings.aliases["champion"]) == []


@pytest.mark.parametrize(
    ("settings", "telling"),
    [
        ({"apiVersion": "tokenbuncher/v2"}, "apiVersion"),
        ({"aliases": {}}, "neither aliases nor stages"),
        ({"aliases": {"champion": {"policy": "policy.yaml", "keys": []}}}, "aliases.champion.keys"),
        ({"aliases": {"champion": {**PROTECTED, "policy": "none.yaml"}}}, "cannot read policy"),
        ({"aliases": {"champion": {**PROTECTED, "keys": ["none.pub"]}}}, "cannot read key"),
        ({"aliases": {"champion": {**PROTECTED, "keys": ["policy.yaml"]}}}, "is not a public key"),
        ({"aliases": {"champion": {**PROTECTED, "user": "me"}}}, "unknown field"),
        ({"stages": {"Archived": PROTECTED}}, "stages.Archived"),
        ({"revoked": ["all"]}, "revoked.0"),
        ({"revoked_attestations": ["all"]}, "revoked_attestations.0"),
        ({"revoked_attestations": ["A" * 64]}, "revoked_attestations.0"),
        ({"not_before": {"organism": "2026-11-29T12:00:00"}}, "not_before.organism"),
        ({"not_before": {"organism": "soon"}}, "not_before.organism"),
        ({"not_before": "2026-11-29T12:00:00Z"}, "not_before"),
        ({"hash_below_mb": -1}, "hash_below_mb"),
        ({"max_files": 0}, "max_files"),
        ({"max_mb": 0}, "max_mb"),
        ({"max_checks": 0}, "max_checks"),
        ({"artifact_roots": ["/"]}, "all of this machine"),
        ({"artifact_roots": ["s3://"]}, "names no bucket"),
        ({"artifact_roots": ["s3://models/../others"]}, "dots"),
        ({"artifact_roots": ["https://example.org/models"]}, "another server's files"),
        ({"artifact_roots": ["runs:/1"]}, "no place of files"),
        ({"artifact_roots": ["ftp:/models"]}, "not supported"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(settings, telling, write):
    with pytest.raises(UserError) as error:
        load_guard(write(**settings))
    assert telling in str(error.value)


def test_an_alias_is_protected_in_any_case_of_letters(write):
    settings = load_guard(write())
    assert settings.protected("Champion") == settings.protected("champion") == settings.aliases["champion"]
    assert settings.protected("challenger") is None


@pytest.mark.parametrize(
    "alias",
    ["", " ", "champion ", " champion", "champion\n", "a b", "a.b", "a/b", "a" * 256, "latest", "Latest", "v1", "V12"],
)
def test_an_alias_that_mlflow_does_not_take_cannot_be_protected(alias, write):
    with pytest.raises(UserError, match="aliases"):
        load_guard(write(aliases={alias: PROTECTED}))


@pytest.mark.parametrize("other", ["Champion", "chámpion", "CHAMPION"])
def test_an_alias_is_protected_once(other, write):
    with pytest.raises(UserError, match="champion is written in two ways"):
        load_guard(write(aliases={"champion": PROTECTED, other: PROTECTED}))


def test_artifact_roots_count_from_the_document_s_folder_or_are_buckets(write, tmp_path):
    settings = load_guard(write(artifact_roots=["models", "/srv/models/", "file:///srv/more", "s3://models/"]))
    assert settings.artifact_roots == [str(tmp_path / "models"), "/srv/models", "file:///srv/more", "s3://models"]


def test_missing(tmp_path):
    with pytest.raises(UserError, match="cannot read guard settings"):
        load_guard(tmp_path / "guard.yaml")
