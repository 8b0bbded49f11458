r"""Reading an answer out of a response; what cannot be read is wrong.

judge_answer("3 + 4 = 7. The answer is 7.", "7")           # (True, True)
judge_answer(r"so it is $\boxed{\frac{1}{2}}$", "0.5")     # (True, True)
judge_answer("The answer is B or C.", "B")                 # (False, False)

How a response is read follows from the expected answer: a number, a letter of a multiple choice, a formula, a text.
Formulas are compared as they are written, in a normal form; an equal one in another form counts as wrong. sympy would
know better, but its parsers evaluate what they read, and here a model wrote it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
NUMBER = re.compile(
    r"(?<!\w)(?<!\d\.)(?P<sign>(?<!\))[-+])?(?:(?P<whole>\d+) +(?=\d+/\d))?"
    rf"(?P<top>{_DIGITS}(?:\.\d+)?|(?<!\.)\.\d+)(?: ?/ ?(?P<bottom>\d+)(?![\d.]*\d))?"
)
NUMERIC_FRACTION = re.compile(r"(\d?)\\[dt]?frac\s*(?:\{([-\d.,\s]+)\}|(\d))\s*(?:\{([\d,\s]+)\}|(\d))")
OPERATOR = re.compile(r"\s*(?:[-+*×÷^]|\\times|\\cdot|\\div)\s*[\d(.{\\]")  # noqa: RUF001 (the multiplication sign)
OR_ANOTHER = re.compile(rf"[\s%]*(?:,|,?\s*\b(?:or|and)\b)\s*{NUMBER.pattern}")
GSM8K_ANSWER = re.compile(rf"####\s*({NUMBER.pattern})\s*%?\s*[A-Za-z]*\.?\s*$", re.MULTILINE)
ANSWER_IS = re.compile(r"\banswer\b[^.\n]{0,60}?(?:\b(?:is|are|equals)\b\s*:?|[:=])[\s*]*", re.IGNORECASE)
SENTENCE_END = re.compile(r"[.!?;](?:[\s*]|$)|\n")
BOX = re.compile(r"\\f?boxed\s*\{")
LETTER = r"(?<![A-Za-z\\])(I(?!\s+[a-z])|[A-HJ])(?![A-Za-z'\u2019])"
STATED_LETTER = re.compile(rf"\W*(?:(?:[Oo]ption|[Cc]hoice|text(?:bf)?)\W*)?{LETTER}(?:\W*(?:,|/|or|and)\W*{LETTER})?")
BARE_LETTER = re.compile(
    rf"^\W*{LETTER}(?:\W*$|\s?[.):-]\s)|\({LETTER}\)|(?:[Oo]ption|[Cc]hoice)\s+\(?{LETTER}", re.MULTILINE
)
FORMULA = re.compile(r"[\\^_{}]|^[(\[].*,.*[)\]]$|(?:\b[a-z]|[\d)])\s*[-+*/=<>]\s*(?:[a-z]\b|[\d(])")


def judge_answer(response: str, expected: str) -> tuple[bool, bool]:
    r"""Whether a response holds an answer, and whether it is the expected one.

    A number is expected: it is read from `#### 42`, else from \boxed{42}, else from `the answer is 42`, else it is the
    last number; with sign, thousands separators, decimals or as a fraction, whatever unit goes with it. A letter from
    A to J: from \boxed{C}, else `the answer is C`, else where it stands alone; different letters are no answer. A
    formula: from \boxed{...}, else `the answer is ...`, else it is the response, if that is one line. Anything else
    must be the whole response or its box, but for case and outer space.

    Returns:
        Parsed, correct.
    """
    expected = expected.strip()
    number = NUMBER.fullmatch(_plain(expected).strip().rstrip("\\%"))
    if number and (wanted := _value(number)) is not None:
        value = _given_number(response)
        return value is not None, value == wanted
    if re.fullmatch("[A-J]", expected):
        letter = _given_letter(response)
        return letter is not None, letter == expected
    boxed = _boxed(response)
    if boxed or FORMULA.search(expected):
        formula = boxed[-1] if boxed else _given_formula(response)
        return (True, _normal(formula) == _normal(expected)) if formula else (False, False)
    text = response.strip().casefold()
    return bool(text), text == expected.casefold()


def repetition(response: str) -> float:
    """Share of the response's word trigrams that have occurred before in it, in [0, 1)."""
    words = response.split()
    trigrams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def _plain(text: str) -> str:
    r"""The text with its numbers written plainly: 1{,}000 as 1,000, \frac{1}{2} as 1/2, -\$5 as -5."""
    text = text.replace("−", "-").replace("{,}", ",").replace(r"\$", "$")  # noqa: RUF001 (the minus sign)
    text = re.sub(r"\\[!,;: ]", "", text)
    text = NUMERIC_FRACTION.sub(_plain_fraction, text)
    return re.sub(r"(?<![\w)])-\$", " -", text).replace("$", " ")


def _plain_fraction(found: re.Match[str]) -> str:
    whole, top, digit_above, bottom, digit_below = found.groups()
    fraction = f"{(top or digit_above).strip()}/{(bottom or digit_below).strip()}"
    return f"{whole} {fraction}" if whole else fraction


def _value(number: re.Match[str]) -> Fraction | None:
    """The value of a match of NUMBER; None if it divides by zero."""
    size = Fraction(Decimal(number["top"].replace(",", "")))
    if number["bottom"]:
        if not (below := Fraction(Decimal(number["bottom"]))):
            return None
        size /= below
    size += Fraction(Decimal(number["whole"] or 0))
    return -size if number["sign"] == "-" else size


def _given_number(response: str) -> Fraction | None:
    text = _plain(response)
    if marked := list(GSM8K_ANSWER.finditer(text)):
        return _value(marked[-1])
    if boxed := _boxed(text):
        return _stated_number(boxed[-1])
    if clauses := [clause for clause in _stated_clauses(text) if NUMBER.search(clause)]:
        return _stated_number(clauses[-1])
    numbers = list(NUMBER.finditer(text))
    return _value(numbers[-1]) if numbers else None


def _stated_number(clause: str) -> Fraction | None:
    """The one number that a clause states: its first; if that is a term, the first behind the last equals sign."""
    number = NUMBER.search(clause)
    if number and OPERATOR.match(clause, number.end()):
        _, equals, clause = clause.rpartition("=")
        number = NUMBER.search(clause) if equals else None
    if number is None or OR_ANOTHER.match(clause, number.end()):
        return None
    return _value(number)


def _given_letter(response: str) -> str | None:
    for found in (
        [letter for box in _boxed(response) for letter in re.findall(LETTER, box)],
        [letter for clause in _stated_clauses(response) for letter in _letters(STATED_LETTER.match(clause))],
        [letter for bare in BARE_LETTER.finditer(response) for letter in _letters(bare)],
    ):
        if found:
            return found[0] if len(set(found)) == 1 else None
    return None


def _letters(found: re.Match[str] | None) -> list[str]:
    return [letter for letter in found.groups() if letter] if found else []


def _given_formula(response: str) -> str | None:
    if clauses := _stated_clauses(response):
        return clauses[-1]
    return response.strip() if len(response.strip().splitlines()) == 1 else None


def _stated_clauses(text: str) -> list[str]:
    """What follows each `answer is`, to the end of the sentence."""
    return [SENTENCE_END.split(text[found.end() :], maxsplit=1)[0] for found in ANSWER_IS.finditer(text)]


def _boxed(text: str) -> list[str]:
    r"""What stands in each \boxed{...} that is closed."""
    contents = []
    for box in BOX.finditer(text):
        depth, end = 1, box.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if not depth:
            contents.append(text[box.end() : end - 1])
    return contents


def _normal(formula: str) -> str:
    """A formula in a normal form: without LaTeX's ways of setting it, units, a name before it, or spaces."""
    for pattern, replacement in (
        (r"\\(?:left|right|displaystyle)(?![a-z])|\\[!,;: ()\[\]]|[$~]", ""),
        (r"\\[dt]frac", r"\\frac"),
        (r"(?<=[\w)}])\s*\\(?:text|mbox)\s*\{[^{}]*\}(?:\^\{?\d\}?)?\s*$", ""),
        (r"\\(?:text\w*|math\w\w|mbox|operatorname)\s*\{([^{}]*)\}", r"\1"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\?%", ""),
        (r"\\frac\s*(\{[^{}]*\}|\w)\s*(\{[^{}]*\}|\w)", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"\{\{([^{}]*)\}\}", r"{\1}"),
        (r"([\^_])\s*\{\s*(\w)\s*\}", r"\1\2"),
        (r"^\s*[A-Za-z](?:\([a-z]\))?\s*(?:=|\\in(?![a-z]))", ""),
        (r"\s+|\.\s*$", ""),
    ):
        formula = re.sub(pattern, replacement, formula)
    return formula.casefold() if len(formula) > 1 and formula.isalpha() else formula
