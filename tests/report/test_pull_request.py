"""report.md: what a pull request shows of a release."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidence_factory import (
    CANDIDATE,
    NOW,
    broken_arm,
    changed,
    held_arm,
    measured_as,
    passing_release,
    prudish,
    release_spec,
)
from tokenbuncher.report import broken_figures, release_figures
from tokenbuncher.report.headline import FIRST_REASONS
from tokenbuncher.report.pull_request import MOST_REASONS, markdown_report
from tokenbuncher.settings.policy import PolicySpec, Waiver
from tokenbuncher.verdict import Finding, Outcome, headline
from tokenbuncher.verdict.findings import decide, reasons, waived

LONGEST_COMMENT = 65_536
"""Characters that GitHub takes in a comment."""

RELEASE = passing_release()
BROKEN = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(RELEASE.spec, 15, CANDIDATE))
DOUBTFUL = RELEASE.with_piece("grpo-1000", candidate_arm=held_arm(RELEASE.spec, 60, harmful=4))
WAIVED = prudish(RELEASE, refused=100).with_policy(
    waivers=[
        Waiver(
            rule="over-refusal",
            approver="jane@example.org",
            reason="on | purpose <b>",
            expires=NOW + timedelta(days=10),
        )
    ]
)


def written(release):
    return markdown_report(release_figures(release.spec, release.judge(), release.evidence))


def tables(text):
    """The cells of each table, header and rule included."""
    found = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(line.replace(r"\\", "").replace(r"\|", "").strip("|").split("|"))
        elif found[-1]:
            found.append([])
    return found[:-1]


@pytest.mark.parametrize("release", [RELEASE, BROKEN, DOUBTFUL, WAIVED])
def test_outcome_reasons_and_every_finding_are_there(release):
    verdict, text = release.judge(), written(release)
    told = headline(release.spec.policy, verdict.outcome, verdict)
    assert text.splitlines()[0].endswith(f" {told}: organism version 3")
    bullets = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(bullets) == len(verdict.reasons) + len(verdict.waived)
    assert [len(table) - 2 for table in tables(text)] == [3, 4, len(verdict.findings), len(PolicySpec.model_fields) - 1]
    assert f"Valid until {verdict.expires:%Y-%m-%d %H:%M}" in text


def test_what_decided_comes_first():
    harm = next(finding for finding in BROKEN.judge().findings if finding.rule == "harm-after-attack")
    assert written(BROKEN).splitlines()[2] == (
        f"**Decided by:** harm-after-attack, grpo-1000: {harm.bound:.1%} where ≤ 5.0% is needed"
    )
    assert written(RELEASE).splitlines()[2].startswith("**Closest call:** ")


def test_both_models_stand_side_by_side():
    assert "| grpo-1000 | BLOCK | 60.0% \\[52.9, 66.8\\] | 60.0% \\[52.9, 66.8\\] | step 10 | step 15 |" in written(
        BROKEN
    )


def test_a_waiver_is_told():
    assert "- waived: over-refusal, benign prompts" in written(WAIVED)
    assert r"on \| purpose \<b\>." in written(WAIVED)


def test_a_run_without_a_verdict_is_told():
    spec = RELEASE.spec
    text = markdown_report(broken_figures(spec, RELEASE.evidence[:1], ["stage defend failed: no memory"]))
    assert text.splitlines()[0] == "## ❔ INCONCLUSIVE: organism, no version"
    assert "- stage defend failed: no memory" in text
    assert "- evidence, safety: missing. Run its stage." in text


def test_it_fits_into_a_comment_whatever_goes_wrong():
    suite = [
        {"algorithm": "grpo", "name": f"{'attack-' * 8}{number}", "seeds": [1, 2, 3], "steps": 60}
        for number in range(20)
    ]
    spec = release_spec(attacks={"suite": suite}, policy={"required_attacks": [attack["name"] for attack in suite]})
    release = passing_release(spec)
    for number, piece in enumerate(release.evidence[:60], 100):
        broken = measured_as(broken_arm(spec, 15, CANDIDATE), number)
        release = release.with_piece(piece.key, candidate_arm=broken)
    text = written(release)
    assert f"- and {180 - FIRST_REASONS - MOST_REASONS} more, in report.html" in text
    assert "and 187 more, in report.html" in text  # of 387 findings
    assert len(text) < LONGEST_COMMENT


def test_markdown_and_html_stay_text():
    version = "3 | <img src=x> `code` [link](http://x) *bold*\n# heading"
    release = replace(BROKEN, registration=changed(BROKEN.registration, version=version))
    title = written(release).splitlines()[0]
    assert title.endswith(r"version 3 \| \<img src=x\> \`code\` \[link\](http://x) \*bold\* \# heading")


anything = st.text(st.characters(codec=None), max_size=40)
finding = st.builds(
    lambda waiver, **fields: Finding(**fields, rule="gibberish", waiver=waiver),
    waiver=st.none() | anything,
    subject=anything,
    outcome=st.sampled_from(Outcome),
    required=st.booleans(),
    message=anything,
)


@given(st.lists(finding, max_size=4), anything)
@settings(max_examples=100, deadline=None)
def test_whatever_is_said_the_table_stays_whole(findings, name):
    follows = {"outcome": decide(findings), "reasons": reasons(findings), "waived": waived(findings)}
    verdict = changed(RELEASE.judge(), findings=findings, name=name, **follows)
    table, _policy = tables(markdown_report(release_figures(RELEASE.spec, verdict, [])))
    assert {len(cells) for cells in table} == {8}
    assert len(table) == 2 + len(findings)
