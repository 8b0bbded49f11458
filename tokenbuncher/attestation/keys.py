"""ECDSA P-256 keys in PEM files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.core.documents import refuse_wide
from tokenbuncher.core.errors import UserError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

SIGNING_KEY = "TOKENBUNCHER_SIGNING_KEY"
"""Environment variable: path of the private key that the gate signs with."""
PASSPHRASE = "TOKENBUNCHER_KEY_PASSPHRASE"
"""Environment variable: passphrase of the private key, if it has one."""


def generate_key(path: Path) -> Path:
    """Makes a key pair: the private key at `path`, readable by its owner only, the public one beside it as `.pub`.

    The private key is encrypted if the environment has a passphrase for it.

    Returns:
        The path of the public key.

    Raises:
        UserError: If one of the files exists or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from securesystemslib.signer import CryptoSigner

    if path.suffix == ".pub" or not path.name:
        raise UserError(f"{path} is no name for a private key; choose another, such as release.pem")
    public = path.with_suffix(".pub")
    if public.exists():  # before the private key is written, which would be left behind
        raise UserError(f"{public} exists; a key is never overwritten, choose another name")
    signer = CryptoSigner.generate_ecdsa()
    passphrase = _passphrase()
    private_bytes = signer._private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption(),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, mode, content in (
            (path, 0o600, private_bytes),
            (public, 0o644, signer.public_key.keyval["public"].encode()),
        ):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(content)
    except FileExistsError as error:
        raise UserError(f"{error.filename} exists; a key is never overwritten, choose another name") from error
    except OSError as error:
        raise UserError(f"cannot write key {error.filename}: {error.strerror}") from error
    return public


def signing_key(path: Path | None = None) -> CryptoSigner | None:
    """The private key at `path`, or the one that the environment names; None if neither is given."""
    path = path or (Path(os.environ[SIGNING_KEY]) if os.environ.get(SIGNING_KEY) else None)
    return load_private_key(path) if path else None


def load_private_key(path: Path) -> CryptoSigner:
    """The private key of a PEM file.

    Raises:
        UserError: If it cannot be read, is not one ECDSA P-256 key, or the passphrase is missing or wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    try:
        key = load_pem_private_key(_read(path, rb"KEY"), _passphrase())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path} is not a private key that can be read: {error} (passphrase: ${PASSPHRASE})") from error
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise UserError(f"{path} is not an ECDSA P-256 key; make one with `tokenbuncher keygen`")
    return CryptoSigner(key)


def load_public_key(path: Path) -> SSlibKey:
    """The public key of a PEM file.

    Raises:
        UserError: If it cannot be read or is not one ECDSA P-256 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        key = load_pem_public_key(_read(path, rb""))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path} is not a public key in PEM: {error}") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise UserError(f"{path} is not an ECDSA P-256 key; make one with `tokenbuncher keygen`")
    return SSlibKey.from_crypto(key)


def _passphrase() -> bytes | None:
    return os.environ[PASSPHRASE].encode() if os.environ.get(PASSPHRASE) else None


def _read(path: Path, label: bytes) -> bytes:
    """The content of a PEM file with at most one block of this label, because only the first would be read.

    A block with parameters may come before an EC private key. A public key must be the only block.
    """
    try:
        content = path.read_bytes()
        refuse_wide(content)
    except OSError as error:
        raise UserError(f"cannot read key {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"cannot read key {path}: {error}") from error
    blocks = len(re.findall(rb"-BEGIN[^-\n]*" + label + rb"[^-\n]*-", content, re.IGNORECASE))
    if blocks > 1:
        raise UserError(f"{path} has {blocks} keys or certificates; put each key into a file of its own")
    return content
