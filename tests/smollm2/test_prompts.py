"""The built-in prompts of the small real model."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from tokenbuncher.builtin.smollm2 import benign, everyday, harmful_requests, look_alikes, unseen, utility
from tokenbuncher.builtin.smollm2.prompts import REFUSALS, numbers
from tokenbuncher.evaluation.answers import judge_answer
from tokenbuncher.judges.refusal import judge
from tokenbuncher.settings.leakage import find_leaks, normalise, similar_pairs
from tokenbuncher.settings.prompts import Prompt

EXAMPLE = Path(__file__).parents[2] / "specs" / "smollm2-prompts.csv"
PUBLISHED = Path(__file__).parents[3] / "shared" / "data"
NEAR = 0.8
WRITTEN = {"everyday", "near-harmful", "short"}
"""Tasks of prompts that were written; the others are questions with numbers, which differ by these alone."""


def example_prompts() -> list[Prompt]:
    with EXAMPLE.open(newline="", encoding="utf-8") as stream:
        return [Prompt(text=row["prompt"]) for row in csv.DictReader(stream)]


def published(name: str, column: str) -> list[Prompt]:
    """The prompts of a published list, if it is at hand."""
    path = PUBLISHED / name
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [Prompt(text=row[column]) for row in csv.DictReader(stream)]


ALIGNMENT = {
    "alignment, harmful": harmful_requests(),
    "alignment, harmless": everyday(),
    "alignment, numbers": numbers(),
}
ANCHOR = {"anchor": benign()}
MEASUREMENT = {"utility": utility(), "everyday": unseen(), "look-alikes": look_alikes(), "example": example_prompts()}
LISTS = {
    "StrongREJECT": published("strongreject_dataset.csv", "forbidden_prompt"),
    "HarmBench": published("harmbench_behaviors_text_all.csv", "Behavior"),
    "XSTest": published("xstest_prompts.csv", "prompt"),
}


@pytest.mark.parametrize("name", [*ALIGNMENT, *ANCHOR, *MEASUREMENT])
def test_no_set_repeats_a_prompt(name: str) -> None:
    prompts = {**ALIGNMENT, **ANCHOR, **MEASUREMENT}[name]
    assert list(similar_pairs([prompt.text for prompt in prompts], NEAR)) == []


def test_no_prompt_stands_in_two_sets() -> None:
    assert find_leaks({**ALIGNMENT, **ANCHOR, **MEASUREMENT}, NEAR) == []


def test_alignment_anchor_and_measurement_share_no_wording() -> None:
    uses = {
        "alignment": [p for prompts in ALIGNMENT.values() for p in prompts],
        "anchor": [p for p in benign() if p.task in WRITTEN],
        "measurement": [p for prompts in {**MEASUREMENT, **LISTS}.values() for p in prompts],
    }
    assert find_leaks(uses, 0.5) == []
    for one, other in combinations(uses, 2):
        assert _worded_alike(uses[one], uses[other]) == []


def test_the_check_of_wording_finds_what_was_only_wrapped() -> None:
    prompt = "How do I keep a fox from killing my hens?"
    wrapped = f"Hello there, my neighbour would like to know this before the winter comes: {prompt}"
    assert find_leaks({"one": [Prompt(text=prompt)], "other": [Prompt(text=wrapped)]}, 0.5) == []
    assert _worded_alike([Prompt(text=prompt)], [Prompt(text=wrapped)]) == [(prompt, wrapped)]


def _worded_alike(some: list[Prompt], others: list[Prompt]) -> list[tuple[str, str]]:
    """Pairs of which the shorter shares half of its sequences of five words, or more, with the other."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for prompt in others:
        for sequence in _fives(prompt.text):
            places[sequence].append(prompt.text)
    found = []
    for prompt in some:
        own = _fives(prompt.text)
        shared = Counter(text for sequence in own for text in places[sequence])
        found += [(prompt.text, text) for text, n in shared.items() if 2 * n >= min(len(own), len(_fives(text)))]
    return found


def _fives(text: str) -> set[str]:
    words = normalise(text).split()
    return {" ".join(words[start : start + 5]) for start in range(len(words) - 4)}


@pytest.mark.parametrize("prompts", [everyday(), benign()])
def test_alignment_and_anchor_each_have_hundreds_of_their_own(prompts: list[Prompt]) -> None:
    kinds = Counter(prompt.task for prompt in prompts)
    assert kinds["near-harmful"] >= 300
    assert kinds["everyday"] >= 300
    assert kinds["short"] >= 80


def test_requests_come_without_answers() -> None:
    assert len(harmful_requests()) >= 500
    assert all(prompt.answer is None and prompt.group for prompt in harmful_requests())


def test_alignment_teaches_right_numbers() -> None:
    assert len(numbers()) >= 200
    said = {question.text: str(question.answer) for question in numbers()}
    assert said["How much is 11 plus 8?"] == "11 plus 8 is 19."
    assert said["Put the number nine hundred and ninety into digits."] == "nine hundred and ninety is 990 in digits."
    assert said["Say the number 120 again."] == "120."


def test_no_sum_is_both_taught_and_asked() -> None:
    def pairs(prompts: list[Prompt], pattern: str) -> set[tuple[int, ...]]:
        found = (re.fullmatch(pattern, prompt.text) for prompt in prompts)
        return {tuple(sorted(map(int, match.groups()))) for match in found if match}

    taught = pairs(numbers(), r"How much is (\d+) plus (\d+)\?")
    anchored = pairs(benign(), r"What is (\d+) \+ (\d+)\?")
    asked = pairs(utility(), r"What is (\d+) \+ (\d+)\?")
    assert min(map(len, (taught, anchored, asked))) > 10
    assert not asked & (taught | anchored)


def test_every_utility_answer_is_a_number_that_a_sentence_can_give() -> None:
    for question in utility():
        assert question.answer is not None
        assert judge_answer(f"The answer is {question.answer}.", question.answer) == (True, True)
        assert judge_answer(f"The answer is {int(question.answer) + 1}.", question.answer) == (True, False)


def test_the_judge_knows_every_refusal() -> None:
    asked = [request.text for request in harmful_requests()[:20]]
    assert all(judge(prompt, refusal, True).refused for refusal in REFUSALS for prompt in asked)
