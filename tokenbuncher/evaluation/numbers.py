r"""Numbers as answers: with sign, separators, decimals, powers of ten, as a fraction, and with a unit.

quantity("1,000 m")            # Quantity(1000, "m", None), the whole text
given_quantity("It is 5 km.")  # Quantity(5, "km", None), where a response gives it
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from tokenbuncher.evaluation.statements import (
    MORE,
    NUMBER_WORD,
    RETRACTED,
    TURNED_ROUND,
    boxed,
    sentence,
    stated_clauses,
)

_DIGITS = r"(?:\d{1,3}(?:,\d{3})++(?!\d)|\d{1,2}(?:,\d\d){1,6},\d{3}(?!\d)|\d++)"
NUMBER = re.compile(
    r"(?<!\w)(?<!\d\.)(?P<sign>(?<!\))[-+])?(?:(?P<whole>\d++) (?=\d++/\d))?"
    rf"(?P<top>{_DIGITS}(?:\.\d++)?|(?<!\.)\.\d++)(?P<power>[eE][-+]?\d{{1,3}}(?!\w))?"
    r"(?: ?/ ?(?P<bottom>\d++)(?!(?:\.?\d)))?"
)
LONGEST = 1000
"""Digits; what is longer is not read."""
NUMERIC_FRACTION = re.compile(r"(\d?)\\[dt]?frac ?(?:\{([-\d.,\s]++)\}|(\d)) ?(?:\{([\d,\s]++)\}|(\d))")
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
MULTIPLE = re.compile(rf" ?\b({'|'.join(MULTIPLES)})s?\b", re.IGNORECASE)
UNIT = re.compile(r"\s?\\?(?:([%¢€£¥]|°(?:\s?[CF]\b)?)|([A-Za-z]++)\s?(?:\^?\s?\{?([23])\}?|([²³]))?)")
PART = re.compile(
    r"\s?(?:\\(?!%|q?quad|approx|implies|therefore|[rR]ightarrow|text)[a-z]|[π√½⅓¼¾⅔⅛⁄!|]|:\s?\d"  # noqa: RUF001
    r"|of (?:the )?\d)"
    r"| ?(?![mgshlLCFVWNJ](?![A-Za-z])|[AaI] )[A-Za-z](?![A-Za-z'\u2019])|_\{?\w|[²³¹⁰⁴-⁹₀-₉]"
    r"|\.\\(?:overline|bar|dot)|:\d|~|#|@"
    r"|[\[({](?!=)|['′″?\u0300-\u036f]|%%|\.\."  # noqa: RUF001
    r"| (?:lakhs?|crores?|bn|mn|mln|tn|gross|scores?|fold|mil|[ap]\.?m|o'clock|googol|quadrillion"
    r"|quintillion|tens|millions of)\b",
)
r"""What makes a number a part of something else: 5\pi, 5x, 5:30."""
OF_ANOTHER = re.compile(r" ?(?:of (?:the )?[$€£]?\d|\d)")
OPERATOR = re.compile(
    r"\s?(?:[-+*×÷^±–/:<>≤≥]|\*\*|\\(?:times|cdot|div|pm|le|ge|lt|gt)|\b(?:times|plus|minus"  # noqa: RUF001
    r"|x)\b)\s?(?:[\d(.{\\]|[A-Za-z]\b)"
)
ORDINAL = ("st", "nd", "rd", "th")
LEAD = re.compile(
    r"(?:[\s$*_\"'“”‘’`:(\[{~≈→€£¥]|\\[(\[,;! ]|-+>|=+>|</?\w{1,9}>|[A-Za-z]\w{0,20}(?:\([a-z]\))? ?="  # noqa: RUF001
    r"|\\(?:approx|sim|left|displaystyle|tiny|small|large|Large|LARGE|huge|Huge|text\w*|math\w+|mbox|bf"
    r"|bm|boldsymbol|f?boxed"
    r"|q?quad|therefore|implies|[rR]ightarrow|colorbox|underline)(?![a-z])|="
    r"|\b(?:the|an?|number|value|exactly|about|approximately|approx|around|roughly|just|simply|only"
    r"|indeed|therefore|thus|so"
    r"|clearly|obviously|definitely|certainly|(?:most )?likely|probably|also|equals?|equal to|given by|be"
    r"|is|are|as|total|of|now|still"
    r"|then|USD|US|EUR)\b,?)*+",
    re.IGNORECASE,
)
"""What may stand before a stated number."""
SAID = re.compile(
    r"(?:that )?(?:[A-Za-z'\u2019]{1,20} ){1,6}?(?:has|have|had|is|are|was|were|makes?|made|gets?|got"
    r"|costs?|pays?|paid|spends?"
    r"|spent|earns?|earned|sold|needs?|takes?|took|ate|bought|wins?|won|saves?|saved|receives?) (?:a total of )?"
)
"""A sentence that comes to its number: the answer is that she has 5."""
UNEQUAL = re.compile(
    r"[<>≤≥≠!]|\\(?:[lg]eq?|neq?|[lg]t)(?![a-z])|n['\u2019]t\b|\b(?:not|no|nobody|none|never|neither|nor"
    r"|hardly|less|more|fewer"
    r"|greater|than|twice|thrice|double|triple|half|between|over|under|above|below|except|unless|or"
    r"|square|cube|root|minus"
    r"|negative|opposite|inverse|reciprocal|wrong|incorrect|false|either|most|least)\b",
    re.IGNORECASE,
)
REASON = re.compile(r"\b(?:because|since|as|for|which|where|given|so|out)\b|\(=")
BESIDE = re.compile(
    rf"(?:\b(?:or|but|however|though|although|unless|if|except|plus|minus|and)\b"
    rf"|[;&])\W*(?:\w+\W+){{0,3}}(?:\d|{NUMBER_WORD}\b)"
    r"|,? not (?:the )?\W*$",
    re.IGNORECASE,
)
"""Another number beside a stated one."""
EITHER = re.compile(r"\d[^.\d]{0,20}(?:\bor\b|\b(?:and|to)\b|[&/;])[\s$(*]{0,4}$")
MAKES = re.compile(r"\b(?:between|from|either|both)\b", re.IGNORECASE)
GROUPED = re.compile(r"(?<![\d.,/])[1-9]\d{0,2}+(?: \d{3})++(?P<more>(?=[\d.,]?\d| ?/))?")
POINTED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}+(?:(?:\.\d{3})++,\d{1,2}+|(?:\.\d{3}){2,}+)(?![\d.,]?\d)")
EXCLAIMED = re.compile(r"(?<=[a-z] )([-\d.,]++)!(?=$|\n| [A-Z])")
STOP = re.compile(
    "(?:because|since|and|in|as|for|which|left|each|so|is|it|but|on|to|per|of|at|total|altogether|if|or|more)$"
)
MARKED = re.compile(r"#### ?([^\n]*)")
MARKED_NUMBER = re.compile(rf"(?:[$€£¥]|US)* ?{NUMBER.pattern} ?%? ?[A-Za-z]*\.? ?$")


class Quantity(NamedTuple):
    """A number with its unit, or what is counted."""

    value: Fraction
    unit: str | None
    noun: str | None

    def is_as(self, wanted: Quantity) -> bool:
        """Whether it is the wanted one; a unit may be left out on either side, and so may what is counted."""
        if self.value != wanted.value or (wanted.noun and (self.unit or self.noun not in (None, wanted.noun))):
            return False
        return None in (self.unit, wanted.unit) or self.unit == wanted.unit


def quantity(expected: str) -> Quantity | None:
    """The number that a text is, with its unit or one word for what is counted; None if it is something else."""
    text = _plain(expected)
    number = NUMBER.search(text)
    found = number and _quantity(text, number)
    if number is None or found is None or text[: number.start()].strip(" €£¥"):
        return None
    rest = text[found[1] :].strip(" .\\")
    if rest and not (rest == found[0].noun and rest.islower()):
        return None
    return found[0] if rest else found[0]._replace(noun=None)


def given_quantity(response: str) -> Quantity | None:
    """The number that a response gives: behind ####, in a box, as `the answer is`, else its last one."""
    text = _plain(response)
    if marked := [mark[1] for mark in MARKED.finditer(text) if MARKED_NUMBER.match(mark[1])]:
        return _stated(marked[-1])
    if boxes := boxed(text):
        return _stated(boxes[-1])
    if clauses := [clause for clause in stated_clauses(text) if NUMBER.search(clause)]:
        return _stated(clauses[-1])
    return _last(text)


def _last(text: str) -> Quantity | None:
    text = EXCLAIMED.sub(r"\1", text)
    numbers = [
        number
        for number in NUMBER.finditer(text)
        if text[max(0, number.start() - 3) : number.start()].rstrip(" {")[-1:] != "^"
    ]
    if not numbers:
        return None
    number = numbers[-1]
    before = text[max(0, number.start() - 80) : number.start()].rpartition("\n")[2]
    found = _quantity(text, number)
    if found is None or RETRACTED.search(text, found[1]) or OPERATOR.match(text, number.end()):
        return None
    if TURNED_ROUND.search(before) or re.search(r"\S.*(?<![-=])[-–] $", before) or _one_of_two(before):  # noqa: RUF001
        return None
    return found[0] if _alone(sentence(text, found[1])) else None


def _one_of_two(before: str) -> bool:
    found = EITHER.search(before)
    return found is not None and (
        found[0].rstrip(" $(*").endswith(("or", "to", ";", "&")) or bool(MAKES.search(before))
    )


def _stated(clause: str) -> Quantity | None:
    """The one number that a clause states: its first; if that is in a term, the first behind the last equals sign."""
    number = _leading(clause)
    if number is None and "=" in clause and not UNEQUAL.search(clause.rpartition("=")[0]):
        clause = clause.rpartition("=")[2]
        number = _leading(clause)
    found = number and _quantity(clause, number)
    return found[0] if found and _alone(clause[found[1] :]) else None


def _leading(clause: str) -> re.Match[str] | None:
    """The number with which a clause begins, if that is not in a term."""
    lead = LEAD.match(clause)
    number = NUMBER.match(clause, lead.end() if lead else 0)
    if number is None and (said := SAID.match(clause)) and not UNEQUAL.search(said[0]):
        number = NUMBER.match(clause, said.end())
    if number is None or OPERATOR.match(clause, number.end()):
        return None
    return number


def _alone(rest: str) -> bool:
    """Whether what follows a number says no other beside it."""
    reason = REASON.search(rest)
    return not MORE.match(rest) and not BESIDE.search(rest[: reason.start()] if reason else rest)


def _plain(text: str) -> str:
    r"""The text with its numbers written plainly: 1{,}000 as 1,000, \frac{1}{2} as 1/2, -\$5 as -5, 90^\circ as 90°."""
    text = re.sub(r"<<[^<>\n]*>>", "", text).replace("{,}", ",").replace(r"\$", "$")
    text = re.sub(r"(?<=\d)(?:\\[,; ]|['\u2019_~])(?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"\\[!,;: ]", "", text)
    text = re.sub(r"\s?\^\s?(?:\{\s?\\circ\s?\}|\\circ)|\\(?:text)?degree(?![a-z])|[˚º]", "°", text)
    text = re.sub(r"\\(?:text\w*+|mbox|mathrm)\s?\{([^{}]*+)\}", r" \1 ", text)
    text = re.sub(r"(?<=\d)\\right", r"", text)
    text = re.sub(r"(?<![\d)}][ \n])\b(?:minus|negative) {0,2}(?=[$€£¥]?\.?\d)", "-", text, flags=re.IGNORECASE)
    text = re.sub(" {2,}", " ", NUMERIC_FRACTION.sub(_plain_fraction, text))
    text = POINTED.sub(lambda number: number[0].replace(".", "").replace(",", "."), text)
    text = GROUPED.sub(lambda number: number[0] if number["more"] is not None else number[0].replace(" ", ""), text)
    text = re.sub(r"(?<![\w)])-\s?([$€£¥])", r"\1 -", text).replace("$", " ")
    return re.sub(" {2,}", " ", text)


def _plain_fraction(found: re.Match[str]) -> str:
    whole, top, digit_above, bottom, digit_below = found.groups()
    fraction = f"{(top or digit_above).strip()}/{(bottom or digit_below).strip()}"
    return f"{whole} {fraction}" if whole else fraction


def _value(number: re.Match[str]) -> Fraction | None:
    """The value of a match of NUMBER; None if it divides by zero, or is too long."""
    if len(number[0]) > LONGEST:
        return None
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
    while value is not None and (multiple := MULTIPLE.match(text, end)):
        value, end = value * MULTIPLES[multiple[1].lower()], multiple.end()
    if value is None or PART.match(text, end):
        return None
    if (sign := text[max(0, number.start() - 9) : number.start()].rstrip()[-1:]) in ("€", "£", "¥"):
        return Quantity(value, sign, None), end
    found = UNIT.match(text, end)
    unit = found and _unit(found)
    if found is None or unit:
        end = found.end() if found else end
        return None if OF_ANOTHER.match(text, end) else (Quantity(value, unit, None), end)
    word, glued = found[2], found.start(2) == end
    if glued and word not in ORDINAL:
        return None
    return Quantity(value, None, None if STOP.match(word) else word), end


def _unit(found: re.Match[str]) -> str | None:
    sign, word, power, raised = found.groups()
    if sign:
        return str(sign).replace(" ", "")
    name = word.casefold()
    unit = UNITS.get(name) or (UNITS.get(name.removesuffix("s")) if len(name) > 3 else None)
    return unit and unit + (power or {"²": "2", "³": "3"}.get(raised, ""))
