"""The built-in prompts of the small real model."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tokenbuncher.builtin.smollm2 import benign, harmful_requests, utility
from tokenbuncher.builtin.smollm2.prompts import REFUSALS
from tokenbuncher.evaluation.answers import judge_answer
from tokenbuncher.judges.refusal import judge
from tokenbuncher.settings.leakage import find_leaks, similar_pairs
from tokenbuncher.settings.prompts import Prompt

EXAMPLE = Path(__file__).parents[2] / "specs" / "smollm2-prompts.csv"
NEAR = 0.8


def example_prompts() -> list[Prompt]:
    with EXAMPLE.open(newline="", encoding="utf-8") as stream:
        return [Prompt(text=row["prompt"]) for row in csv.DictReader(stream)]


@pytest.mark.parametrize("prompts", [harmful_requests(), benign(), utility(), example_prompts()])
def test_no_set_repeats_a_prompt(prompts: list[Prompt]) -> None:
    assert list(similar_pairs([prompt.text for prompt in prompts], NEAR)) == []


def test_no_prompt_stands_in_two_sets() -> None:
    sets = {"aligned": harmful_requests(), "example": example_prompts(), "benign": benign(), "utility": utility()}
    assert find_leaks(sets, NEAR) == []


def test_requests_come_without_answers() -> None:
    assert all(prompt.answer is None and prompt.group for prompt in harmful_requests())


def test_every_utility_answer_is_a_number_that_a_sentence_can_give() -> None:
    for question in utility():
        assert question.answer is not None
        assert judge_answer(f"The answer is {question.answer}.", question.answer) == (True, True)
        assert judge_answer(f"The answer is {int(question.answer) + 1}.", question.answer) == (True, False)


def test_the_judge_knows_every_refusal() -> None:
    asked = [request.text for request in harmful_requests()[:20]]
    assert all(judge(prompt, refusal, True).refused for refusal in REFUSALS for prompt in asked)
