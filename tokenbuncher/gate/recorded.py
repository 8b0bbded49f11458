"""What can be done with a recorded release after the gate: explain it, sign it, or compare it with another."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenbuncher.attestation import SIGNING_KEY, Statement, sign, signing_key
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import add_to_output, check_output_file, write_text
from tokenbuncher.evidence import found_below, read_all_evidence, read_registration
from tokenbuncher.report import COMPARISON_MARK, ReleaseFigures, compare_report, release_figures
from tokenbuncher.report.tables import thresholds
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.policy import laxer
from tokenbuncher.verdict import FILE_NAME as VERDICT_NAME
from tokenbuncher.verdict import Finding, Verdict, headline, judge_release, read_verdict
from tokenbuncher.verdict.explain import explain

RecordedAt = tuple[ReleaseSpec, Sequence[Path], Path]
"""Spec, evidence and registration of a recorded release."""


def sign_release(
    spec: ReleaseSpec, evidence: Sequence[Path], registration: Path, *, verdict: Path, key: Path | None, out: Path
) -> None:
    """Signs the verdict of a recorded release.

    Args:
        spec: The release spec.
        evidence: Evidence files, or folders that hold them at any depth.
        registration: registration.json, or a folder that holds it at any depth.
        verdict: verdict.json, or a folder that holds it at any depth.
        key: The private key; if None, the one that the environment names.
        out: The attestation file to write.

    Raises:
        UserError: If the output would replace something else, there is no key, a file cannot be read, or the verdict
            does not follow from the evidence.
    """
    check_output_file(out, _is_attestation)
    signer = signing_key(key)
    if signer is None:
        raise UserError(f"no key: give --key or set {SIGNING_KEY}; `tokenbuncher keygen` makes one")
    pieces, unreadable = read_all_evidence(evidence)
    add_to_output(
        out,
        sign(
            spec,
            pieces,
            read_registration(registration),
            verdict=read_verdict(verdict),
            signer=signer,
            unreadable=unreadable,
        ),
    )


def compare_releases(first: RecordedAt, second: RecordedAt, out: Path) -> None:
    """Writes two recorded releases side by side, as HTML.

    Args:
        first: The spec, evidence and registration of a release; see `sign_release`.
        second: The same of another release.
        out: The HTML file to write.

    Raises:
        UserError: If the output would replace something else, or a registration or verdict cannot be read.
    """
    check_output_file(out, lambda content: COMPARISON_MARK.encode() in content)
    names = [", ".join(map(str, evidence)) for _, evidence, _ in (first, second)]
    write_text(out, compare_report(_figures(*first), _figures(*second), names))


def _is_attestation(content: bytes) -> bool:
    try:
        Statement.model_validate_json(base64.b64decode(json.loads(content)["payload"]))
    except (ValueError, TypeError, KeyError):
        return False
    return True


def _figures(spec: ReleaseSpec, evidence: Sequence[Path], registration: Path) -> ReleaseFigures:
    """The figures of a recorded release, with the verdict that lies beside its evidence, or else with one made now.

    Evidence of another version of the tool cannot be judged here, so the recorded verdict comes first.
    """
    pieces, unreadable = read_all_evidence(evidence)
    recorded = [path for folder in evidence for path in found_below(folder, VERDICT_NAME) if path.exists()]
    if recorded:
        verdict = read_verdict(recorded[0])
    else:
        verdict = judge_release(spec, pieces, read_registration(registration), unreadable=unreadable)
    return release_figures(spec, verdict, pieces)


def explain_release(
    spec: ReleaseSpec,
    evidence: Sequence[Path],
    registration: Path,
    *,
    other: ReleaseSpec | None = None,
    as_json: bool = False,
) -> str:
    """Why a recorded release does not pass, and what would change by another policy.

    Args:
        spec: The release spec.
        evidence: Evidence files, or folders that hold them at any depth.
        registration: registration.json, or a folder that holds it at any depth.
        other: The spec with another policy, if there is one to compare.
        as_json: Whether to return JSON instead of text.
    """
    registered = read_registration(registration)
    pieces, unreadable = read_all_evidence(evidence)
    verdict = judge_release(spec, pieces, registered, unreadable=unreadable)
    explanations = explain(spec, pieces, verdict)
    alternative = judge_release(other, pieces, registered, unreadable=unreadable) if other else None
    told = headline(spec.policy, verdict.outcome, verdict)
    if as_json:
        document = {
            "outcome": verdict.outcome,
            "headline": told,
            "policy": spec.policy.model_dump(mode="json"),
            "laxer": laxer(spec.policy),
            "tries": verdict.tries,
            "explanations": [explanation.model_dump(mode="json") for explanation in explanations],
            "what_if": alternative.model_dump(mode="json") if alternative else None,
        }
        return json.dumps(document, indent=1)
    lines = [f"{told} by policy {spec.policy.name}: {verdict.name} version {verdict.version}"]
    lines += [f"  {explanation}" for explanation in explanations]
    lines += [f"  policy: {', '.join(_thresholds(spec))}"]
    if other and alternative:
        told = headline(other.policy, alternative.outcome, alternative)
        lines += ["", f"{told} by policy {other.policy.name}", *_changes(verdict, alternative)]
    return "\n".join(lines)


def _thresholds(spec: ReleaseSpec) -> Iterator[str]:
    for field, value, _, asks_for in thresholds(spec.policy).rows:
        yield f"{field} {value}" + (" (less than research)" if asks_for == "less" else "")


def _changes(one: Verdict, other: Verdict) -> Iterator[str]:
    """What differs in the second verdict, rule by rule."""
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
