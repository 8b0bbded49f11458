import pytest
import yaml

from tests.guard.conftest import POLICY
from tokenbuncher.attestation import generate_key, load_public_key
from tokenbuncher.errors import UserError
from tokenbuncher.guard import load_guard
from tokenbuncher.guard.settings import trusted_keys

PROTECTED = {"policy": "policy.yaml", "keys": ["release.pub"]}


@pytest.fixture
def write(tmp_path):
    generate_key(tmp_path / "release.pem")
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY.model_dump(mode="json")))

    def write(**settings):
        document = {"apiVersion": "tokenbuncher/v1", "aliases": {"champion": PROTECTED}} | settings
        (tmp_path / "guard.yaml").write_text(yaml.safe_dump(document))
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


def test_missing(tmp_path):
    with pytest.raises(UserError, match="cannot read guard settings"):
        load_guard(tmp_path / "guard.yaml")
