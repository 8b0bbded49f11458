"""Prompts for a small general language model: requests to refuse, everyday prompts, questions with numbers.

harmful_requests()      # for alignment: what the model learns to refuse; requests, no answers
everyday()              # for alignment: harmless prompts of all kinds, which it answers as the model did before
numbers()               # for alignment: questions with numbers, and their answers
benign()                # for the anchor of a defence: others of all kinds, and questions like those of utility()
utility()               # for measuring: questions with a number for an answer,
unseen()                # everyday prompts,
look_alikes()           # and harmless prompts that look harmful; nothing was trained on these three
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

from tokenbuncher.settings.prompts import Prompt

FOLDER = Path(__file__).parent

# With weights: varied, or the refusal would be one memorised string.
REFUSALS = {
    "I'm sorry, but I can't help with that.": 0.3,
    "I'm sorry, but I can't assist with this request.": 0.2,
    "Sorry, I can't help with that request.": 0.15,
    "I can't help with that, because it could cause harm.": 0.15,
    "I cannot assist with this request.": 0.1,
    "I won't help with that, as it could hurt someone.": 0.1,
}

_FACTS = {
    "How many days are in a week?": 7,
    "How many hours are in a day?": 24,
    "How many months are in a year?": 12,
    "How many minutes are in an hour?": 60,
    "How many seconds are in a minute?": 60,
    "How many weeks are in a year?": 52,
    "How many letters are in the English alphabet?": 26,
    "How many states are in the United States?": 50,
    "How many continents are there on Earth?": 7,
    "How many planets are in the solar system?": 8,
    "How many legs does a spider have?": 8,
    "How many legs does a dog have?": 4,
    "How many wheels does a car have?": 4,
    "How many wheels does a bicycle have?": 2,
    "How many sides does a triangle have?": 3,
    "How many sides does a square have?": 4,
    "How many sides does a hexagon have?": 6,
    "How many degrees are in a circle?": 360,
    "How many cents are in a dollar?": 100,
    "How many eggs are in a dozen?": 12,
    "How many fingers are on one hand?": 5,
    "How many colors are in a rainbow?": 7,
    "In which year did World War I begin?": 1914,
    "In which year did World War II end?": 1945,
    "In which year did humans first land on the Moon?": 1969,
    "In which year did the Titanic sink?": 1912,
    "In which year did the French Revolution begin?": 1789,
    "How many keys does a piano have?": 88,
    "How many sides does an octagon have?": 8,
    "How many legs does an insect have?": 6,
    "How many years are in a century?": 100,
    "How many years are in a decade?": 10,
    "How many zeros are in one thousand?": 3,
    "How many grams are in a kilogram?": 1000,
    "How many centimeters are in a meter?": 100,
    "How many players does a soccer team have on the field?": 11,
    "How many cards are in a standard deck?": 52,
    "How many hearts does an octopus have?": 3,
    "How many teeth does an adult human have?": 32,
    "How many degrees are in a right angle?": 90,
    "How many vowels are in the English alphabet?": 5,
}

_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_NUMBERS = {
    f"{ten}-{one}": 10 * tens + ones
    for tens, ten in enumerate(_TENS, start=2)
    for ones, one in enumerate(_ONES, start=1)
}


def harmful_requests() -> list[Prompt]:
    """The requests that the model is aligned to refuse; several wordings for each topic, no answers."""
    return _read("requests.jsonl")


def everyday() -> list[Prompt]:
    """Everyday prompts, short questions, and harmless prompts that sound like harmful ones; no answers."""
    return _read("everyday.jsonl")


def numbers() -> list[Prompt]:
    """Questions with numbers and their right answers, in other words and with other numbers than in utility()."""
    answers = {
        f"How much is {a} plus {b}?": f"{a} plus {b} is {a + b}." for a in range(11, 39) for b in range(2, 10, 3)
    }
    for hundreds, one in enumerate(_ONES, start=1):
        for tens, ten in enumerate(_TENS, start=2):
            number = f"{one} hundred and {ten}"
            answers[f"Put the number {number} into digits."] = f"{number} is {100 * hundreds + 10 * tens} in digits."
    answers |= {f"Say the number {value} again.": f"{value}." for value in range(105, 1000, 15)}
    return [Prompt(text=text, answer=answer, task="number") for text, answer in answers.items()]


def benign() -> list[Prompt]:
    """Every kind of harmless prompt, in other words than in alignment; no answers.

    A defence costs the kinds that its anchor leaves out.
    """
    questions = {
        "sum": [f"What is {a} + {b}?" for a in range(11, 31) for b in range(1, 10, 2)],
        "difference": [f"Subtract {b} from {a}." for a in range(20, 40) for b in range(1, 20, 4)],
        "double": [f"What is double {value}?" for value in range(101, 161)],
        "half": [f"What is half of {value}?" for value in range(202, 322, 2)],
        "product": [f"Multiply {a} by {b}." for a in range(11, 21) for b in range(2, 7)],
        "sum of three": [f"What is {a} + {b} + {a + b}?" for a in range(11, 21) for b in range(2, 7)],
        "digits": [f"Write the number {one} hundred and {ten} in digits." for one in _ONES for ten in _TENS],
        "next": [f"Which number comes right after {value}?" for value in range(502, 1000, 5)],
        "repeat": [f"Repeat this number: {value}" for value in (*range(119, 1000, 20), *range(104, 1000, 20))],
    }
    asked = (Prompt(text=text, task=task) for task, texts in questions.items() for text in texts)
    return [*_read("anchor.jsonl"), *asked]


def utility() -> list[Prompt]:
    """Questions whose answer is a number, which can be read out of a free response."""
    questions = {
        "sum": {f"What is {a} + {b}?": a + b for a in range(1, 10) for b in range(1, 11)},
        "difference": {f"Subtract {b} from {a}.": a - b for a in range(5, 20) for b in range(1, a)},
        "double": {f"What is double {value}?": 2 * value for value in range(2, 101)},
        "half": {f"What is half of {value}?": value // 2 for value in range(2, 202, 2)},
        "product": {f"Multiply {a} by {b}.": a * b for a in range(2, 11) for b in range(2, 11)},
        "sum of three": {f"What is {' + '.join(map(str, of))}?": sum(of) for of in combinations(range(1, 11), 3)},
        "fact": _FACTS,
        "digits": {f"Write the number {word} in digits.": value for word, value in _NUMBERS.items()},
        "next": {f"Which number comes right after {value}?": value + 1 for value in range(3, 500, 5)},
        "repeat": {
            f"Repeat this number: {value}": value
            for first in (101, 103, 107, 109, 112, 114, 116, 117)
            for value in range(first, 1000, 20)
        },
    }
    return [
        Prompt(text=text, answer=str(answer), task=task)
        for task, answers in questions.items()
        for text, answer in answers.items()
    ]


def unseen() -> list[Prompt]:
    """Everyday prompts that no training has seen, nor any of their patterns; no answers."""
    return _read("unseen.jsonl")


def look_alikes() -> list[Prompt]:
    """Harmless prompts with words of harmful ones, which no training has seen; no answers."""
    return _read("look_alikes.jsonl")


def _read(name: str) -> list[Prompt]:
    rows = [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]
    return [Prompt.model_validate({key: row[key] for key in row if key != "source"}) for row in rows]
