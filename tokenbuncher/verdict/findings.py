"""The verdict, its findings, and how the findings decide the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from tokenbuncher.core.version import __version__
from tokenbuncher.evidence import Count, Digest, Moment, Record, Registration, only_below, read_record
from tokenbuncher.settings import ReleaseSpec

FILE_NAME = "verdict.json"


class Outcome(StrEnum):
    """Only PASS lets a version be promoted."""

    PASS = "PASS"
    BLOCK = "BLOCK"
    INCONCLUSIVE = "INCONCLUSIVE"


class Finding(Record):
    """One rule, judged on one subject."""

    rule: str
    subject: str
    outcome: Outcome
    required: bool = True
    """False: reported only; never changes the verdict."""
    measured: float | None = None
    bound: float | None = None
    """The confidence bound of the measured value, on the side that matters, at the rule's confidence."""
    comparator: Literal["<=", ">="] | None = None
    threshold: float | None = None
    prompts: int | None = None
    samples: int | None = None
    message: str
    advice: str = ""
    """What to do about it, in a few words; empty if it passes, and in verdicts of before there was advice."""
    waiver: str | None = None
    """Who answers for the failure, and until when. It is then part of the verdict without deciding it."""

    @classmethod
    def of(
        cls,
        rule: str,
        subject: str,
        outcome: Outcome,
        *,
        statement: str,
        meaning: str = "",
        advice: str = "",
        **figures: Any,
    ) -> Self:
        """A finding with its message.

        Args:
            rule: The rule that was judged.
            subject: What it was judged on.
            outcome: The outcome.
            statement: What was found.
            meaning: What that means, if it does not pass.
            advice: What to do about it, in a few words.
            **figures: The other fields.
        """
        remedy = "; ".join(filter(None, (meaning, advice)))
        message = f"{rule}, {subject}: {statement}." + (f" {remedy[0].upper()}{remedy[1:]}." if remedy else "")
        return cls(rule=rule, subject=subject, outcome=outcome, message=message, advice=advice, **figures)

    @property
    def decides(self) -> bool:
        """Whether the finding counts: it is required and not waived."""
        return self.required and self.waiver is None

    @property
    def counts_steps(self) -> bool:
        """Whether its figures are steps of an attack, and not shares."""
        return self.rule == "steps-to-break"

    @model_validator(mode="after")
    def _evidence_is_not_waived(self) -> Self:
        if self.waiver is not None and self.rule == "evidence":
            raise ValueError("evidence that cannot be judged cannot be waived")
        return self


class Verdict(Record):
    """The judgement on one registered version."""

    schema_version: Literal["tokenbuncher/v1"] = "tokenbuncher/v1"
    outcome: Outcome
    reasons: list[str]
    """Messages of the deciding findings that do not pass, violations first."""
    waived: list[str]
    """Messages of the failures that somebody answers for, with the waiver."""
    name: str
    version: str
    candidate: Digest
    base: Digest | None
    """None if the evidence names none, or several."""
    data: Digest | None
    spec: Digest
    policy: Digest
    tool_version: str
    created: Moment
    expires: Moment
    """When its evidence becomes stale, or a waiver that it needs expires."""
    findings: list[Finding]
    tries: Count | None = None
    """The number of this try under its name; None if the tries were not counted."""

    @model_validator(mode="after")
    def _follows_from_findings(self) -> Self:
        follows = decide(self.findings), reasons(self.findings), waived(self.findings)
        if (self.outcome, self.reasons, self.waived) != follows:
            raise ValueError("outcome, reasons and waived do not follow from the findings")
        return self


def decide(findings: Sequence[Finding]) -> Outcome:
    """PASS only if there are deciding findings and all pass; a proven violation outranks a doubt."""
    outcomes = {finding.outcome for finding in findings if finding.decides}
    if Outcome.BLOCK in outcomes:
        return Outcome.BLOCK
    return Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.INCONCLUSIVE


def reasons(findings: Sequence[Finding]) -> list[str]:
    """Why the outcome is not PASS."""
    return [
        finding.message
        for outcome in (Outcome.BLOCK, Outcome.INCONCLUSIVE)
        for finding in findings
        if finding.decides and finding.outcome is outcome
    ]


def waived(findings: Sequence[Finding]) -> list[str]:
    """The failures that somebody answers for."""
    return [f"{finding.message} {finding.waiver}." for finding in findings if finding.waiver is not None]


def conclude(
    findings: list[Finding],
    spec: ReleaseSpec,
    registration: Registration,
    *,
    base: str | None,
    data: str | None,
    created: datetime,
    expires: datetime,
) -> Verdict:
    """The verdict that follows from the findings."""
    counted = registration.tries
    return Verdict(
        outcome=decide(findings),
        reasons=reasons(findings),
        waived=waived(findings),
        name=registration.name,
        version=registration.version,
        candidate=registration.digest,
        base=base,
        data=data,
        spec=spec.evidence_digest(),
        policy=spec.policy_digest(),
        tool_version=__version__,
        created=created,
        expires=expires,
        findings=findings,
        tries=None if counted is None or counted.earlier is None else counted.earlier + 1,
    )


def read_verdict(path: Path) -> Verdict:
    """Reads a verdict file, or the only verdict.json in or below a folder.

    Raises:
        UserError: If it is missing, not the only one, truncated, has a wrong or unknown value, or its outcome does
            not follow from its findings.
    """
    path = only_below(path, FILE_NAME)
    return read_record("verdict", path, Verdict.model_validate_json, advice="; run gate again")
