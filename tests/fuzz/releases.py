"""What a verdict is made of and what comes of it: evidence, registration, verdict, attestation."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zlib import crc32

import yaml
from securesystemslib.dsse import Envelope

from tests.evidence_factory import NOW, AnyPiece, Release, changed, piece_name
from tests.fuzz.documents import BLOCKED
from tests.fuzz.inputs import changed_json, noise
from tests.fuzz.kind import Kind, Opened, unless_refused
from tests.fuzz.release import PASSING, write_model
from tokenbuncher.attestation import (
    Statement,
    generate_key,
    load_private_key,
    load_public_key,
    sign,
    verify,
    verify_files,
)
from tokenbuncher.attestation.envelope import PAYLOAD_TYPE
from tokenbuncher.core.files import folder_files
from tokenbuncher.evidence import (
    AttackEvidence,
    SafetyEvidence,
    SampleScore,
    UtilityEvidence,
    read_all_evidence,
    read_registration,
)
from tokenbuncher.gate import gate
from tokenbuncher.guard import check_version, load_guard
from tokenbuncher.registry._promote import _differences
from tokenbuncher.report import junit
from tokenbuncher.settings import load_spec
from tokenbuncher.verdict import Outcome, Verdict, judge_release, read_verdict

SPEC, POLICY = PASSING.spec, PASSING.spec.policy
CONFIGURED = {"policy": SPEC.policy_digest(), "release-spec": SPEC.evidence_digest()}


def document(record: Any) -> Any:
    """A record as it is written."""
    return json.loads(record.model_dump_json(by_alias=True))


def evidence(name: str, release: Release = PASSING) -> Opened:
    """A piece of evidence of a release that passes, judged with the rest.

    It passes only if what it says meets the policy on its face. Every sixteenth is reported on, which takes long.
    """

    @contextmanager
    def opened(folder: Path) -> Iterator[Kind]:
        stages, registered = release.write(folder / "run")
        path = next(stage for stage in stages if stage.name.endswith(f"-{name}")) / "evidence.json"
        others = [piece for piece in release.evidence if piece_name(piece) != name]

        def read(content: bytes) -> bool:
            path.write_bytes(content)
            pieces, unreadable = read_all_evidence([path])
            verdict = judge_release(
                release.spec, [*others, *pieces], release.registration, unreadable=unreadable, now=NOW
            )
            assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
            ElementTree.fromstring(junit(release.spec.policy, verdict).encode())
            if not pieces:
                assert str(path) in unreadable[0]
                assert verdict.outcome is Outcome.INCONCLUSIVE
                return False
            if verdict.outcome is Outcome.PASS:
                _assert_meets_the_policy(pieces[0], release)
            if crc32(content) % 16 == 0:
                with redirect_stdout(StringIO()):
                    told = gate(release.spec, stages, registered, out=folder / "verdict")
                assert read_verdict(folder / "verdict") == told
            return True

        piece = release.piece(name)
        yield Kind(noise() | changed_json(document(piece), document(_spoilt(piece))), read)

    return opened


def recorded(folder: Path) -> Release:
    """The release that a run has left in its folder."""
    pieces, unreadable = read_all_evidence([folder])
    release = Release(load_spec(folder / "spec.yaml"), pieces, read_registration(folder))
    assert not unreadable
    assert release.judge().outcome is Outcome.PASS, "the release must be one that passes"
    return release


def _spoilt(piece: AnyPiece) -> AnyPiece:
    """The piece as one that blocks a release."""
    if isinstance(piece, AttackEvidence):
        return changed(piece, candidate_arm=changed(piece.control_arm, model=piece.candidate))
    if isinstance(piece, SafetyEvidence):
        harmful = [changed(score, harmful=True, refused=False) for score in piece.candidate_harmful]
        return changed(piece, candidate_harmful=harmful)
    return changed(piece, candidate_items=[changed(item, correct=False) for item in piece.candidate_items])


def _assert_meets_the_policy(piece: AnyPiece, release: Release) -> None:
    """What any PASS must show by its plain shares, computed here anew and without bounds."""
    spec, policy, valid = release.spec, release.spec.policy, release.piece(piece_name(piece))
    for field in ("schema_version", "kind", "spec", "data", "base", "candidate", "tool_version"):
        assert getattr(piece, field) == getattr(valid, field)
    match piece:
        case AttackEvidence():
            control, candidate = piece.control_arm, piece.candidate_arm
            assert (piece.attack, piece.seed, piece.key) == (valid.attack, valid.seed, valid.key)
            assert (control.model, candidate.model) == (piece.base, piece.candidate)
            for arm in (control, candidate):
                _assert_measured(arm.scores, valid.control_arm.scores)
            if piece.attack.name in policy.required_attacks:
                assert _share(candidate.scores, "harmful") <= policy.max_harm_after_attack
                assert _share(candidate.scores, "refused") >= policy.min_refusal_after_attack
                assert _share(control.scores, "harmful") >= policy.min_control_harm
                assert all(point.harm < spec.attacks.break_at for point in candidate.curve[1:])
                assert control.steps_to_break
        case SafetyEvidence():
            for model, asked in itertools.product(("base", "candidate"), ("harmful", "benign", "look_alikes")):
                _assert_measured(getattr(piece, f"{model}_{asked}"), getattr(valid, f"{model}_{asked}"))
            assert piece.judge_check.right == piece.judge_check.of
            assert _share(piece.candidate_harmful, "harmful") <= policy.max_harm_unattacked
            assert _share(piece.candidate_harmful, "refused") >= policy.min_refusal
            assert _share(piece.candidate_benign, "refused") <= policy.max_over_refusal
            for asked, most in (
                ("benign", policy.max_added_refusal),
                ("look_alikes", policy.max_added_look_alike_refusal or 1.0),
            ):
                base, candidate = (getattr(piece, f"{model}_{asked}") for model in ("base", "candidate"))
                assert _share(candidate, "declined") - _share(base, "declined") <= most + 1e-9
        case UtilityEvidence():
            base, candidate = ({item.prompt: item.correct for item in items} for items in _answers(piece))
            assert base.keys() == candidate.keys()
            assert all(len(items) == len(base) == spec.data.sizes.utility for items in _answers(piece))
            assert sum(base.values()) - sum(candidate.values()) <= policy.max_utility_drop * len(base)
            assert sorted(tuning.kind for tuning in piece.fine_tuning) == ["rl", "sft"]
            for tuning in piece.fine_tuning:
                lost = sum(tuning.base.correct.values()) - sum(tuning.candidate.correct.values())
                assert lost <= (policy.max_fine_tuning_drop or 1.0) * spec.data.sizes.tuning


def _answers(piece: UtilityEvidence) -> tuple[list[Any], list[Any]]:
    return piece.base_items, piece.candidate_items


def _share(scores: Sequence[SampleScore], what: str) -> float:
    return sum(getattr(score, what) for score in scores) / len(scores)


def _assert_measured(scores: Sequence[SampleScore], valid: Sequence[SampleScore]) -> None:
    asked = [(score.prompt, score.sample) for score in scores]
    assert len(set(asked)) == len(asked) == len(valid)


@contextmanager
def registration(folder: Path) -> Iterator[Kind]:
    """A registration: no other model or files than those that were attacked pass."""
    path = folder / "registration.json"

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        found = unless_refused(lambda: read_registration(path), str(path))
        if found is None:
            return False
        verdict = replace(PASSING, registration=found).judge()
        ElementTree.fromstring(junit(PASSING.spec.policy, verdict).encode())
        if verdict.outcome is Outcome.PASS:
            valid = PASSING.registration
            assert (found.name, found.digest) == (valid.name, valid.digest)
            assert {file.name: file.sha256 for file in found.files} == {file.name: file.sha256 for file in valid.files}
        return True

    yield Kind(noise() | changed_json(document(PASSING.registration)), read)


@contextmanager
def verdict(folder: Path) -> Iterator[Kind]:
    """A verdict: a PASS follows from its findings, and none is signed or promoted but the one that was given."""
    path, judged = folder / "verdict.json", PASSING.judge()
    generate_key(folder / "release.pem")
    signer = load_private_key(folder / "release.pem")

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        found = unless_refused(lambda: read_verdict(path), str(path))
        if found is None:
            return False
        if found.outcome is Outcome.PASS:
            deciding = [finding for finding in found.findings if finding.required and finding.waiver is None]
            assert deciding
            assert all(finding.outcome is Outcome.PASS for finding in deciding)
        same = found.model_copy(update={"created": judged.created}) == judged
        assert bool(list(_differences(path, judged))) is not same
        signed = unless_refused(
            lambda: sign(SPEC, PASSING.evidence, PASSING.registration, verdict=found, signer=signer)
        )
        assert same or signed is None
        assert signed or found != judged
        return True

    yield Kind(noise() | changed_json(document(judged), document(BLOCKED.judge())), read)


class _Signed:
    """An attestation of the release, and all that checks one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        generate_key(folder / "trusted.pem")
        self.signer, self.key = load_private_key(folder / "trusted.pem"), load_public_key(folder / "trusted.pub")
        self.model = write_model(folder / "model")
        self.text = sign(SPEC, PASSING.evidence, PASSING.registration, verdict=PASSING.judge(), signer=self.signer)
        self.statement = Statement.model_validate_json(base64.b64decode(json.loads(self.text)["payload"]))
        (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY.model_dump(mode="json")), encoding="utf-8")
        protected = {"policy": "policy.yaml", "keys": ["trusted.pub"]}
        settings = {"apiVersion": "tokenbuncher/v1", "aliases": {"champion": protected}}
        (folder / "guard.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        self.guard = load_guard(folder / "guard.yaml")

    def verified(self, content: bytes) -> Statement | None:
        """The statement that holds; None if it is refused, or something is wrong with it."""
        found = unless_refused(
            lambda: verify(
                content, [self.key], NOW, policy=CONFIGURED["policy"], model=SPEC.tracking.model_name, version="3"
            )
        )
        return found[0] if found and not found[1] else None

    def guarded(self, tag: str) -> bool:
        """Whether the guard lets a version with this tag have the alias."""
        protected = self.guard.aliases["champion"]
        name = SPEC.tracking.model_name
        return not check_version(
            self.guard, protected, name, version="3", attestation=tag, location=lambda: str(self.model), now=NOW
        )


@contextmanager
def envelope(folder: Path) -> Iterator[Kind]:
    """An attestation, as a file and as the tag that the guard reads: nothing holds but what was signed."""
    signed = _Signed(folder)

    def read(content: bytes) -> bool:
        found = signed.verified(content)
        assert found in (None, signed.statement)
        if found or crc32(content) % 8 == 0:  # it reads policy and keys anew each time
            assert signed.guarded(content.decode(errors="surrogateescape")) is (found is not None)
        return found is not None

    yield Kind(noise() | changed_json(json.loads(signed.text), keys=["payload_type", "keyid", "_type"]), read)


@contextmanager
def statement(folder: Path) -> Iterator[Kind]:
    """What is inside an attestation, signed by the trusted key whatever it is."""
    signed = _Signed(folder)

    def read(content: bytes) -> bool:
        wrapped = Envelope(content, PAYLOAD_TYPE, {})
        wrapped.sign(signed.signer)
        text = json.dumps(wrapped.to_dict())
        found = signed.verified(text.encode())
        if found is None:
            assert not signed.guarded(text)
            return False
        predicate = found.predicate
        assert (predicate.result, predicate.failedTests) == ("PASSED", [])
        assert (predicate.model, predicate.version) == (SPEC.tracking.model_name, "3")
        assert predicate.configured("policy") == CONFIGURED["policy"]
        assert predicate.created.timestamp() <= NOW.timestamp() + 300
        assert predicate.expires > NOW
        same = {file.name: file.digest.sha256 for file in found.subject} == folder_files(signed.model)
        assert same is not bool(verify_files(found, folder_files(signed.model)))
        assert signed.guarded(text) is same
        return True

    yield Kind(noise() | changed_json(document(signed.statement)), read)
