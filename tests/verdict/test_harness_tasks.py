"""Questions of lm-evaluation-harness: all that the spec asks for, no others, and judged with the spec's own."""

import re

import pytest

from tests.evidence_factory import changed, item, items, passing_release, release_spec
from tokenbuncher.verdict import Outcome

SPEC = release_spec(evaluation={"harness": {"tasks": ["gsm8k", "own"], "limit": 100}})
RELEASE = passing_release(SPEC)
ITEMS = items(SPEC)


def judged(candidate_items, base_items=None):
    base_items = candidate_items if base_items is None else base_items
    return RELEASE.with_piece("utility", base_items=base_items, candidate_items=candidate_items).judge()


def test_the_spec_s_own_are_judged_alone_and_with_them():
    verdict = RELEASE.judge()
    assert verdict.outcome is Outcome.PASS
    drops = [finding for finding in verdict.findings if finding.rule == "utility-drop"]
    assert [(finding.subject, finding.prompts) for finding in drops] == [
        ("utility questions", 300),
        ("utility questions with those of the harness", 500),
    ]


def test_accuracy_lost_on_one_task_alone_blocks():
    lost = [changed(each, correct=each.correct and each.harness != "gsm8k") for each in ITEMS]
    verdict = judged(lost, ITEMS)
    assert verdict.outcome is Outcome.BLOCK
    assert verdict.reasons[0].startswith("utility-drop, utility questions with those of the harness: accuracy lost")


def test_many_easy_questions_do_not_hide_what_the_spec_s_own_lose():
    spec = release_spec(evaluation={"harness": {"tasks": ["own"]}})
    easy = [item(f"own-{number}", "own", True, "own") for number in range(100_000)]
    lost = [*items(spec, wrong=60)[: spec.data.sizes.utility], *easy]
    base = [*items(spec)[: spec.data.sizes.utility], *easy]
    release = passing_release(spec).with_piece("utility", base_items=base, candidate_items=lost)
    assert release.judge().outcome is Outcome.BLOCK


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        ([i for i in ITEMS if i.harness != "own"], "has tasks gsm8k of lm-evaluation-harness; .* gsm8k, own"),
        ([i for i in ITEMS if i.harness is None], "has tasks none of lm-evaluation-harness; .* gsm8k, own"),
        ([*ITEMS, item("other-1", "other", True, "other")], "has tasks gsm8k, other, own of .* gsm8k, own"),
        ([*ITEMS, item("own-100", "own", True, "own")], "101 questions of own were answered; the spec has at most 100"),
        (ITEMS[1:], "299 questions were answered; the spec has 300"),
        ([*ITEMS[1:], item("question-0", "gsm8k", True, "gsm8k")], "299 questions were answered; the spec has 300"),
        ([*ITEMS, ITEMS[-1]], "1 questions were answered more than once"),
    ],
)
def test_other_questions_than_the_spec_s_are_inconclusive(spoilt, says):
    verdict = judged(spoilt)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any(re.search(says, reason) for reason in verdict.reasons)


def test_evidence_with_tasks_that_the_spec_does_not_have_is_inconclusive():
    release = passing_release(release_spec())
    verdict = release.with_piece("utility", base_items=ITEMS, candidate_items=ITEMS).judge()
    assert "the spec asks for none" in verdict.reasons[0]
