"""The in-toto statement: which files were judged, by which policy, with which result.

The predicate is in-toto's test-result (https://in-toto.io/attestation/test-result/v0.1) with what an evaluation
adds: each metric with its threshold, value, interval and sample size, the attacks with their seeds, the files' sizes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, JsonValue

from tokenbuncher.evidence import Count, Digest, Record, Registration
from tokenbuncher.settings import AttackSpec, ReleaseSpec
from tokenbuncher.settings.policy import laxer
from tokenbuncher.verdict import Finding, Outcome, Verdict, headline

STATEMENT_TYPE: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Literal["https://in-toto.io/attestation/test-result/v0.1"] = (
    "https://in-toto.io/attestation/test-result/v0.1"
)
RESULTS: dict[Outcome, Literal["PASSED", "WARNED", "FAILED"]] = {
    Outcome.PASS: "PASSED",
    Outcome.INCONCLUSIVE: "WARNED",
    Outcome.BLOCK: "FAILED",
}


class DigestSet(Record):
    """in-toto's DigestSet with the one algorithm used here."""

    sha256: Digest


class Resource(Record):
    """in-toto's ResourceDescriptor: something with a name and a digest."""

    name: Annotated[str, Field(min_length=1)]
    digest: DigestSet


class StoredFile(Record):
    """What the store records about a subject, so that it can be checked without reading it."""

    name: str
    size: Count
    stored: str | None


class Evaluation(Record):
    """One rule's finding."""

    metric: str
    subject: str
    outcome: Outcome
    required: bool
    value: float | None
    bound: float | None
    comparator: Literal["<=", ">="] | None
    threshold: float | None
    prompts: int | None
    samples: int | None
    waiver: str | None

    @classmethod
    def of(cls, finding: Finding) -> Evaluation:
        """The figures of a finding, without its message."""
        fields = finding.model_dump(exclude={"rule", "measured", "message", "advice"})
        return cls(metric=finding.rule, value=finding.measured, **fields)


class Attack(Record):
    """An attack that was run."""

    key: str
    seed: int
    attack: AttackSpec


class Predicate(Record):
    """in-toto's test-result, and the evaluation."""

    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: list[Resource] = Field(description="Policy, release spec, prompt sets and base model.")
    passedTests: list[str]
    warnedTests: list[str]
    failedTests: list[str]
    model: str
    version: str
    confidence: float
    created: AwareDatetime
    expires: AwareDatetime
    toolVersion: str
    reasons: list[str]
    waived: list[str]
    evaluations: list[Evaluation]
    attacks: list[Attack]
    files: list[StoredFile]
    headline: str = Field("", description="The result in words, never better than it is; empty before there was one.")
    policy: dict[str, JsonValue] = Field({}, description="The policy that its digest is of; empty before it was told.")
    laxer: list[str] = Field([], description="Fields in which it asks for less than the shipped policy research.")
    tries: Count | None = Field(
        None, description="The number of this try under its name; null if the tries were not counted."
    )

    def configured(self, name: str) -> str | None:
        """The digest of a part of the configuration; None if the part is missing."""
        return next((part.digest.sha256 for part in self.configuration if part.name == name), None)


class Statement(Record):
    """An in-toto statement, version 1."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(STATEMENT_TYPE, alias="_type")
    subject: Annotated[list[Resource], Field(min_length=1)]
    predicateType: Literal["https://in-toto.io/attestation/test-result/v0.1"] = PREDICATE_TYPE
    predicate: Predicate

    def files(self) -> dict[str, str]:
        """sha256 of every file, by relative POSIX path."""
        return {file.name: file.digest.sha256 for file in self.subject}


def statement_of(spec: ReleaseSpec, registration: Registration, verdict: Verdict) -> Statement:
    """The statement about a registered version that a verdict stands for."""
    configuration = {
        "policy": verdict.policy,
        "release-spec": verdict.spec,
        "data": verdict.data,
        "base-model": verdict.base,
    }
    return Statement(
        subject=[Resource(name=file.name, digest=DigestSet(sha256=file.sha256)) for file in registration.files],
        predicate=Predicate(
            result=RESULTS[verdict.outcome],
            configuration=[
                Resource(name=name, digest=DigestSet(sha256=digest)) for name, digest in configuration.items() if digest
            ],
            passedTests=_names(f for f in verdict.findings if f.outcome is Outcome.PASS),
            warnedTests=_names(f for f in verdict.findings if f.outcome is not Outcome.PASS and not f.decides),
            failedTests=_names(f for f in verdict.findings if f.outcome is not Outcome.PASS and f.decides),
            model=verdict.name,
            version=verdict.version,
            confidence=spec.policy.confidence,
            created=verdict.created,
            expires=verdict.expires,
            toolVersion=verdict.tool_version,
            reasons=verdict.reasons,
            waived=verdict.waived,
            evaluations=[Evaluation.of(finding) for finding in verdict.findings],
            attacks=[Attack(key=task.key, seed=task.seed, attack=task.attack) for task in spec.attacks.tasks()],
            files=[StoredFile(name=file.name, size=file.size, stored=file.stored) for file in registration.files],
            headline=headline(spec.policy, verdict.outcome, verdict),
            policy=spec.policy.document(),
            laxer=laxer(spec.policy),
            tries=verdict.tries,
        ),
    )


def _names(findings: Iterable[Finding]) -> list[str]:
    return [f"{finding.rule}/{finding.subject}" for finding in findings]
