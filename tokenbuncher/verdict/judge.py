"""The judgement on a release: every piece of evidence that the spec calls for, checked, then judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from tokenbuncher.evidence import AttackEvidence, Evidence, Registration, SafetyEvidence, UtilityEvidence
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.policy import PolicySpec
from tokenbuncher.verdict.consistency import contradictions
from tokenbuncher.verdict.findings import Finding, Outcome, Verdict, conclude
from tokenbuncher.verdict.rules.attacks import judge_attack
from tokenbuncher.verdict.rules.safety import judge_safety
from tokenbuncher.verdict.rules.utility import judge_utility
from tokenbuncher.verdict.soundness import attack_problems, binding_problems, safety_problems, utility_problems

AnyPiece = AttackEvidence | SafetyEvidence | UtilityEvidence
Piece = TypeVar("Piece", AttackEvidence, SafetyEvidence, UtilityEvidence)


def judge_release(
    spec: ReleaseSpec,
    evidence: Sequence[AnyPiece],
    registration: Registration,
    *,
    unreadable: Sequence[str] = (),
    now: datetime | None = None,
) -> Verdict:
    """Judges a registered version by all evidence about it, and fails closed: what is not shown is not passed.

    Pure: reads no file, and the order of the evidence does not matter.

    Args:
        spec: The release spec.
        evidence: Every piece of evidence there is.
        registration: The registered version.
        unreadable: Why other pieces could not be read. Each is a reason not to pass.
        now: The time of the judgement; the present, if None.

    Returns:
        The verdict, whatever the evidence holds.
    """
    now = now or datetime.now(UTC)
    findings = [unsound("files", problem) for problem in sorted(unreadable)]
    findings += [unsound("release", problem) for problem in _release_problems(spec, evidence, registration)]
    findings += _judge_tries(spec.policy, registration)
    findings += _judge_pieces(spec, evidence, partial(binding_problems, spec=spec, registration=registration, now=now))
    if not any(finding.rule == "evidence" for finding in findings):
        findings += [unsound("release", problem) for problem in _contradictions(spec, evidence)]
    findings, waived_until = _waive(findings, spec.policy, now)
    oldest = min([now, *(piece.created for piece in evidence if piece.created.tzinfo)])
    return conclude(
        findings,
        spec,
        registration,
        base=_common(piece.base for piece in evidence),
        data=_common(piece.data for piece in evidence),
        created=now,
        expires=min([oldest + timedelta(days=spec.policy.valid_days), *waived_until]),
    )


def _judge_pieces(
    spec: ReleaseSpec, evidence: Sequence[AnyPiece], bound: Callable[[Evidence], Iterable[str]]
) -> Iterator[Finding]:
    """The findings on every piece that the spec calls for."""
    for task in spec.attacks.tasks():
        yield from _judge_piece(
            task.key,
            [piece for piece in evidence if isinstance(piece, AttackEvidence) and piece.key == task.key],
            [bound, partial(attack_problems, task=task, spec=spec)],
            rules=partial(judge_attack, spec, task),
        )
    yield from _judge_piece(
        "safety",
        [piece for piece in evidence if isinstance(piece, SafetyEvidence)],
        [bound, partial(safety_problems, spec=spec)],
        rules=partial(judge_safety, spec),
    )
    yield from _judge_piece(
        "utility",
        [piece for piece in evidence if isinstance(piece, UtilityEvidence)],
        [bound, partial(utility_problems, spec=spec)],
        rules=partial(judge_utility, spec),
    )


def _waive(findings: list[Finding], policy: PolicySpec, now: datetime) -> tuple[list[Finding], list[datetime]]:
    """The findings, with the failures marked that a waiver covers, and when these waivers expire."""
    judged, until = [], []
    for finding in findings:
        waiver = policy.waiver(finding.rule, finding.subject, now)
        if waiver and finding.required and finding.outcome is not Outcome.PASS:
            judged.append(finding.model_copy(update={"waiver": str(waiver)}))
            until.append(waiver.expires)
        else:
            judged.append(finding)
    return judged, until


def unsound(subject: str, problem: str, advice: str = "") -> Finding:
    """Evidence that shows nothing, and what to do about it."""
    return Finding.of("evidence", subject, Outcome.INCONCLUSIVE, statement=problem, advice=advice)


def _judge_piece(
    subject: str,
    pieces: Sequence[Piece],
    checks: Sequence[Callable[[Piece], Iterable[str]]],
    *,
    rules: Callable[[Piece], list[Finding]],
) -> list[Finding]:
    """The rules' findings on the one piece there must be, if it is sound; otherwise what is wrong with it."""
    if not pieces:
        return [unsound(subject, "missing", "run its stage")]
    if len(pieces) > 1:
        return [unsound(subject, f"given {len(pieces)} times", "give it once")]
    for check in checks:
        if problems := list(check(pieces[0])):
            return [unsound(subject, problem, "run its stage again") for problem in problems]
    return rules(pieces[0])


def _release_problems(spec: ReleaseSpec, evidence: Sequence[AnyPiece], registration: Registration) -> Iterator[str]:
    """What is wrong between the pieces, and pieces that the spec does not call for."""
    if registration.name != spec.tracking.model_name:
        yield f"the version is of model {registration.name}; the spec releases {spec.tracking.model_name}"
    for what, digests in (("base models", {p.base for p in evidence}), ("prompt sets", {p.data for p in evidence})):
        if len(digests) > 1:
            yield f"the pieces are about different {what}: {', '.join(sorted(d[:12] for d in digests))}"
    keys = {task.key for task in spec.attacks.tasks()}
    strange = {piece.key for piece in evidence if isinstance(piece, AttackEvidence)} - keys
    for key in sorted(strange):
        yield f"attack {key} is not in the spec"


def _contradictions(spec: ReleaseSpec, evidence: Sequence[AnyPiece]) -> Iterator[str]:
    """Contradictions between the pieces, each of which is sound and there once."""
    order = [task.key for task in spec.attacks.tasks()]
    attacks = sorted((p for p in evidence if isinstance(p, AttackEvidence)), key=lambda attack: order.index(attack.key))
    (safety,) = (piece for piece in evidence if isinstance(piece, SafetyEvidence))
    (utility,) = (piece for piece in evidence if isinstance(piece, UtilityEvidence))
    return contradictions(attacks, safety, utility, spec=spec)


def _judge_tries(policy: PolicySpec, registration: Registration) -> list[Finding]:
    """Limits the number of tries: with enough of them, one passes by chance."""
    if policy.max_tries is None:
        return []
    tries = registration.tries
    if tries is None or tries.earlier is None:
        why = (tries and tries.doubt) or "this registration does not say"
        return [unsound("tries", f"how often {registration.name} was tried is not known: {why}", "register it again")]
    number, few = tries.earlier + 1, tries.earlier < policy.max_tries
    return [
        Finding.of(
            "tries",
            registration.name,
            Outcome.PASS if few else Outcome.BLOCK,
            statement=f"this is try {number} of the name; the policy allows {policy.max_tries}",
            meaning="" if few else "whoever tries often enough passes by chance",
            advice="" if few else "raise max_tries, if somebody answers for it",
            measured=number,
            comparator="<=",
            threshold=policy.max_tries,
        )
    ]


def _common(digests: Iterable[str]) -> str | None:
    distinct = set(digests)
    return distinct.pop() if len(distinct) == 1 else None
