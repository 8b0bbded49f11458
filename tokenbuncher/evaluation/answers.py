"""Reading an answer out of a response; what cannot be read is wrong."""

from __future__ import annotations

import re
from decimal import Decimal

NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?")


def judge_answer(response: str, expected: str) -> tuple[bool, bool]:
    """Whether a response holds an answer, and whether it is the expected one.

    A number is expected: the last number of the response counts, with its sign, thousands separators and
    decimals. Anything else must be the whole response, but for case and outer space.

    Returns:
        Parsed, correct.
    """
    expected = expected.strip()
    if NUMBER.fullmatch(expected):
        numbers = NUMBER.findall(response)
        return bool(numbers), bool(numbers) and _value(numbers[-1]) == _value(expected)
    given = response.strip().casefold()
    return bool(given), given == expected.casefold()


def repetition(response: str) -> float:
    """Share of the response's word trigrams that have occurred before in it, in [0, 1)."""
    words = response.split()
    trigrams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", ""))
