"""The figures of a whole release, judged or ended before its verdict."""

from __future__ import annotations

from collections.abc import Sequence

from tokenbuncher.evidence import AttackEvidence, SafetyEvidence, UtilityEvidence
from tokenbuncher.report.deciding import deciding
from tokenbuncher.report.figures import DefenceFigures, PieceFigures, ReleaseFigures
from tokenbuncher.report.measured import attack_figures, safety_figures, task_figures, tuning_figures
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.policy import laxer
from tokenbuncher.settings.prompts import Manifest
from tokenbuncher.verdict import AnyPiece, Outcome, Verdict, headline
from tokenbuncher.verdict.judge import unsound


def release_figures(
    spec: ReleaseSpec, verdict: Verdict, evidence: Sequence[AnyPiece], *, defence: DefenceFigures | None = None
) -> ReleaseFigures:
    """The figures of a judged release.

    Args:
        spec: The release spec.
        verdict: The verdict, whichever it is.
        evidence: The evidence that it was made from; parts may be missing.
        defence: How the defence went, if its step log is at hand; see `defence_figures`.
    """
    return _figures(spec, evidence, verdict.outcome, reasons=verdict.reasons, verdict=verdict, defence=defence)


def broken_figures(
    spec: ReleaseSpec,
    evidence: Sequence[AnyPiece],
    problems: Sequence[str],
    *,
    unreadable: Sequence[str] = (),
    defence: DefenceFigures | None = None,
) -> ReleaseFigures:
    """The figures of a run that ended before a version could be judged: there is no verdict, so nothing passed.

    Args:
        spec: The release spec.
        evidence: The evidence that the run has left.
        problems: Why the run ended.
        unreadable: Why other pieces of evidence could not be read.
        defence: How the defence went, if its step log is at hand.
    """
    found = {piece_name(piece) for piece in evidence}
    expected = [*(task.key for task in spec.attacks.tasks()), "safety", "utility"]
    doubts = [unsound("files", problem) for problem in unreadable]
    doubts += [unsound(name, "missing", "run its stage") for name in expected if name not in found]
    reasons = [*problems, *(doubt.message for doubt in doubts)]
    return _figures(spec, evidence, Outcome.INCONCLUSIVE, reasons=reasons, verdict=None, defence=defence)


def _figures(
    spec: ReleaseSpec,
    evidence: Sequence[AnyPiece],
    outcome: Outcome,
    *,
    reasons: Sequence[str],
    verdict: Verdict | None,
    defence: DefenceFigures | None,
) -> ReleaseFigures:
    findings = verdict.findings if verdict else []
    attacks = sorted((piece for piece in evidence if isinstance(piece, AttackEvidence)), key=lambda piece: piece.key)
    safety = [piece for piece in evidence if isinstance(piece, SafetyEvidence)]
    utility = [piece for piece in evidence if isinstance(piece, UtilityEvidence)]
    ordered: list[AnyPiece] = [*attacks, *safety, *utility]
    return ReleaseFigures(
        outcome=outcome,
        headline=headline(spec.policy, outcome, verdict),
        laxer=laxer(spec.policy),
        tries=verdict.tries if verdict else None,
        reasons=list(reasons),
        deciding=deciding(findings, outcome),
        verdict=verdict,
        defence=defence,
        attacks=[attack_figures(piece, spec.policy.required_attacks, findings) for piece in attacks],
        safety=[safety_figures(piece) for piece in safety],
        utility=[task for piece in utility for task in task_figures(piece)],
        fine_tuning=[tuning_figures(tuning) for piece in utility for tuning in piece.fine_tuning],
        manifests=[_without_ids(piece.manifest) for piece in safety],
        evidence=[_piece(piece) for piece in ordered],
        spec=spec,
    )


def _without_ids(manifest: Manifest) -> Manifest:
    """A report names no prompt, not even by its identifier."""
    sets = {name: entry.model_copy(update={"ids": []}) for name, entry in manifest.sets.items()}
    return manifest.model_copy(update={"sets": sets})


def _piece(piece: AnyPiece) -> PieceFigures:
    shared = {name: getattr(piece, name) for name in PieceFigures.model_fields if name not in ("name", "seed")}
    return PieceFigures(name=piece_name(piece), seed=getattr(piece, "seed", None), **shared)


def piece_name(piece: AnyPiece) -> str:
    """The key of an attack, else what it is about."""
    return piece.key if isinstance(piece, AttackEvidence) else piece.kind
