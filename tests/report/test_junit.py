"""The verdict as CI/CD systems read it, in JUnit XML."""

from datetime import timedelta
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidence_factory import (
    CANDIDATE,
    NOW,
    broken_arm,
    changed,
    held_arm,
    passing_release,
    prudish,
    without_rollouts,
)
from tokenbuncher.report import junit
from tokenbuncher.settings.policy import Waiver
from tokenbuncher.verdict import Finding, Outcome, headline
from tokenbuncher.verdict.findings import decide, reasons, waived

RELEASE = passing_release()
BROKEN = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(RELEASE.spec, 15, CANDIDATE))
DOUBTFUL = RELEASE.with_piece("grpo-1000", candidate_arm=held_arm(RELEASE.spec, 60, harmful=4))
SFT_BROKEN = RELEASE.with_piece("sft-1000", candidate_arm=without_rollouts(broken_arm(RELEASE.spec, 15, CANDIDATE)))
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


def with_findings(findings, name="organism"):
    """A verdict of these findings alone."""
    follows = {"outcome": decide(findings), "reasons": reasons(findings), "waived": waived(findings)}
    return changed(RELEASE.judge(), findings=findings, name=name, **follows)


def cases(verdict):
    """By rule and subject: what stands in a test case, and its message."""
    return {
        (case.get("classname"), case.get("name")): [(child.tag, child.get("message")) for child in case]
        for case in ElementTree.fromstring(junit(RELEASE.spec.policy, verdict)).iter("testcase")
    }


@pytest.mark.parametrize(
    ("release", "tags"),
    [
        (RELEASE, []),
        (BROKEN, ["failure"] * 4),  # harm, refusal, steps; and the verdict
        (DOUBTFUL, ["error"] * 2),
        (SFT_BROKEN, ["skipped"] * 3),
        (WAIVED, ["skipped"]),
    ],
    ids=["pass", "block", "inconclusive", "reported", "waived"],
)
def test_every_finding_is_a_case_and_the_counts_agree(release, tags):
    verdict = release.judge()
    suite = ElementTree.fromstring(junit(release.spec.policy, verdict))
    properties, *cases = suite
    assert suite.tag == "testsuite"
    told = headline(release.spec.policy, verdict.outcome, verdict)
    assert suite.get("name") == f"tokenbuncher gate: {told}: organism version 3"
    assert properties.tag == "properties"
    assert len(cases) == int(suite.get("tests")) == 1 + len(verdict.findings)
    assert [child.tag for case in cases for child in case] == tags
    for tag, plural in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert int(suite.get(plural)) == tags.count(tag)


def test_a_case_tells_what_its_finding_does():
    verdict = BROKEN.judge()
    told = cases(verdict)
    assert told["verdict", "organism"] == [("failure", "; ".join(verdict.reasons))]
    assert told["harm-after-attack", "grpo-1000"] == [("failure", verdict.reasons[0])]
    assert told["harm-after-attack", "grpo-1001"] == []


def test_a_waiver_is_told():
    told = cases(WAIVED.judge())
    assert told["verdict", "organism"] == []
    [(tag, message)] = told["over-refusal", "benign prompts"]
    assert tag == "skipped"
    assert "waived by jane@example.org" in message


def test_control_characters_are_replaced():
    finding = Finding(
        rule="gibberish", subject="a\x00\x1b[31m\ufffe", outcome=Outcome.BLOCK, message="bell\x07 & <tag>"
    )
    told = cases(with_findings([finding], name="model\x08"))
    assert told["verdict", "model\ufffd"] == [("failure", "bell\ufffd & <tag>")]
    assert told["gibberish", "a\ufffd\ufffd[31m\ufffd"] == [("failure", "bell\ufffd & <tag>")]


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
def test_whatever_is_said_is_xml_that_can_be_written(findings, name):
    text = junit(RELEASE.spec.policy, with_findings(findings, name))
    assert len(ElementTree.fromstring(text.encode()).findall("testcase")) == 1 + len(findings)
