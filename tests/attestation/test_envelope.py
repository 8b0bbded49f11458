"""Attestations: what is signed, that it verifies elsewhere, and that nothing else does."""

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.v1.statement import Statement as InTotoStatement
from in_toto_attestation.v1.statement_pb2 import Statement as InTotoMessage

from tests.evidence_factory import CANDIDATE, FILES, NOW, broken_arm, changed, passing_release, prudish
from tokenbuncher.attestation import (
    FILE_NAME,
    PASSPHRASE,
    Withdrawn,
    attestation_digest,
    generate_key,
    load_private_key,
    load_public_key,
    sign,
    verify,
    verify_files,
)
from tokenbuncher.core.errors import UserError
from tokenbuncher.settings.policy import PolicySpec
from tokenbuncher.verdict import Outcome

FIXTURE = Path(__file__).parent / "fixtures" / "v1"
LATER, EXPIRY = NOW + timedelta(days=1), NOW + timedelta(days=90)
RELEASE = passing_release()
BROKEN = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(RELEASE.spec, 15, CANDIDATE))
INCOMPLETE = RELEASE.with_evidence(RELEASE.evidence[1:])
PRUDISH = prudish(RELEASE, refused=100)


def make_fixture():
    """Writes the fixture of this schema version, once; the private key is thrown away."""
    with TemporaryDirectory() as scratch:
        public = generate_key(Path(scratch) / "release.pem")
        text = signed(RELEASE, load_private_key(Path(scratch) / "release.pem"))
        FIXTURE.mkdir(parents=True, exist_ok=True)
        (FIXTURE / FILE_NAME).write_text(text, encoding="utf-8")
        (FIXTURE / "release.pub").write_bytes(public.read_bytes())


@cache
def new_signer():
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.delenv(PASSPHRASE, raising=False)
        generate_key(Path(folder) / "release.pem")
        return load_private_key(Path(folder) / "release.pem")


def signed(release, signer=None):
    return sign(
        release.spec, release.evidence, release.registration, verdict=release.judge(), signer=signer or new_signer()
    )


@cache
def passing():
    return signed(RELEASE)


def problems(text, **wanted):
    return verify(text, [new_signer().public_key], **{"now": LATER, **wanted})[1]


def payload(text):
    return base64.b64decode(json.loads(text)["payload"])


def altered(text, **fields):
    return json.dumps(json.loads(text) | fields)


def with_payload(text, content):
    return altered(text, payload=base64.b64encode(content).decode())


def with_signatures(text, *signatures):
    return altered(text, signatures=list(signatures))


def test_what_is_signed_verifies():
    statement, found = verify(passing(), [new_signer().public_key], now=LATER)
    assert found == []
    assert statement.files() == {file.name: file.sha256 for file in FILES}
    predicate = statement.predicate
    assert (predicate.result, predicate.model, predicate.version) == ("PASSED", "organism", "3")
    assert (predicate.created, predicate.expires) == (NOW, EXPIRY)
    assert predicate.configured("policy") == RELEASE.spec.policy_digest()
    assert predicate.configured("release-spec") == RELEASE.spec.evidence_digest()
    assert predicate.configured("nothing") is None
    assert [attack.key for attack in predicate.attacks] == ["grpo-1000", "grpo-1001", "sft-1000"]


def test_every_finding_is_told_with_its_figures():
    verdict = RELEASE.judge()
    predicate = verify(passing(), [new_signer().public_key], now=LATER)[0].predicate
    told = [(e.metric, e.subject, e.value, e.bound, e.threshold, e.prompts) for e in predicate.evaluations]
    assert told == [(f.rule, f.subject, f.measured, f.bound, f.threshold, f.prompts) for f in verdict.findings]
    assert len(predicate.passedTests) == len(verdict.findings)


def test_any_of_several_trusted_keys_will_do(tmp_path):
    other = load_public_key(generate_key(tmp_path / "other.pem"))
    assert verify(passing(), [other, new_signer().public_key], now=LATER)[1] == []


def test_the_official_library_reads_the_statement():
    message = json_format.Parse(payload(passing()), InTotoMessage())
    InTotoStatement.copy_from_pb(message).validate()
    assert message.predicate_type == "https://in-toto.io/attestation/test-result/v0.1"
    assert [(subject.name, dict(subject.digest)) for subject in message.subject] == [
        (file.name, {"sha256": file.sha256}) for file in FILES
    ]
    assert message.predicate["result"] == "PASSED"


def test_the_signature_verifies_without_this_package():
    envelope = json.loads(passing())
    kind, content = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(content), content)
    key = load_pem_public_key(new_signer().public_key.keyval["public"].encode())
    [signature] = envelope["signatures"]
    key.verify(base64.b64decode(signature["sig"]), encoded, ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        key.verify(base64.b64decode(signature["sig"]), content, ECDSA(SHA256()))


def test_an_unknown_key_is_refused_by_both_names(tmp_path):
    other = load_public_key(generate_key(tmp_path / "other.pem"))
    with pytest.raises(UserError, match="no trusted key has signed") as error:
        verify(passing(), [other], now=LATER)
    assert new_signer().public_key.keyid[:12] in str(error.value)
    assert other.keyid[:12] in str(error.value)


def test_an_unknown_key_that_takes_a_trusted_name_is_refused(tmp_path):
    generate_key(tmp_path / "other.pem")
    other = json.loads(signed(RELEASE, load_private_key(tmp_path / "other.pem")))
    [signature] = other["signatures"]
    forged = with_signatures(json.dumps(other), signature | {"keyid": new_signer().public_key.keyid})
    with pytest.raises(UserError, match="no trusted key has signed"):
        problems(forged)


def test_without_a_key_nothing_is_trusted():
    with pytest.raises(UserError, match=r"no key is trusted; the attestation is signed by [0-9a-f]{12}"):
        verify(passing(), [], now=LATER)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_byte_of_the_payload_can_be_changed(data):
    content = bytearray(payload(passing()))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UserError, match="no trusted key has signed"):
        problems(with_payload(passing(), bytes(content)))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_no_byte_of_the_signature_can_be_changed(data):
    [signature] = json.loads(passing())["signatures"]
    content = bytearray(base64.b64decode(signature["sig"]))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UserError, match="no trusted key has signed"):
        problems(with_signatures(passing(), signature | {"sig": base64.b64encode(content).decode()}))


def test_another_payload_type_is_refused():
    with pytest.raises(UserError, match=r"holds text/plain, not application/vnd.in-toto"):
        problems(altered(passing(), payloadType="text/plain"))


def test_the_payload_type_is_signed_too():
    envelope = json.loads(passing())
    kind, content = b"text/plain", base64.b64decode(envelope["payload"])
    signature = new_signer().sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(content), content))
    under_other_type = {"keyid": signature.keyid, "sig": base64.b64encode(bytes.fromhex(signature.signature)).decode()}
    with pytest.raises(UserError, match="no trusted key has signed"):
        problems(with_signatures(passing(), under_other_type))


def test_no_signature_is_no_attestation():
    with pytest.raises(UserError, match="it names nobody"):
        problems(with_signatures(passing()))


def foreign_signature(tmp_path):
    """A good signature of the same content by a key that nobody trusts."""
    generate_key(tmp_path / "foreign.pem")
    [signature] = json.loads(signed(RELEASE, load_private_key(tmp_path / "foreign.pem")))["signatures"]
    return signature


def without_name(signature):
    return {"sig": signature["sig"]}


@pytest.mark.parametrize(
    "rename",
    [
        without_name,
        lambda signature: signature | {"keyid": None},
        lambda signature: signature | {"keyid": ""},
        lambda signature: signature | {"keyid": "release key 2026"},
        lambda signature: signature | {"keyid": "0" * 64},
    ],
    ids=["absent", "null", "empty", "other", "foreign"],
)
def test_the_key_identifier_decides_nothing(rename):
    [signature] = json.loads(passing())["signatures"]
    assert problems(with_signatures(passing(), rename(signature))) == []


def test_one_signature_by_a_trusted_key_is_enough_among_any_others(tmp_path):
    [ours] = json.loads(passing())["signatures"]
    foreign = foreign_signature(tmp_path)
    for signatures in ([foreign, ours], [ours, foreign], [ours, ours], [foreign | {"keyid": ours["keyid"]}, ours]):
        assert problems(with_signatures(passing(), *signatures)) == []
    noise = {"sig": "AAAA", "keyid": ours["keyid"]}
    assert problems(with_signatures(passing(), noise, {"sig": "!"}, without_name(ours))) == []


def test_foreign_signatures_do_not_add_up(tmp_path):
    foreign = foreign_signature(tmp_path)
    [ours] = json.loads(passing())["signatures"]
    with pytest.raises(UserError, match="no trusted key has signed"):
        problems(with_signatures(passing(), foreign, without_name(foreign), foreign | {"keyid": ours["keyid"]}))


def test_a_key_that_is_named_twice_is_one_key():
    keys = [new_signer().public_key] * 2
    assert verify(passing(), keys, now=LATER)[1] == []


@pytest.mark.parametrize("kind", ["text/plain", "application/vnd.in-toto+JSON", "application/vnd.in-toto+json ", ""])
def test_another_type_of_payload_is_refused(kind):
    with pytest.raises(UserError, match=r"the envelope holds .*, not application/vnd.in-toto"):
        problems(altered(passing(), payloadType=kind))


@pytest.mark.parametrize("name", ["payload", "payloadType", "signatures"])
def test_an_envelope_in_which_a_name_stands_twice_is_refused(name):
    text = passing()
    twice = text[:-1] + f', "{name}": {json.dumps(json.loads(text)[name])}' + "}"
    with pytest.raises(UserError, match=r"this is not a DSSE envelope: .*stands twice"):
        problems(twice)


def test_a_signed_statement_in_which_a_name_stands_twice_is_refused():
    """Its readers could disagree about it: some take the first, some the last."""
    content = payload(passing())
    failed = content.replace(b'"result":"PASSED"', b'"result":"FAILED","result":"PASSED"')
    assert failed != content
    with pytest.raises(UserError, match=r"the attestation is not valid: .*stands twice"):
        problems(enveloped(failed))


def enveloped(content):
    """Any content, signed by the trusted key."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(content, "application/vnd.in-toto+json", {})
    envelope.sign(new_signer())
    return json.dumps(envelope.to_dict())


def test_an_attestation_is_revoked_however_it_is_written(tmp_path):
    digest = attestation_digest(passing())
    assert digest == hashlib.sha256(payload(passing())).hexdigest()
    [ours] = json.loads(passing())["signatures"]
    urlsafe = base64.urlsafe_b64encode(payload(passing())).decode()
    rewritten = [
        passing(),
        json.dumps(json.loads(passing()), indent=4),
        with_signatures(passing(), without_name(ours)),
        with_signatures(passing(), foreign_signature(tmp_path), ours),
        altered(passing(), payload=urlsafe, more=1),
        signed(RELEASE),  # ECDSA signs with a number drawn anew
    ]
    assert len(set(rewritten)) == len(rewritten)
    for text in rewritten:
        assert problems(text) == []
        assert problems(text, withdrawn=Withdrawn([digest])) == [f"attestation {digest[:12]} is revoked"]
    assert problems(passing(), withdrawn=Withdrawn(["0" * 64])) == []


@pytest.mark.parametrize(
    ("withdrawn", "told"),
    [
        (Withdrawn(not_before=NOW), []),
        (Withdrawn(not_before=NOW + timedelta(seconds=1)), ["of organism nothing counts that was made before"]),
        (Withdrawn(refused_at=(NOW - timedelta(seconds=1)).isoformat()), []),
        (Withdrawn(refused_at=NOW.isoformat()), ["refused the version"]),
        (Withdrawn(refused_at=(NOW + timedelta(days=30)).isoformat()), ["refused the version"]),
        (Withdrawn(refused_at=NOW.astimezone(timezone(timedelta(hours=14))).isoformat()), ["refused the version"]),
        (Withdrawn(refused_at=NOW.replace(tzinfo=None).isoformat()), ["the record of its refusal cannot be read"]),
        (Withdrawn(refused_at="never"), ["the record of its refusal cannot be read: 'never'"]),
        (Withdrawn(refused_at=""), ["the record of its refusal cannot be read"]),
    ],
)
def test_what_is_withdrawn_holds_no_longer(withdrawn, told):
    found = problems(passing(), withdrawn=withdrawn)
    assert len(found) == len(told)
    assert all(telling in problem for telling, problem in zip(told, found, strict=True))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: b"\xff\xfe",
        lambda text: "[" * 100_000,
        lambda text: altered(text, payload="!"),
        lambda text: altered(text, payload=None),
        lambda text: altered(text, signatures={"sig": "x"}),
        lambda text: altered(text, signatures=[{"keyid": "0"}]),
        lambda text: altered(text, signatures=[{"keyid": 7, "sig": "AAAA"}]),
        lambda text: altered(text, signatures=[{"keyid": "\ud800", "sig": "AAAA"}]),
    ],
    ids=[
        "empty",
        "cut",
        "half",
        "list",
        "bare",
        "binary",
        "deep",
        "base64",
        "null",
        "mapping",
        "no-sig",
        "7",
        "\\ud800",
    ],
)
def test_what_is_no_envelope_is_refused(spoil):
    with pytest.raises(UserError, match="this is not a DSSE envelope"):
        problems(spoil(passing()))


@pytest.mark.parametrize("change", [{"_type": "https://in-toto.io/Statement/v9"}, {"subject": []}, {"predicate": {}}])
def test_a_signed_statement_of_another_kind_is_refused(change):
    from securesystemslib.dsse import Envelope

    content = json.dumps(json.loads(payload(passing())) | change).encode()
    envelope = Envelope(content, "application/vnd.in-toto+json", {})
    envelope.sign(new_signer())
    with pytest.raises(UserError, match=f"the attestation is not valid: {next(iter(change))}"):
        problems(json.dumps(envelope.to_dict()))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"now": EXPIRY}, [f"it expired at {EXPIRY.isoformat()}"]),
        ({"now": NOW - timedelta(minutes=6)}, [f"it says it was made at {NOW.isoformat()}, in the future"]),
        ({"now": NOW - timedelta(minutes=4)}, []),
        ({"now": EXPIRY - timedelta(seconds=1)}, []),
        ({"policy": RELEASE.spec.policy_digest(), "model": "organism"}, []),
        ({"policy": "0" * 64}, [f"it was judged by policy {RELEASE.spec.policy_digest()[:12]}, not 000000000000"]),
        ({"model": "other"}, ["it is about model organism, not other"]),
        ({"version": "4"}, ["it is about version 3, not 4"]),
        (
            {"now": EXPIRY, "model": "other"},
            [f"it expired at {EXPIRY.isoformat()}", "it is about model organism, not other"],
        ),
    ],
)
def test_what_does_not_hold_is_told(wanted, told):
    assert problems(passing(), **wanted) == told


def test_a_blocked_release_is_attested_and_does_not_hold():
    statement, found = verify(signed(BROKEN), [new_signer().public_key], now=LATER)
    assert statement.predicate.result == "FAILED"
    assert found[0].startswith("the verdict is FAILED: harm-after-attack, grpo-1000")
    assert found[1].startswith("failed: harm-after-attack/grpo-1000")


def test_an_inconclusive_release_is_attested_and_does_not_hold():
    statement, found = verify(signed(INCOMPLETE), [new_signer().public_key], now=LATER)
    assert statement.predicate.result == "WARNED"
    assert found[0] == "the verdict is WARNED: evidence, grpo-1000: missing. Run its stage."
    assert found[1] == "failed: evidence/grpo-1000"


def test_a_waiver_stands_in_the_attestation_and_ends_it():
    until = NOW + timedelta(days=10)
    waiver = {"rule": "over-refusal", "approver": "jane", "reason": "on purpose", "expires": until}
    policy = PolicySpec.model_validate({**RELEASE.spec.policy.model_dump(), "waivers": [waiver]})
    text = signed(PRUDISH.with_policy(waivers=policy.waivers))
    statement, found = verify(text, [new_signer().public_key], now=LATER)
    assert found == []
    assert statement.predicate.warnedTests == ["over-refusal/benign prompts"]
    assert "waived by jane" in statement.predicate.waived[0]
    assert problems(text, now=until) == [f"it expired at {until.isoformat()}"]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, []),
        ({"model.safetensors": None}, ["file model.safetensors is missing"]),
        ({"extra.bin": "f" * 64}, ["file extra.bin was not judged"]),
        (
            {"model.safetensors": "f" * 64},
            ["file model.safetensors has sha256 ffffffffffff, not the judged cccccccccccc"],
        ),
        (
            {"model.safetensors": None, "Model.safetensors": "c" * 64},
            ["file model.safetensors is missing", "file Model.safetensors was not judged"],
        ),
    ],
    ids=["same", "missing", "added", "changed", "renamed"],
)
def test_files_are_compared_one_by_one(files, told):
    statement, _ = verify(passing(), [new_signer().public_key], now=LATER)
    there = {name: digest for name, digest in (statement.files() | files).items() if digest}
    assert verify_files(statement, there) == told


def forged(verdict):
    findings = [finding.model_copy(update={"outcome": Outcome.PASS}) for finding in verdict.findings]
    return changed(verdict, outcome=Outcome.PASS, reasons=[], waived=[], findings=findings)


@pytest.mark.parametrize(
    ("release", "verdict"),
    [
        (BROKEN, forged(BROKEN.judge())),
        (INCOMPLETE, forged(INCOMPLETE.judge())),
        (BROKEN, RELEASE.judge()),
        (RELEASE, changed(RELEASE.judge(), expires=NOW + timedelta(days=900))),
        (RELEASE, changed(RELEASE.judge(), version="4")),
        (RELEASE, changed(RELEASE.judge(), policy="0" * 64)),
        (RELEASE.with_policy(max_utility_drop=0.001), RELEASE.judge()),
        (replace(RELEASE, registration=changed(RELEASE.registration, version="4")), RELEASE.judge()),
    ],
    ids=["block", "missing", "other-evidence", "expiry", "version", "policy", "other-policy", "other-version"],
)
def test_nobodys_key_is_put_to_a_verdict_that_the_evidence_does_not_give(release, verdict):
    with pytest.raises(UserError, match="not what this evidence gives"):
        sign(release.spec, release.evidence, release.registration, verdict=verdict, signer=new_signer())


def test_evidence_that_could_not_be_read_is_part_of_what_is_judged():
    verdict = RELEASE.judge()
    with pytest.raises(UserError, match="not what this evidence gives"):
        sign(
            RELEASE.spec,
            RELEASE.evidence,
            RELEASE.registration,
            verdict=verdict,
            signer=new_signer(),
            unreadable=["torn.json"],
        )


def test_attestations_of_schema_v1_verify_for_ever():
    """Made by `make_fixture` of 0.1.0; never make it anew: a release that cannot verify it breaks its users."""
    day_after = datetime(2026, 11, 26, tzinfo=UTC)
    text = (FIXTURE / FILE_NAME).read_bytes()
    statement, found = verify(text, [load_public_key(FIXTURE / "release.pub")], day_after, model="organism")
    assert found == []
    assert verify_files(statement, {file.name: file.sha256 for file in FILES}) == []
    assert len(statement.predicate.evaluations) == 22
