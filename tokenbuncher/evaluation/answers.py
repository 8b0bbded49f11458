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
from typing import NamedTuple

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,2}(?:,\d\d)+,\d{3}(?!\d)|\d+)"
NUMBER = re.compile(
    r"(?<!\w)(?<!\d\.)(?P<sign>(?<!\))[-+])?(?:(?P<whole>\d+) +(?=\d+/\d))?"
    rf"(?P<top>{_DIGITS}(?:\.\d+)?|(?<!\.)\.\d+)(?P<power>[eE][-+]?\d{{1,3}}(?!\w))?"
    r"(?: ?/ ?(?P<bottom>\d+)(?![\d.]*\d))?"
)
NUMERIC_FRACTION = re.compile(r"(\d?)\\[dt]?frac\s*(?:\{([-\d.,\s]+)\}|(\d))\s*(?:\{([\d,\s]+)\}|(\d))")
MULTIPLES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_UNITS = """
%: percent; °: deg degree; rad: radian; ¢: cent; $: dollar usd; €: euro eur; £: gbp; ¥: yen jpy
mm: millimeter millimetre; cm: centimeter centimetre; m: meter metre; km: kilometer kilometre
inch: inche; ft: foot feet; yd: yard yds; mile; mg: milligram; g: gram; kg: kilogram; oz: ounce; lb: lbs
ml: milliliter millilitre; l: liter litre; s: sec second; min: minute; h: hr hrs hour; day; week; month; year; mph
"""
UNITS = {
    name: names.split()[0].rstrip(":") for names in re.split("[;\n]", _UNITS) for name in names.replace(":", "").split()
}
"""Units by their names; of two answers with different ones, at most one is right."""
MULTIPLE = re.compile(rf"\s*\b({'|'.join(MULTIPLES)})\b")
UNIT = re.compile(r"\s*\\?(?:([%¢€£¥]|°(?:\s?[CF]\b)?)|([A-Za-z]+)(?![A-Za-z])\s*(?:\^?\s*\{?([23])\}?|([²³]))?)")
PART = re.compile(
    r"\s*(?:\\(?!%|q?quad|approx|implies|therefore|[rR]ightarrow)[a-z]|[π√])"
    r"|(?![mgshlLCFVWNJ])[A-Za-z](?![A-Za-z])|:\d|_\{?\w|[²³¹⁰⁴-⁹]|\.\\(?:overline|bar|dot)"
)
"""What makes a number a part of something else: 5\\pi, 5x, 5:30."""
OPERATOR = re.compile(
    r"\s*(?:[-+*×÷^±–]|\\(?:times|cdot|div|pm)|\b(?:times|plus|minus)\b)\s*[\d(.{\\]"  # noqa: RUF001 (signs)
)
IN_A_TERM = re.compile(
    r"(?:[-+*/^√×÷·±]|\\(?!q?quad|approx|sim|implies|therefore|[rR]ightarrow|math|b(?:f|old|oxed)"  # noqa: RUF001 (signs)
    r"|left|displaystyle)[a-z]+)[\s{(]*$|(?<![A-Za-z])[A-Za-z]\($"
)
SUMMAND = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]|[)}])\s*$")
UNEQUAL = re.compile(
    r"[<>≤≥≠]|\\(?:[lg]eq?|neq?|[lg]t)(?![a-z])|n['\u2019]t\b"
    r"|\b(?:not|never|less|more|fewer|greater|below|above|most|least)\b",
    re.IGNORECASE,
)
NO_SIGN = re.compile(r"</?\w+>|[-=]+>")
OR_ANOTHER = re.compile(rf"[\s%°]*(?:[,;&]|,?\s*\b(?:or|and|to)\b)\s*(?:[A-Za-z]\s*=\s*)?{NUMBER.pattern}")
GROUPED = re.compile(r"(?<![\d.,/])[1-9]\d{0,2}(?: \d{3})+(?![\d.,]*\d| ?/)")
POINTED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:(?:\.\d{3})+,\d{1,2}|(?:\.\d{3}){2,})(?![\d.,]*\d)")
GSM8K_ANSWER = re.compile(rf"####\s*({NUMBER.pattern})\s*%?\s*[A-Za-z]*\.?\s*$", re.MULTILINE)
ANSWER_IS = re.compile(r"\banswer\b[^.\n]{0,60}?(?:\b(?:is|are|equals)\b\s*:?|[:=])[\s*]*", re.IGNORECASE)
DENIED = re.compile(
    r"(?:(?:(?:n['\u2019]t|\b(?:not|never|cannot))\s+(?:\w+\s+)?(?:think|believe|say|claim|conclude|sure|certain|true|correct"
    r"|right|the case|agree|mean|imply)|\b(?:doubt|unlikely|wrong|incorrect|false))\b[^.,;:!?\n]{0,30}"
    r"|\b(?:if|whether|unless)\s+(?:\w+\s+){0,2})\banswer\b[^.\n]{0,60}?(?:\b(?:is|are|equals)\b\s*:?|[:=])[^.!?;\n]*"
    r"|\banswer\b(?:(?! (?:is|are) )[^.,:;\n\d]){0,40}?(?:\b(?:is|are|can|could|may|might|must|should|will|would)\s+"
    r"(?:not|never)\b|n['\u2019]t\b|\bcannot\b)[^.,;!?\n]*",
    re.IGNORECASE,
)
"""The answer is not 5; if the answer is 5."""
RETRACTED = re.compile(
    r"(?:[.!?;\n—]|^)[\s*]*(?:wait|actually|hmm+|oops|no|correction|sorry|scratch that|on second thoughts?)\b"
    r"\s*(?:[,.!:…—-]|$)",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"[.!?;](?:[\s*]|$)|\n")
BOX = re.compile(r"\\f?boxed\s*\{")
LETTER = r"(?<![A-Za-z\\])(I(?!\s+[a-z])|[A-HJ])(?![A-Za-z'\u2019])"
STATED_LETTER = re.compile(rf"\W*(?:(?:[Oo]ption|[Cc]hoice|text(?:bf)?)\W*)?{LETTER}(?:\W*(?:,|/|or|and)\W*{LETTER})?")
BARE_LETTER = re.compile(
    rf"^\W*{LETTER}(?:\W*$|\s?[.):-]\s)|\({LETTER}\)|(?:[Oo]ption|[Cc]hoice)\s+\(?{LETTER}", re.MULTILINE
)
POLAR = ("yes", "no", "true", "false")
QUOTES = r"[\s\"'‘’“”*_`(\[)\]]*"  # noqa: RUF001 (quotation marks)
LEADING = re.compile(
    rf"{QUOTES}({'|'.join(POLAR)})\b(?!\.\s*\d){QUOTES}(?:[.,;:!–—]|\s-\s|\n|$|\b(?:because|since)\b)"  # noqa: RUF001
)
CLOSED = re.compile(rf"\b({'|'.join(POLAR)})\b{QUOTES}(?:[.,;:!]|$)")
HEDGED = re.compile(
    r"^\W*(?:if|when|only|or|assuming|provided)\b|\b(?:but|however|although|though|except|unless|actually|wait|sorry"
    r"|correction|rather|instead|maybe|perhaps|possibly|probably|partly|sometimes|depends|unsure|not sure)\b"
)
FORMULA = re.compile(r"[\\^_{}]|^[(\[].*,.*[)\]]$|(?:\b[a-z]|[\d)])\s*[-+*/=<>]\s*(?:[a-z]\b|[\d(])")


def judge_answer(response: str, expected: str) -> tuple[bool, bool]:
    r"""Whether a response holds an answer, and whether it is the expected one.

    A number is expected: it is read from `#### 42`, else from \boxed{42}, else from `the answer is 42`, else it is the
    last number; with sign, thousands separators, decimals, powers of ten or as a fraction. Its unit may be left out,
    but not be another than the expected one, if that has one. A letter from A to J: from \boxed{C}, else `the answer is
    C`, else where it stands alone; different letters are no answer. A formula: from \boxed{...}, else `the answer is
    ...`, else it is the response, if that is one line. yes, no, true or false: how the response begins, or `the answer
    is yes`. Anything else must be the whole response, its box or what `the answer is`, but for case, quotes and a full
    stop. What is denied (`the answer is not 5`) or taken back is no answer.

    Returns:
        Parsed, correct.
    """
    expected = expected.strip()
    response = DENIED.sub("", response)
    if _taken_back(response):
        return False, False
    if wanted := _wanted_number(expected):
        given = _given_number(response)
        return given is not None, given is not None and given.is_as(wanted)
    if re.fullmatch("[A-J]", expected):
        letter = _given_letter(response)
        return letter is not None, letter == expected
    boxed = _boxed(response)
    if boxed or FORMULA.search(expected):
        formula = boxed[-1] if boxed else _given_formula(response)
        return (True, _normal(formula) == _normal(expected)) if formula else (False, False)
    return _judge_text(response, expected)


def _taken_back(response: str) -> bool:
    """Whether the last statement of an answer is followed by `Wait, ...`."""
    ends = [found.end() for pattern in (ANSWER_IS, BOX) for found in pattern.finditer(response)]
    return bool(ends) and RETRACTED.search(response, max(ends)) is not None


def _judge_text(response: str, expected: str) -> tuple[bool, bool]:
    text, wanted = response.strip().casefold(), expected.casefold()
    if not text:
        return False, False
    if text == wanted or re.fullmatch(rf"{QUOTES}{re.escape(wanted)}{_end(wanted)}", text):
        return True, True
    if wanted in POLAR:
        said = _polar_statements(text)
        return len(said) < 2, said == {wanted}
    said_so = {_states(text[found.end() :], wanted) for found in ANSWER_IS.finditer(text)}
    return len(said_so) < 2, said_so == {True}


def _polar_statements(text: str) -> set[str]:
    """Which of yes, no, true and false a response says; one that is hedged counts as two."""
    starts = [0, *(found.end() for found in ANSWER_IS.finditer(text))]
    said = [found for start in starts if (found := LEADING.match(text, start))]
    if not said:
        return set()
    rest = text[said[0].end(1) :]
    others = {found[1] for found in CLOSED.finditer(rest)}
    hedges = {"hedged"} if HEDGED.search(rest) else set()
    return {found[1] for found in said} | others | hedges


def _states(clause: str, wanted: str) -> bool:
    """Whether a clause begins with the wanted text, and no more belongs to it."""
    more = rf"|{QUOTES}(?:[.!]\s|,?\s+(?:because|since)\b)" if len(wanted) > 2 else ""  # not the St of St. Louis
    return re.match(rf"{QUOTES}{re.escape(wanted)}(?:{_end(wanted)}(?:$|\n){more})", clause) is not None


def _end(wanted: str) -> str:
    """What may stand behind a text: quotes, and a full stop unless it has one."""
    return QUOTES if wanted.endswith((".", "!", "?")) else rf"{QUOTES}[.!]?{QUOTES}"


def repetition(response: str) -> float:
    """Share of the response's word trigrams that have occurred before in it, in [0, 1)."""
    words = response.split()
    trigrams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


class Quantity(NamedTuple):
    """A number with its unit."""

    value: Fraction
    unit: str | None

    def is_as(self, wanted: Quantity) -> bool:
        """Whether it is the wanted one; a unit may be left out on either side."""
        return self.value == wanted.value and (None in (self.unit, wanted.unit) or self.unit == wanted.unit)


def _plain(text: str) -> str:
    r"""The text with its numbers written plainly: 1{,}000 as 1,000, \frac{1}{2} as 1/2, -\$5 as -5, 90^\circ as 90°."""
    text = text.replace("−", "-").replace("{,}", ",").replace(r"\$", "$")  # noqa: RUF001 (the minus sign)
    text = re.sub(r"(?<=\d)(?:\\[,; ]|[\u00a0\u2009\u202f'\u2019_~])(?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"\\[!,;: ]", "", text)
    text = re.sub(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\(?:text)?degree(?![a-z])|[˚º]", "°", text)
    text = re.sub(r"\\(?:text\w*|mbox|mathrm)\s*\{([^{}]*)\}", r" \1 ", text)
    text = NUMERIC_FRACTION.sub(_plain_fraction, text)
    text = POINTED.sub(lambda number: number[0].replace(".", "").replace(",", "."), text)
    text = GROUPED.sub(lambda number: number[0].replace(" ", ""), text)
    return re.sub(r"(?<![\w)])-\s?([$€£¥])", r"\1 -", text).replace("$", " ")


def _plain_fraction(found: re.Match[str]) -> str:
    whole, top, digit_above, bottom, digit_below = found.groups()
    fraction = f"{(top or digit_above).strip()}/{(bottom or digit_below).strip()}"
    return f"{whole} {fraction}" if whole else fraction


def _value(number: re.Match[str]) -> Fraction | None:
    """The value of a match of NUMBER; None if it divides by zero."""
    size = Fraction(Decimal(number["top"].replace(",", "") + (number["power"] or "")))
    if number["bottom"]:
        if not (below := Fraction(Decimal(number["bottom"]))):
            return None
        size /= below
    size += Fraction(Decimal(number["whole"] or 0))
    return -size if number["sign"] == "-" else size


def _quantity(text: str, number: re.Match[str]) -> tuple[Quantity, int] | None:
    """A match of NUMBER with what belongs to it, and where that ends; None if it is a part of something else."""
    value, end = _value(number), number.end()
    if value is None or PART.match(text, end):
        return None
    while multiple := MULTIPLE.match(text, end):
        value, end = value * MULTIPLES[multiple[1]], multiple.end()
    if (sign := text[: number.start()].rstrip()[-1:]) in ("€", "£", "¥"):
        return Quantity(value, sign), end
    found = UNIT.match(text, end)
    unit = found and _unit(found)
    return Quantity(value, unit), found.end() if found and unit else end


def _unit(found: re.Match[str]) -> str | None:
    sign, word, power, raised = found.groups()
    if sign:
        return str(sign).replace(" ", "")
    name = word.casefold()
    unit = UNITS.get(name) or (UNITS.get(name.removesuffix("s")) if len(name) > 3 else None)
    return unit and unit + (power or {"²": "2", "³": "3"}.get(raised, ""))


def _wanted_number(expected: str) -> Quantity | None:
    """The number that is expected; None if it is something else."""
    text = _plain(expected)
    number = NUMBER.search(text)
    found = number and _quantity(text, number)
    if number is None or found is None:
        return None
    beside = text[: number.start()].strip(" €£¥") + text[found[1] :].strip(" .\\")
    return None if beside else found[0]


def _given_number(response: str) -> Quantity | None:
    text = _plain(response)
    if marked := list(GSM8K_ANSWER.finditer(text)):
        return _stated_number(marked[-1][0])
    if boxed := _boxed(text):
        return _stated_number(boxed[-1])
    if clauses := [clause for clause in _stated_clauses(text) if NUMBER.search(clause)]:
        return _stated_number(clauses[-1])
    numbers = [number for number in NUMBER.finditer(text) if not text[: number.start()].rstrip(" {").endswith("^")]
    found = _quantity(text, numbers[-1]) if numbers and not OPERATOR.match(text, numbers[-1].end()) else None
    return found and found[0]


def _stated_number(clause: str) -> Quantity | None:
    """The one number that a clause states: its first; if that is in a term, the first behind the last equals sign."""
    number = NUMBER.search(clause)
    if number and _in_a_term(clause, number):
        _, equals, clause = clause.rpartition("=")
        number = NUMBER.search(clause) if equals else None
    if number is None or _in_a_term(clause, number) or UNEQUAL.search(NO_SIGN.sub("", clause[: number.start()])):
        return None
    found = _quantity(clause, number)
    return found[0] if found and not OR_ANOTHER.match(clause, found[1]) else None


def _in_a_term(clause: str, number: re.Match[str]) -> bool:
    before = clause[: number.start()]
    if OPERATOR.match(clause, number.end()) or IN_A_TERM.search(before):
        return True
    return number["sign"] is not None and SUMMAND.search(before) is not None


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
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\?%|°", ""),
        (r"\\frac\s*(\{[^{}]*\}|\w)\s*(\{[^{}]*\}|\w)", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"\{\{([^{}]*)\}\}", r"{\1}"),
        (r"([\^_])\s*\{\s*(\w)\s*\}", r"\1\2"),
        (r"^\s*[A-Za-z](?:\([a-z]\))?\s*(?:=|\\in(?![a-z]))", ""),
        (r"\s+|\.\s*$", ""),
    ):
        formula = re.sub(pattern, replacement, formula)
    return formula.casefold() if len(formula) > 1 and formula.isalpha() else formula
