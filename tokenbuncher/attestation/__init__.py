"""Evidence that anyone can verify later: an in-toto statement about a model's files, in a signed DSSE envelope.

    generate_key(Path("release.pem"))                        # and release.pub
    key = load_private_key(Path("release.pem"))
    envelope = sign(spec, evidence, registration, verdict=verdict, signer=key)
    statement, problems = verify(envelope, [load_public_key(Path("release.pub"))])

securesystemslib signs (ECDSA P-256 by `cryptography`); there is no cryptography of our own.
"""

from tokenbuncher.attestation.envelope import (
    CLOCK_SKEW,
    FILE_NAME,
    REFUSED_TAG,
    TAG,
    Withdrawn,
    attestation_digest,
    read_unverified,
    refusal,
    refused_only,
    sign,
    verify,
    verify_files,
)
from tokenbuncher.attestation.keys import (
    PASSPHRASE,
    SIGNING_KEY,
    generate_key,
    load_private_key,
    load_public_key,
    signing_key,
)
from tokenbuncher.attestation.statement import Statement

__all__ = [
    "CLOCK_SKEW",
    "FILE_NAME",
    "PASSPHRASE",
    "REFUSED_TAG",
    "SIGNING_KEY",
    "TAG",
    "Statement",
    "Withdrawn",
    "attestation_digest",
    "generate_key",
    "load_private_key",
    "load_public_key",
    "read_unverified",
    "refusal",
    "refused_only",
    "sign",
    "signing_key",
    "verify",
    "verify_files",
]
