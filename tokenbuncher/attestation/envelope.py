"""DSSE envelopes around statements: signed after the evidence is judged again, and verified part by part."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from tokenbuncher.attestation.statement import Statement, statement_of
from tokenbuncher.core.documents import digest_of, first_problem, refuse_repeated_keys
from tokenbuncher.core.errors import UserError
from tokenbuncher.evidence import Registration
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import AnyPiece, Verdict, judge_release

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

FILE_NAME = "attestation.json"
TAG = "tokenbuncher.attestation"
"""Tag of a registered model version that holds its attestation, as JSON text."""
REFUSED_TAG = "tokenbuncher.refused_at"
"""Tag of a registered model version: when a verdict that was not a PASS was made on it, the latest, in ISO format."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
CLOCK_SKEW = timedelta(minutes=5)


class Withdrawn(NamedTuple):
    """What makes an attestation with a good signature invalid before it expires."""

    digests: Collection[str] = ()
    """The digests of attestations that are revoked."""
    not_before: datetime | None = None
    """Attestations made before this time are invalid."""
    refused_at: str | None = None
    """When a verdict last refused the version, in ISO format: attestations made until then are invalid."""
    made: datetime | None = None
    """When the version was made: an earlier version of the same number was another one."""


NOTHING_WITHDRAWN = Withdrawn()


def refused_only(model: str, refused_at: str | None) -> Withdrawn:
    """Nothing makes an attestation invalid but a later refusal on record for its version, if there is one."""
    return Withdrawn(refused_at=refused_at)


def refusal(tags: Mapping[str, str]) -> str | None:
    """When a version was last refused, according to its tags. Several records are joined, so that none can be read.

    Upper and lower case of the key do not matter: to some databases it is the same key.
    """
    records = [value for key, value in tags.items() if key.strip().casefold() == REFUSED_TAG]
    return "; ".join(records) if records else None


def sign(
    spec: ReleaseSpec,
    evidence: Sequence[AnyPiece],
    registration: Registration,
    *,
    verdict: Verdict,
    signer: CryptoSigner,
    unreadable: Sequence[str] = (),
) -> str:
    """The signed attestation of a verdict, as the JSON text of a DSSE envelope.

    Args:
        spec: The release spec.
        evidence: Every piece of evidence there is.
        registration: The registered version.
        verdict: The verdict that the gate gave.
        signer: The private key.
        unreadable: Why other pieces of evidence could not be read.

    Raises:
        UserError: If the verdict does not follow from the evidence: such a verdict is not signed.
    """
    from securesystemslib.dsse import Envelope

    if judge_release(spec, evidence, registration, unreadable=unreadable, now=verdict.created) != verdict:
        raise UserError("the verdict is not what this evidence gives under this spec and policy; run gate again")
    payload = statement_of(spec, registration, verdict).model_dump_json(by_alias=True).encode()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict())


def verify(
    text: str | bytes,
    keys: Sequence[SSlibKey],
    now: datetime | None = None,
    *,
    policy: str | None = None,
    model: str | None = None,
    version: str | None = None,
    withdrawn: Withdrawn = NOTHING_WITHDRAWN,
) -> tuple[Statement, list[str]]:
    """Verifies an attestation: signature, outcome, validity and, if given, policy, model and version.

    One signature by a trusted key is enough, whatever others there are. Each signature is tried with each key: the key
    identifiers in an envelope are not signed, may be missing, and decide nothing.

    Args:
        text: The JSON text of the envelope.
        keys: Public keys that are trusted.
        now: The time of verification; the present, if None.
        policy: The digest of the policy that it must be about.
        model: The name of the registered model that it must be about.
        version: The version that it must be about.
        withdrawn: What makes it invalid before it expires.

    Returns:
        The statement, and what is wrong with it, in words; it holds if the list is empty. The files are not compared:
        see `verify_files`.

    Raises:
        UserError: If it is no attestation, or no trusted key has signed it. It is then worth nothing.
    """
    envelope = _envelope(text)
    _check_signature(envelope, keys)
    statement = _statement(envelope)
    found = [
        *_problems(statement, now or datetime.now(UTC), policy, model=model, version=version),
        *_withdrawals(statement, envelope.digest, withdrawn),
    ]
    return statement, found


def read_unverified(text: str | bytes) -> Statement:
    """What an attestation says, whether or not a trusted key has signed it. Do not rely on it.

    Raises:
        UserError: If it is no attestation.
    """
    return _statement(_envelope(text))


def attestation_digest(text: str | bytes) -> str:
    """The digest by which an attestation is revoked: sha256 of its decoded payload.

    It is not that of the envelope, which can be written in other ways (white space, other signatures, another alphabet
    of base64) and still hold.

    Raises:
        UserError: If it is no attestation.
    """
    return _envelope(text).digest


def verify_files(statement: Statement, files: Mapping[str, str]) -> list[str]:
    """What differs between the files that were judged and these, in words; nothing if all are the same.

    Args:
        statement: A verified statement.
        files: sha256 of every file there is, by relative POSIX path.
    """
    judged = statement.files()
    return [
        *(f"file {name} is missing" for name in judged if name not in files),
        *(f"file {name} was not judged" for name in files if name not in judged),
        *(
            f"file {name} has sha256 {files[name][:12]}, not the judged {judged[name][:12]}"
            for name in judged
            if name in files and files[name] != judged[name]
        ),
    ]


class _Signature(BaseModel):
    model_config = ConfigDict(strict=True)

    sig: str
    keyid: str | None = None


class _Form(BaseModel):
    """What the library does not check: that an envelope is made of text."""

    model_config = ConfigDict(strict=True)

    payload: str
    payloadType: str
    signatures: list[_Signature]


class _Envelope(NamedTuple):
    payload: bytes
    signatures: list[_Signature]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.payload).hexdigest()

    @property
    def signed_by(self) -> str:
        """The signers that the envelope names."""
        names = [ascii(each.keyid[:12])[1:-1] if each.keyid else "a key without a name" for each in self.signatures]
        return ", ".join(names) or "nobody"


def _envelope(text: str | bytes) -> _Envelope:
    try:
        refuse_repeated_keys(text)
        form = _Form.model_validate_json(text)
        payload = _decoded(form.payload)
    except ValidationError as error:
        raise UserError(f"this is not a DSSE envelope: {first_problem(error)}") from error
    except Exception as error:  # JSON and base64 fail in many ways
        raise UserError(f"this is not a DSSE envelope: {type(error).__name__}: {error}") from error
    if form.payloadType != PAYLOAD_TYPE:
        raise UserError(f"the envelope holds {ascii(form.payloadType[:80])[1:-1]}, not {PAYLOAD_TYPE}")
    return _Envelope(payload, form.signatures)


def _statement(envelope: _Envelope) -> Statement:
    try:
        refuse_repeated_keys(envelope.payload)
        return Statement.model_validate_json(envelope.payload)
    except ValidationError as error:
        raise UserError(f"the attestation is not valid: {first_problem(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the attestation is not valid: {error}") from error


def _decoded(text: str) -> bytes:
    """Decodes either alphabet of base64, as DSSE allows."""
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)


def _check_signature(envelope: _Envelope, keys: Sequence[SSlibKey]) -> None:
    if not keys:
        raise UserError(f"no key is trusted; the attestation is signed by {envelope.signed_by}")
    if not any(_has_signed(key, signature.sig, envelope.payload) for signature in envelope.signatures for key in keys):
        trusted = ", ".join(key.keyid[:12] for key in keys)
        raise UserError(
            f"no trusted key has signed this attestation: it names {envelope.signed_by}, trusted are {trusted}"
        )


def _has_signed(key: SSlibKey, signature: str, payload: bytes) -> bool:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import Signature

    try:
        encoded = Envelope(payload, PAYLOAD_TYPE, {}).pae()
        key.verify_signature(Signature(key.keyid, _decoded(signature).hex()), encoded)
    except Exception:  # whatever is wrong with a signature, it is none
        return False
    return True


def _problems(
    statement: Statement, now: datetime, policy: str | None, *, model: str | None, version: str | None
) -> Iterator[str]:
    predicate = statement.predicate
    if predicate.result != "PASSED":
        yield f"the verdict is {predicate.result}: {'; '.join(predicate.reasons) or 'it gives no reason'}"
    if predicate.failedTests:
        yield f"failed: {', '.join(predicate.failedTests)}"
    if predicate.created > now + CLOCK_SKEW:
        yield f"it says it was made at {predicate.created.isoformat()}, in the future"
    if now >= predicate.expires:
        yield f"it expired at {predicate.expires.isoformat()}"
    if policy is not None and predicate.configured("policy") != policy:
        yield f"it was judged by policy {(predicate.configured('policy') or 'none')[:12]}, not {policy[:12]}"
    if predicate.policy and predicate.configured("policy") != digest_of(predicate.policy):
        yield "the policy that it shows is not the one that it was judged by"
    if model is not None and predicate.model != model:
        yield f"it is about model {predicate.model}, not {model}"
    if version is not None and predicate.version != version:
        yield f"it is about version {predicate.version}, not {version}"
    names = [file.name for file in statement.subject]
    if len(set(names)) != len(names) or sorted(names) != sorted(file.name for file in predicate.files):
        yield "its files are listed twice, or otherwise than its subjects"


def _withdrawals(statement: Statement, digest: str, withdrawn: Withdrawn) -> Iterator[str]:
    created = statement.predicate.created
    if digest in withdrawn.digests:
        yield f"attestation {digest[:12]} is revoked"
    if withdrawn.not_before is not None and created < withdrawn.not_before:
        yield (
            f"it was made at {created.isoformat()}; of {statement.predicate.model} nothing counts that was made before "
            f"{withdrawn.not_before.isoformat()}"
        )
    if withdrawn.made is not None and created + CLOCK_SKEW < withdrawn.made:
        yield f"it was made at {created.isoformat()}, before the version was, at {withdrawn.made.isoformat()}"
    if withdrawn.refused_at is not None:
        yield from _refusal(created, withdrawn.refused_at)


def _refusal(created: datetime, refused_at: str) -> Iterator[str]:
    try:
        counts = created > datetime.fromisoformat(refused_at)
    except (ValueError, TypeError):  # no time, or one without a zone
        yield f"the record of its refusal cannot be read: {refused_at[:40]!r}"
        return
    if not counts:
        yield (
            f"at {refused_at} a verdict refused the version, or it was renamed; what was signed before counts no longer"
        )
