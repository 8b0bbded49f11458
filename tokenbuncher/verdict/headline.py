"""The headline of a verdict, which never sounds better than the verdict is: PASS, PASS with 2 rules waived, ..."""

from __future__ import annotations

from collections.abc import Iterator

from tokenbuncher.settings.policy import PolicySpec, laxer
from tokenbuncher.verdict.findings import Outcome, Verdict


def headline(policy: PolicySpec, outcome: Outcome, verdict: Verdict | None) -> str:
    """The outcome, how many rules were waived, and where the policy asks for less than the shipped `research`.

    Args:
        policy: The policy that the release was judged by.
        outcome: The outcome.
        verdict: The verdict; None if there was no version to judge.
    """
    return str(outcome) + "".join(_conditions(policy, verdict))


def _conditions(policy: PolicySpec, verdict: Verdict | None) -> Iterator[str]:
    if verdict and (rules := {finding.rule for finding in verdict.findings if finding.waiver}):
        yield f" with {len(rules)} {'rule' if len(rules) == 1 else 'rules'} waived"
    elif verdict and policy.waivers_in_force(verdict.created):
        yield " with waivers in force, none of them needed"
    if fields := laxer(policy):
        yield f" (policy laxer than research: {', '.join(fields)})"
