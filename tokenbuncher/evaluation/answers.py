r"""Reads the answer in a response. A response without a readable answer is wrong.

judge_answer("3 + 4 = 7. The answer is 7.", "7")           # (True, True)
judge_answer(r"so it is $\boxed{\frac{1}{2}}$", "0.5")     # (True, True)
judge_answer("The answer is B or C.", "B")                 # (False, False)

How a response is read follows from the expected answer: a number, a letter of a multiple choice, a formula, a text.
Formulas are compared as they are written, in a normal form; an equal one in another form counts as wrong. sympy would
know better, but its parsers evaluate what they read, and here a model wrote it.
"""

from __future__ import annotations

import re

from tokenbuncher.evaluation.numbers import UNITS, given_quantity, quantity
from tokenbuncher.evaluation.statements import (
    ANSWER_IS,
    MORE,
    RETRACTED,
    boxed,
    stated_clauses,
    taken_back,
    tidy,
)

LETTER = r"(?<![A-Za-z\\])(I(?! [a-z])|[A-HJ])(?![A-Za-z'\u2019])"
LIKELY = (
    r"(?:(?:most )?likely|probably|indeed|clearly|therefore|thus|definitely|certainly|obviously"
    r"|simply|surely|just|also)"
)
OTHER_LETTER = re.compile(r"(?<![A-Za-z\\])(A(?! [a-z])|I(?! [a-z])|[B-HJ])(?![A-Za-z'\u2019])")
CLOSING = r"[*_)\]}\"'”’$]{0,6}"  # noqa: RUF001 (quotation marks)
NAMED_LETTER = rf"[\s$*_\"'“‘(\[{{:`\\]{{0,8}}(?:(?:[Oo]ption|[Cc]hoice|[Ll]etter|text(?:bf)?)[^\w\n]{{0,6}})?{LETTER}"  # noqa: RUF001
STATED_LETTER = re.compile(
    rf"(?:{LIKELY} )?{NAMED_LETTER}{CLOSING}"
    r"(?:[.]?$|[.:)] ?[*_]{0,2}(?:\s|$)|,| \(| [-–—] |\s(?:because|since|as|for|so|which"  # noqa: RUF001
    r"|is (?:the )?(?:correct|right))\b)"
)
BOXED_LETTER = re.compile(
    rf"(?:[\s{{($*]|\\(?:text\w*|math\w+)|[Oo]ption|[Cc]hoice){{0,9}}{LETTER}[\s}}$*]{{0,6}}(?:$"
    rf"|[).:][\s}}$*]{{0,6}}(?:$|\\ |\w|\\text))"
)
BARE_LETTER = re.compile(
    rf"^[^\w\n~¬!+-]{{0,8}}{LETTER}(?!\) \d{{4}}\b)(?:[^\w\n?+-]{{0,8}}$|[*_]{{0,2}} ?[.):-][*_]{{0,2}}\s)"
    rf"|\({LETTER}\)(?! ?\d{{4}}\b|\?)"
    rf"|(?:[Oo]ption|[Cc]hoice) \(?{LETTER}(?=[*_.)]{{0,5}}(?:$|[.,:] )| is (?:the )?(?:correct|right)\b| because\b)"
    rf"|(?:^|(?<=[.!?] ))[^\w\n]{{0,4}}{LETTER}[^\w\n]{{0,4}} is (?:the )?(?:correct|right)\b",
    re.MULTILINE,
)
LONE_SMALL_LETTER = re.compile(r"[^\w\\]{0,4}([a-j])[^\w\\^+*/-]{0,4}")
NOT_CHOSEN = re.compile(
    r"n['\u2019]t\b|\b(?:not|never|neither|nor|cannot|but|except|than|wrong|incorrect|false|unlikely"
    r"|eliminat\w+|rule[ds]? out|out"
    r"|unless|if|maybe|perhaps|possibly|excluded?|without|reject\w*|none|no|or|opposite|contrary|lie"
    r"|fail\w*|worst|bad|tempting|nothing)\b",
    re.IGNORECASE,
)
POLAR = ("yes", "no", "true", "false")
QUOTES = r"[\s\"'‘’“”*_`(\[)\]]*+"  # noqa: RUF001 (quotation marks)
PRONOUN = r"(?:it|that|this|they|he|she|there|you|we|i)"
VERB = r"(?:is|are|was|were|does|do|did|can|could|will|would|has|have|had|should|may|must)"
LEADING = re.compile(
    rf"{QUOTES}({'|'.join(POLAR)})\b(?!\. \d)(?:{QUOTES}(?:[.,;!–—]|-\s|$|(?:because|since)\b)"  # noqa: RUF001
    rf"|{QUOTES}(?<=\n)"
    rf"| {PRONOUN} {VERB}(?:n['\u2019]t)?\b)"
)
CLOSED = re.compile(rf"\b({'|'.join(POLAR)})\b{QUOTES}(?:[.,;:!]|$)")
HEDGED = re.compile(
    r"^\W*(?:if|when|only|or|assuming|provided)\b|\b(?:but(?! (?:be|please|do|take|make|remember|always|keep) )|however"
    r"|although|though|except|unless|actually|wait|sorry|correction|rather|instead|maybe|perhaps|possibly"
    r"|probably|partly"
    r"|sometimes|depends|unsure|not sure|hold on|kidding|joking|lie|lies|liar|opposite|contrary|wrong"
    r"|incorrect|refus\w+|unable|nobody)\b"
)
DENIAL = re.compile(r"n['\u2019]t\b|\b(?:not|never|cannot|neither|nor|nothing|none|untrue)\b")
AFFIRMATION = re.compile(rf"^\W*{PRONOUN} {VERB}(?:\W*$|[.,;!\n]| (?!n['\u2019]t|not\b|no\b|never\b|false\b|a\b|an\b))")
STATEMENT_IS = re.compile(
    rf"(?:the|this|that) (?:statement|claim|sentence|assertion|proposition) is ({'|'.join(POLAR)})[.!]?$"
)
SUBJECT_IS = re.compile(r"(?:(?:the|its) (?:\w+ ){1,4}|it |that )(?:is|was) |(?:it|that)['\u2019]s ")
FORMULA = re.compile(r"[\\^_{}²³π√]|^[(\[].*,.*[)\]]$|(?:\b[a-z]|[\d)])\s*[-+*/=<>]\s*(?:[a-z]\b|[\d(])")
SIGNS = {
    "π": r"\pi ",
    "θ": r"\theta ",
    "∞": r"\infty ",
    "×": r"\times ",  # noqa: RUF001
    "·": r"\cdot ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "²": "^2",
    "³": "^3",
    "\u2212": "-",
    "\u2013": "-",
    "\u222a": r"\cup ",
}
NAME = re.compile(r"([A-Za-z](?:\([a-z]\))?)(?:=|\\in(?![a-z]))")
TEXT_UNIT = re.compile(r"(?<=[\w)}])\s*\\(?:text|mbox|mathrm)\s*\{([^{}]*)\}((?:\^\{?\d\}?)?)\s*$")
UNIT_NAMES = re.compile(
    r"(?:square |cubic |sq\.? ?)?(?:units?|" + "|".join(name for name in UNITS if name.isalpha()) + r")s?"
)


def judge_answer(response: str, expected: str) -> tuple[bool, bool]:
    r"""Whether a response holds an answer, and whether it is the expected one.

    A number is expected: it is read from `#### 42`, else from \boxed{42}, else from `the answer is 42`, else it is the
    last number; with sign, thousands separators, decimals, powers of ten or as a fraction. Its unit may be left out,
    but not be another than the expected one, if that has one. A letter from A to J: from \boxed{C}, else `the answer is
    C`, else where it stands alone; different letters are no answer. A formula: from \boxed{...}, else `the answer is
    ...`, else it is the response, if that is one line. yes, no, true or false: how the response begins, or `the answer
    is yes`. Anything else must be the whole response, its box or what `the answer is`, but for case, quotes and a full
    stop, or be all that a short sentence says: `The capital is Paris.` What is denied (`the answer is not 5`) or taken
    back is no answer.

    Returns:
        Whether the answer could be parsed, and whether it is correct.
    """
    expected, response = re.sub(r"\s+", " ", expected.strip()), tidy(response)
    if taken_back(response):
        return False, False
    if wanted := quantity(tidy(expected)):
        given = given_quantity(response)
        return given is not None, given is not None and given.is_as(wanted)
    if re.fullmatch("[A-J]", expected):
        letter = _given_letter(response)
        return letter is not None, letter == expected
    boxes = boxed(response)
    if boxes or FORMULA.search(expected):
        formula = boxes[-1] if boxes else _given_formula(response)
        return (True, _same_formula(formula, expected)) if formula.strip() else (False, False)
    return _judge_text(response.strip().casefold(), expected.casefold())


def _judge_text(text: str, wanted: str) -> tuple[bool, bool]:
    if not text:
        return False, False
    if text == wanted or re.fullmatch(rf"{QUOTES}{re.escape(wanted)}{_end(wanted)}", text):
        return True, True
    if wanted in POLAR:
        said = _polar_statements(text)
        return len(said) < 2, said == {wanted}
    said_so = {
        _states(text[found.end() : found.end() + len(wanted) + 80], wanted) for found in ANSWER_IS.finditer(text)
    }
    if not said_so and (subject := SUBJECT_IS.match(text)) and not NOT_CHOSEN.search(subject[0]):
        return True, re.fullmatch(rf"{QUOTES}{re.escape(wanted)}{_end(wanted)}", text[subject.end() :]) is not None
    return len(said_so) < 2, said_so == {True}


def _polar_statements(text: str) -> set[str]:
    """Which of yes, no, true and false a response says; one that is hedged or contradicted counts as two."""
    if statement := STATEMENT_IS.fullmatch(text):
        return {statement[1]}
    starts = [0, *(found.end() for found in ANSWER_IS.finditer(text))]
    said = [found for start in starts if (found := LEADING.match(text, start))]
    if not said:
        return set()
    rest = text[said[0].end(1) :]
    others = {found[1] for found in CLOSED.finditer(rest)}
    hedges = {"hedged"} if HEDGED.search(rest) or _contradicted(said[0][1], rest) else set()
    return {found[1] for found in said} | others | hedges


def _contradicted(said: str, rest: str) -> bool:
    """Whether what follows a yes says no, or the other way round."""
    if said in ("no", "false"):
        return AFFIRMATION.search(rest) is not None
    return DENIAL.search(re.split(r"\b(?:because|since)\b", rest, maxsplit=1)[0]) is not None


def _states(clause: str, wanted: str) -> bool:
    """Whether a clause begins with the wanted text, and no more belongs to it."""
    more = rf"|{QUOTES}(?:[.!]\s|,?\s?\b(?:because|since)\b)" if len(wanted) > 2 else ""  # not the St of St. Louis
    other = r"(?!\W*(?:or|and|but|no|not|nor|also|maybe|perhaps)\b)"
    found = re.match(rf"{QUOTES}{re.escape(wanted)}(?=(?P<end>{_end(wanted)}(?:$|\n){more}))", clause)
    return found is not None and re.match(other, clause[found.end() :]) is not None


def _end(wanted: str) -> str:
    """What may stand behind a text: quotes, and a full stop unless it has one."""
    return QUOTES if wanted.endswith((".", "!", "?")) else rf"{QUOTES}[.!]?{QUOTES}"


def repetition(response: str) -> float:
    """Share of the response's word trigrams that have occurred before in it, in [0, 1)."""
    words = response.split()
    trigrams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def _given_letter(response: str) -> str | None:
    if boxes := boxed(response):
        letters = [_letter(BOXED_LETTER.match(box)) for box in boxes]
    elif clauses := [clause for clause in stated_clauses(response) if re.search(LETTER, clause)]:
        letters = [_letter(STATED_LETTER.match(clause)) for clause in clauses]
    elif small := LONE_SMALL_LETTER.fullmatch(response.strip()):
        return small[1].upper()
    else:
        bare = list(BARE_LETTER.finditer(response))
        letters = [_bare_letter(response, found) for found in bare]
        if bare and RETRACTED.search(response, bare[-1].end()):
            return None
    return letters[0] if len(set(letters)) == 1 else None


def _letter(found: re.Match[str] | None) -> str | None:
    """The letter of a match, or None if another letter stands beside it."""
    if found is None or MORE.match(found.string, found.end(1)) or _another(found):
        return None
    return found[1]


def _another(found: re.Match[str]) -> bool:
    rest = re.split(r"\b(?:because|since|as)\b", found.string[found.end(1) :], maxsplit=1)[0]
    return any(letter != found[1] for letter in OTHER_LETTER.findall(re.sub(r"\bnot \(?[A-J]\b", "", rest)))


def _bare_letter(response: str, found: re.Match[str]) -> str | None:
    """A letter that stands alone; None if its sentence says that it is not the answer."""
    end, letter = next((found.end(group), found[group]) for group in range(1, 5) if found[group])
    begun = re.split(r"\n|\. ", response[max(0, end - 200) : end])[-1]
    clause = begun + response[end : end + 200].partition("\n")[0]
    return None if NOT_CHOSEN.search(clause) or MORE.match(response, end) else letter


def _given_formula(response: str) -> str:
    if clauses := stated_clauses(response):
        return clauses[-1]
    return response.strip() if len(response.strip().splitlines()) == 1 else ""


def _same_formula(given: str, wanted: str) -> bool:
    (name, body, unit), (wanted_name, wanted_body, wanted_unit) = _parts(given), _parts(wanted)
    if None not in (name, wanted_name) and name != wanted_name:
        return False
    return body == wanted_body and (None in (unit, wanted_unit) or unit == wanted_unit)


def _parts(formula: str) -> tuple[str | None, str, str | None]:
    """The name before a formula, the formula itself in a normal form, its unit."""
    unit = TEXT_UNIT.search(formula)
    name_of_unit = unit and unit[1].strip().casefold()
    if unit and name_of_unit and UNIT_NAMES.fullmatch(name_of_unit):
        formula = formula[: unit.start()]
        name_of_unit = UNITS.get(name_of_unit, UNITS.get(name_of_unit.removesuffix("s"), name_of_unit)) + unit[2].strip(
            "^{}"
        )
    else:
        name_of_unit = None
    formula = _normal(formula)
    name = NAME.match(formula)
    return name and name[1], formula[name.end() :] if name else formula, name_of_unit


def _normal(formula: str) -> str:
    """A formula in a normal form: without LaTeX's ways of setting it, degrees or spaces."""
    for sign, command in SIGNS.items():
        formula = formula.replace(sign, command)
    for pattern, replacement in (
        (r"\\(?:left|right|displaystyle)(?![a-z])|\\[!,;: ()\[\]]|[$~]", ""),
        (r"\\[dt]frac", r"\\frac"),
        (r"\\(?:text\w*|math\w\w|mbox|operatorname)\s*\{([^{}]*)\}", r"\1"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)", "°"),
        (r"√\s*\(([^()]*)\)|√\s*(\w+)", r"\\sqrt{\1\2}"),
        (r"\\frac\s*(\{[^{}]*\}|\w)\s*(\{[^{}]*\}|\w)", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"\{\{([^{}]*)\}\}", r"{\1}"),
        (r"([\^_])\s*\{\s*(\w)\s*\}", r"\1\2"),
        (r"\s+|\.\s*$", ""),
    ):
        formula = re.sub(pattern, replacement, formula)
    return formula.casefold() if len(formula) > 1 and formula.isalpha() else formula
