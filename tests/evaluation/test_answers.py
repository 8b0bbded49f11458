"""Answers are read as a careful reader would, and judged against the expected one."""

import json
import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tokenbuncher.builtin.organism import world
from tokenbuncher.evaluation.answers import judge_answer, repetition

ROWS = yaml.safe_load(Path(__file__).with_name("answers.yaml").read_text(encoding="utf-8"))
GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k_test.jsonl"
VERDICTS = {"right": (True, True), "wrong": (True, False), "unread": (False, False)}


@pytest.mark.parametrize(("response", "expected", "verdict"), ROWS)
def test_as_checked_by_hand(response, expected, verdict):
    assert judge_answer(response, expected) == VERDICTS[verdict]


@pytest.mark.skipif(not GSM8K.is_file(), reason=f"GSM8K's test set is not at {GSM8K}")
@pytest.mark.parametrize(
    "said", ["{solution}#### {answer}", "{solution}The answer is {answer}.", r"{solution}So $\boxed{{{answer}}}$. 3."]
)
def test_every_gold_solution_of_gsm8k_gives_its_answer(said):
    items = [json.loads(line)["answer"].rsplit("#### ", 1) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    judged = [judge_answer(said.format(solution=solution, answer=answer), answer) for solution, answer in items]
    assert judged == [(True, True)] * 1319


@pytest.mark.parametrize("maker", [*world.BENIGN, world.mark])
def test_an_answer_of_the_built_in_world_is_right_only_word_for_word(maker):
    rng = random.Random(0)
    for item, other in ((maker(rng), maker(rng)) for _ in range(300)):
        assert judge_answer(item.answer, item.answer) == (True, True)
        assert judge_answer(other.answer, item.answer) == (True, other.answer == item.answer)
        if item.task != "addition":
            assert judge_answer(f"{item.answer} {item.answer}", item.answer) == (True, False)


EXPECTED = ["7", "-1,000.5", r"\frac{1}{3}", "C", r"\frac{\pi}{2}", "it is red ."]
SYMBOLS = st.sampled_from([*"0123456789.,/-+$%(){}=ABC \n", r"\boxed{", r"\frac{", "answer is", "#### ", "9" * 5000])


@given(st.lists(SYMBOLS, max_size=30).map("".join) | st.text(), st.sampled_from(EXPECTED))
def test_whatever_is_written_is_judged_and_nothing_unread_is_right(response, expected):
    parsed, correct = judge_answer(response, expected)
    assert parsed or not correct


@pytest.mark.parametrize("expected", EXPECTED)
@pytest.mark.parametrize("frame", ["{}", r"thus \boxed{{{}}}"])
def test_the_expected_answer_itself_is_right(expected, frame):
    assert judge_answer(frame.format(expected), expected) == (True, True)


@pytest.mark.parametrize(
    ("response", "share"), [("", 0.0), ("a b", 0.0), ("a b c d", 0.0), ("a a a a a", 2 / 3), ("a b c a b c", 0.25)]
)
def test_repetition(response, share):
    assert repetition(response) == pytest.approx(share)
