"""What the terminal shows of a release that does not pass."""

from datetime import timedelta

import pytest

from tests.evidence_factory import (
    CANDIDATE,
    NOW,
    benign_scores,
    broken_arm,
    changed,
    held_arm,
    measured_as,
    passing_release,
    prudish,
)
from tokenbuncher.report import failures
from tokenbuncher.report.terminal import WIDTH
from tokenbuncher.settings.policy import Waiver
from tokenbuncher.verdict import Outcome

RELEASE = passing_release()
SPEC = RELEASE.spec
BROKEN = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(SPEC, 15, CANDIDATE))
DOUBTFUL = BROKEN.with_piece("grpo-1001", candidate_arm=measured_as(held_arm(SPEC, 60, harmful=4), 2))
WAIVER = Waiver(rule="over-refusal", approver="jane", reason="on purpose", expires=NOW + timedelta(days=10))


def rules(lines):
    """Rule and subject of each row, in order; the titles of the tables between them."""
    return [" ".join(line.split()[:2]) for line in lines if line.startswith("  ")]


def renamed(verdict, subject, **changes):
    """The verdict with one subject called otherwise."""
    findings = [changed(f, subject=subject, **changes) if f.subject == "grpo-1000" else f for f in verdict.findings]
    return verdict.model_copy(update={"findings": findings})


def test_a_release_that_passes_has_no_table():
    assert failures(RELEASE.judge()) == []


def test_violations_come_before_doubts_and_the_worst_comes_first():
    lines = failures(DOUBTFUL.judge())
    titles = [line for line in lines if line.endswith("findings:") or line.endswith("finding:")]
    assert titles == ["BLOCK, 3 findings:", "INCONCLUSIVE, 1 finding:"]
    assert rules(lines) == [
        "rule subject",
        "harm-after-attack grpo-1000",
        "refusal-after-attack grpo-1000",
        "steps-to-break grpo-1000",
        "what to",
        "rule subject",
        "harm-after-attack grpo-1001",
    ]


def test_a_row_has_what_was_measured_its_bound_what_is_needed_and_what_to_do():
    [finding] = [f for f in DOUBTFUL.judge().findings if f.subject == "grpo-1001" and f.rule == "harm-after-attack"]
    row = next(line for line in failures(DOUBTFUL.judge()) if "grpo-1001" in line)
    figures = f"{finding.measured:.2%}  {finding.bound:.2%}  <= 5.00%  {finding.advice}"
    assert row.split("  ", 3)[3].strip() == figures
    assert finding.advice.startswith("measure about ")


def test_what_to_do_about_all_of_them_is_said_once():
    lines = failures(BROKEN.judge())
    assert [line for line in lines if "harden" in line] == ["  what to do: harden the model further"]
    assert "what to do" not in lines[1]


def test_evidence_that_cannot_be_judged_is_shown_with_what_is_wrong():
    lines = failures(RELEASE.with_evidence(RELEASE.evidence[2:]).judge())
    rows = [line.split() for line in lines if line.startswith("  evidence")]
    assert rows == [["evidence", key, "missing."] for key in ("grpo-1000", "grpo-1001")]
    assert "  what to do: run its stage" in lines


def test_waived_failures_are_shown_with_who_answers_for_them():
    release = prudish(RELEASE, refused=30).with_policy(waivers=[WAIVER])
    lines = failures(release.judge())
    assert release.judge().outcome is Outcome.PASS
    assert lines[0] == "waived, 1 finding:"
    assert lines[1].endswith("waiver")
    assert "waived by jane until" in lines[2]


@pytest.mark.parametrize("release", [DOUBTFUL, prudish(BROKEN, refused=30).with_policy(waivers=[WAIVER])])
@pytest.mark.parametrize(
    "subject", ["x" * 300 + "-1000", "short-7", "a name of many words, and a few more of them-1000"]
)
def test_no_line_is_too_long_and_the_seed_stays(release, subject):
    lines = failures(renamed(release.judge(), subject))
    assert max(map(len, lines)) <= WIDTH
    assert sum(subject[-5:] in line for line in lines) == 3


@pytest.mark.parametrize("advice", ["", "x" * 300])
def test_neither_advice_of_before_nor_much_of_it_breaks_the_table(advice):
    lines = failures(renamed(DOUBTFUL.judge(), "grpo-1000", advice=advice))
    assert max(len(line) for line in lines if "what to do" not in line) <= WIDTH
    assert rules(lines)[1] == "harm-after-attack grpo-1000"


def test_statements_of_several_lines_are_shown_in_one():
    twisted = renamed(RELEASE.judge(), "grpo-1000", rule="evidence", outcome=Outcome.INCONCLUSIVE, measured=None)
    findings = [
        changed(f, message="evidence, grpo-1000: a\nb.") if f.rule == "evidence" else f for f in twisted.findings
    ]
    lines = failures(twisted.model_copy(update={"findings": findings}))
    assert all("\n" not in line for line in lines)
    assert any(line.endswith("a b.") for line in lines)


def test_advice_is_short_enough_for_its_column():
    harmless = {"candidate_benign": benign_scores(SPEC, refused=30, gibberish=25)}
    for release in (DOUBTFUL, RELEASE.with_piece("safety", **harmless)):
        assert all(len(finding.advice) <= 45 for finding in release.judge().findings)
