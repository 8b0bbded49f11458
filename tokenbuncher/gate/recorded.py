"""What can be done with a recorded release after the gate: have it explained, have it signed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenbuncher.attestation import SIGNING_KEY, sign, signing_key
from tokenbuncher.errors import UserError
from tokenbuncher.evidence import read_all_evidence, read_registration
from tokenbuncher.files import write_text
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import Finding, Verdict, judge_release, read_verdict
from tokenbuncher.verdict.explain import explain


def sign_release(
    spec: ReleaseSpec, evidence: Sequence[Path], registration: Path, verdict: Path, key: Path | None, out: Path
) -> None:
    """Signs the verdict of a recorded release.

    Args:
        spec: The release spec.
        evidence: Evidence files, or folders that hold them at any depth.
        registration: registration.json, or a folder that holds it at any depth.
        verdict: verdict.json, or a folder that holds it at any depth.
        key: The private key; the one that the environment names, if None.
        out: The attestation to be written.

    Raises:
        UserError: If there is no key, a file cannot be read, or the verdict is not what the evidence gives.
    """
    signer = signing_key(key)
    if signer is None:
        raise UserError(f"no key: give --key or set {SIGNING_KEY}; `tokenbuncher keygen` makes one")
    pieces, unreadable = read_all_evidence(evidence)
    write_text(out, sign(spec, pieces, read_registration(registration), read_verdict(verdict), signer, unreadable))


def explain_release(
    spec: ReleaseSpec,
    evidence: Sequence[Path],
    registration: Path,
    other: ReleaseSpec | None = None,
    as_json: bool = False,
) -> str:
    """Why a recorded release does not pass, and what another policy would change.

    Args:
        spec: The release spec.
        evidence: Evidence files, or folders that hold them at any depth.
        registration: registration.json, or a folder that holds it at any depth.
        other: The spec with another policy.
        as_json: JSON instead of text.
    """
    registered = read_registration(registration)
    pieces, unreadable = read_all_evidence(evidence)
    verdict = judge_release(spec, pieces, registered, unreadable)
    explanations = explain(pieces, verdict, spec.policy.confidence)
    alternative = judge_release(other, pieces, registered, unreadable) if other else None
    if as_json:
        document = {
            "outcome": verdict.outcome,
            "explanations": [explanation.model_dump(mode="json") for explanation in explanations],
            "what_if": alternative.model_dump(mode="json") if alternative else None,
        }
        return json.dumps(document, indent=1)
    lines = [f"{verdict.outcome} by policy {spec.policy.name}: {verdict.name} version {verdict.version}"]
    lines += [f"  {explanation}" for explanation in explanations]
    if other and alternative:
        lines += ["", f"{alternative.outcome} by policy {other.policy.name}", *_changes(verdict, alternative)]
    return "\n".join(lines)


def _changes(one: Verdict, other: Verdict) -> Iterator[str]:
    """What the second verdict says otherwise, rule by rule."""
    before = {(f.rule, f.subject): f for f in one.findings}
    after = {(f.rule, f.subject): f for f in other.findings}
    for key in dict.fromkeys([*before, *after]):
        was, now = before.get(key), after.get(key)
        if (was and (was.outcome, was.decides)) != (now and (now.outcome, now.decides)):
            yield f"  {key[0]}, {key[1]}: {_state(was)} -> {_state(now)}" + (f"  {now.message}" if now else "")


def _state(finding: Finding | None) -> str:
    if finding is None:
        return "not judged"
    return finding.outcome + ("" if finding.decides else " (waived)" if finding.waiver else " (reported)")
