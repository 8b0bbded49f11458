"""Key files: made once, read strictly."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tokenbuncher.attestation import (
    PASSPHRASE,
    SIGNING_KEY,
    generate_key,
    load_private_key,
    load_public_key,
    signing_key,
)
from tokenbuncher.core.errors import UserError


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv(SIGNING_KEY, raising=False)
    monkeypatch.delenv(PASSPHRASE, raising=False)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_pair_fits_and_only_its_owner_reads_the_private_key(tmp_path):
    private = tmp_path / "keys" / "release.pem"
    public = generate_key(private)
    assert public == tmp_path / "keys" / "release.pub"
    assert load_public_key(public) == load_private_key(private).public_key
    assert (mode(private), mode(public) & 0o600) == (0o600, 0o600)
    assert b"PRIVATE" not in public.read_bytes()


def test_every_pair_is_another(tmp_path):
    one, other = (load_public_key(generate_key(tmp_path / name)) for name in ("one.pem", "other.pem"))
    assert one.keyid != other.keyid


@pytest.mark.parametrize("existing", ["release.pem", "release.pub"])
def test_a_key_is_never_overwritten_and_no_half_pair_is_left(tmp_path, existing):
    (tmp_path / existing).write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{existing} exists; a key is never overwritten"):
        generate_key(tmp_path / "release.pem")
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["release.pub", "."])
def test_a_private_key_needs_a_name_of_its_own(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no name for a private key"):
        generate_key(Path(name))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told():
    with pytest.raises(UserError, match="cannot write key /proc"):
        generate_key(Path("/proc/release.pem"))


def test_a_passphrase_locks_the_private_key(tmp_path, monkeypatch):
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    public = generate_key(tmp_path / "release.pem")
    assert b"ENCRYPTED" in (tmp_path / "release.pem").read_bytes()
    assert load_private_key(tmp_path / "release.pem").public_key == load_public_key(public)
    for wrong in ("battery staple", ""):
        monkeypatch.setenv(PASSPHRASE, wrong)
        with pytest.raises(UserError, match=rf"release\.pem is not a private key that can be read.*{PASSPHRASE}"):
            load_private_key(tmp_path / "release.pem")


def pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


OTHERS = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "p-384": ec.generate_private_key(ec.SECP384R1()),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_key_of_another_kind_is_refused(tmp_path, kind):
    (tmp_path / "key").write_bytes(pem(OTHERS[kind]))
    (tmp_path / "key.pub").write_bytes(public_pem(OTHERS[kind]))
    for load, name in ((load_private_key, "key"), (load_public_key, "key.pub")):
        with pytest.raises(UserError, match="is not an ECDSA P-256 key; make one with `tokenbuncher keygen`"):
            load(tmp_path / name)


# On sect163k1, a curve that `cryptography` does not know.
UNKNOWN_CURVE = """-----BEGIN PUBLIC KEY-----
MEAwEAYHKoZIzj0CAQYFK4EEAAEDLAAEAj2I/PmmC2p9Jsz+CGrrfGv+qe1cAdD7
4h1flltkMo5cTEhDpVRkVXY2
-----END PUBLIC KEY-----
"""


def test_a_key_on_an_unknown_curve_is_refused(tmp_path):
    (tmp_path / "key.pub").write_text(UNKNOWN_CURVE, encoding="utf-8")
    with pytest.raises(UserError, match=r"is not a public key in PEM: Curve .* is not supported"):
        load_public_key(tmp_path / "key.pub")


HOLLOW = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("garbage", [b"", b"\x00\xff", HOLLOW], ids=["empty", "binary", "hollow"])
@pytest.mark.parametrize("load", [load_private_key, load_public_key])
def test_what_is_no_key_is_refused(tmp_path, load, garbage):
    (tmp_path / "key").write_bytes(garbage)
    with pytest.raises(UserError, match="is not a p"):
        load(tmp_path / "key")


def test_a_file_with_several_keys_is_refused(tmp_path):
    """Only the first would be read, and the others believed to be trusted, or taken for it."""
    one, other = (generate_key(tmp_path / name) for name in ("one.pem", "other.pem"))
    private, public = (path.read_bytes() for path in (one.with_suffix(".pem"), other))
    for name, content in {
        "two": one.read_bytes() + other.read_bytes(),
        "same": one.read_bytes() * 2,
        "one-line": one.read_bytes().rstrip() + other.read_bytes(),
        "commented": b"# ours\n" + one.read_bytes() + b"# theirs\n" + other.read_bytes(),
        "private-first": private + public,
        "private-last": public + private,
        "certificate": public + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} has 2 keys or certificates"):
            load_public_key(tmp_path / name)
    (tmp_path / "privates").write_bytes(private + private)
    with pytest.raises(UserError, match="privates has 2 keys"):
        load_private_key(tmp_path / "privates")


def test_words_around_a_key_do_no_harm(tmp_path):
    public = generate_key(tmp_path / "release.pem")
    content = public.read_bytes()
    key = load_public_key(public)
    public.write_bytes(b"the key of the release team\n" + content + b"\n")
    assert load_public_key(public) == key


def test_an_ec_key_with_its_parameters_is_one_key(tmp_path):
    signer = load_private_key(generate_key(tmp_path / "release.pem").with_suffix(".pem"))
    key = signer._private_key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    (tmp_path / "openssl.pem").write_bytes(parameters + key)
    assert load_private_key(tmp_path / "openssl.pem").public_key == signer.public_key


def test_a_public_key_does_not_sign_and_a_private_one_is_not_to_be_published(tmp_path):
    public = generate_key(tmp_path / "release.pem")
    with pytest.raises(UserError, match="is not a private key"):
        load_private_key(public)
    with pytest.raises(UserError, match="is not a public key"):
        load_public_key(tmp_path / "release.pem")


@pytest.mark.parametrize("load", [load_private_key, load_public_key])
def test_a_missing_file_is_told(tmp_path, load):
    with pytest.raises(UserError, match=r"cannot read key .*nosuch: No such file"):
        load(tmp_path / "nosuch")


def test_the_environment_names_the_key_unless_one_is_given(tmp_path, monkeypatch):
    assert signing_key() is None
    ours, given = (load_public_key(generate_key(tmp_path / name)) for name in ("ours.pem", "given.pem"))
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "ours.pem"))
    assert signing_key().public_key == ours
    assert signing_key(tmp_path / "given.pem").public_key == given


def test_import_brings_no_cryptography():
    heavy = {"cryptography", "securesystemslib"}
    code = f"import sys, tokenbuncher.attestation; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.split() == []
