r"""Where a response states its answer: in a \boxed{...} or behind `the answer is`; and whether it takes that back.

All patterns run over tidy text, in which white space stands alone, and in time that grows as the text does: a model
wrote it.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"
NUMBER_WORD = (
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w{3,5}teen|twenty|thirty|forty|fifty"
    r"|sixty|seventy|eighty|ninety|hundred|thousand|million)"
)
VERB = r"(?:\b(?:is|are|equals|(?:must|would|should|will|has to) be)\b ?:?|[:=])"
ANSWER_IS = re.compile(
    rf"\b(?:answer|(?:correct|right|best) (?:option|choice))\b[^.\n]{{0,60}}?{VERB}[\s*_]{{0,8}}", re.IGNORECASE
)
_SAID_FALSE = (
    r"(?:(?:n['\u2019]t|\b(?:not|never|cannot)) (?:\w+ )?(?:think|believe|say|claim|conclude|sure|certain|true|correct"
    r"|right|the case|agree|mean|imply)"
    r"|(?<!\bno )(?<!\bany )(?<!\bwithout )(?<!\bwithout a )(?<!\bbeyond )(?<!\bbeyond a )(?<!n['\u2019]t )\bdoubt"
    r"|\b(?:unlikely|wrong|incorrect|false|untrue|mistaken))\b"
)
_ON = r"(?:(?!\b(?:so|therefore|thus|hence|because|since|then|and|but)\b)[^.,;:!?\n])"
DENIED = re.compile(
    rf"(?:{_SAID_FALSE}{_ON}{{0,30}}|\b(?:if|whether|unless|supposing|suppose|assum\w{{1,3}}|imagine"
    rf"|pretend|claim\w{{0,3}}) (?!so\b|yes\b|not\b)(?:\w{{1,30}} ){{0,2}})"
    rf"\banswer\b[^.\n]{{0,60}}?{VERB}[^.!?;\n]*"
    r"|\banswer\b(?:(?! (?:is|are) )[^.,:;\n\d]){0,40}?(?:\b(?:is|are|can|could|may|might|must|should|will|would) "
    r"(?:(?:surely|certainly|definitely|clearly|simply) )?(?:not|never)\b|n['\u2019]t\b|\bcannot\b)[^.,;!?\n]*",
    re.IGNORECASE,
)
"""The answer is not 5; if the answer is 5."""
NOT_BUT = re.compile(r"(\banswer is)(?:n['\u2019]t| not) [^.,;!?\n]{1,30}?,? but (?!if\b|only\b|not\b)", re.IGNORECASE)
_TAKING_BACK = (
    r"(?:wait|hmm+|oops|whoops|correction|scratch that|strike that|on (?:second thoughts?|reflection)|hold on|hang on"
    r"|never ?mind|just kidding|let me (?:re-?\w+|correct|check|try|think|fix)|i (?:meant?|take (?:that"
    r"|it) back|was wrong|misread)"
    r"|make that|or|rather|instead|however|except|apolog\w+|my (?:mistake|bad)|not(?=\W*(?:$|\n))|then again"
    r"|no(?!,? (?:really|seriously|doubt)\b| (?:problem|need|more|further|other|one|trick)|\. ?of\b)"
    r"|actually(?!,? (?:this|that|it) (?:is|was) (?:\w+ )?(?:easy|simple|trivial|straightforward|fun|clear|obvious)\b)"
    r"|sorry(?!,? (?:i can ?not do|i can['\u2019]t do|for the|if )))\b"
)
RETRACTED = re.compile(
    rf"(?:[.!?;,:}}$*\n—–-]|^)[\s*_$\"')]{{0,4}}(?:(?:but|oh|ah|well|so|and|um|uh|hmm+),? )?{_TAKING_BACK}"  # noqa: RUF001
    r"|\b(?:that|this|it|which|these|answer|result|calculation|i)(?: is|['\u2019]s| was| am| may be"
    r"| might be| could be|"
    r"['\u2019]m)(?: \w+)? ?(?:wrong|incorrect|false|untrue|mistaken|a mistake|an error|a lie|a joke)\b"
    r"|\b(?:that|this|it|which|answer|result)(?:(?: is| was|['\u2019]s) not|(?: is"
    r"|was)n['\u2019]t) (?:\w+ )?(?:right|correct|true|so)\b"
    r"|\b(?:i|we|have)(?:['\u2019]ve)? made (?:a|an|some)\b[^.\n]{0,20}(?:mistake|error)"
    r"|\bit (?:should be|is not|isn['\u2019]t)\b|\bthe (?:correct|right|real|actual|true) \w+ (?:is|was|should)\b"
    r"|\bbut (?:not|it|that|this|maybe|perhaps|could|might)\b",
    re.IGNORECASE,
)
CALLED_FALSE = re.compile(r"(?:\w+ )?(?:wrong|incorrect|mistaken)\b", re.IGNORECASE)
SENTENCE_END = re.compile(r"[.?](?:[\s*]|$)|!(?=$|[\n*]| [^=.a-z+*/^-])|\n")
_BOX = re.compile(r"\\f?boxed ?\{")
_BOX_OR_BRACE = re.compile(r"(\\f?boxed ?\{)|\\.|([{}])", re.DOTALL)
BEFORE_A_TERM = re.compile(
    r"(?:(?<!\*)\*|[-+/^√×÷·±<>≤≥≠|∼{]|(?:\d|(?<![A-Za-z])[A-Za-z]\(?|\\(?!boxed|q?quad|approx|sim"  # noqa: RUF001 (signs)
    r"|implies|therefore"
    r"|[rR]ightarrow|displaystyle|left|math|text|[(\[])[a-zA-Z]+(?:\[\w+\])?))[ ${]{0,4}$"
)
NO_TERM = re.compile(r"(?:^|\n) ?[-*+>] $|[-=]+> ?$|</?\w+>$|\\(?:left|math\w+|text\w*)[{(]$|^\s*\{$")
"""What only looks like a term: a bullet, an arrow, a tag."""
AFTER_A_TERM = re.compile(
    r"[ $}]{0,4}(?:or\b|'|\*\*\d|\*(?!\*)|[\^_/!<>²³½⁄÷×·±+₀-₉⁰-⁹{]|:\s?\d|-\s?[\d\\({a-z]|–|\d"  # noqa: RUF001
    r"|(?<! )[A-Za-z(]"
    r"|\\(?![)\]]|q?quad|%|text|[,;! ]))"
)
MORE = re.compile(
    rf"[\s$)}}*%]{{0,4}}(?:,? ?\b(?:or|and|to|as well as|and also|plus|vs\.?)|[,;&/(+]|-) ?"
    rf"(?:(?:or|and|also|maybe|perhaps|possibly|even|it could be|the) ){{0,3}}[\s$(*]{{0,4}}(?:[A-Za-z] ?= ?)?"
    rf"(?:[{{]?-?\.?\d|\\[a-z{{]|∞|\(?[B-HJ]\b(?!['\u2019])|A\b(?! [a-z])|\b{NUMBER_WORD}\b)"
    r"|[\s$)}*(,]{0,4}\b(?:(?:with )?(?:an? )?remainder|squared|cubed|factorial|over|out of|divided"
    r"|multiplied|mod|modulo|in base|base|pi"
    r"|sqrt|root|choose|raised|to the (?=power|\w+th\b|\d)|is (?:not|wrong|incorrect|false|out)"
    r"|isn['\u2019]t|was (?:not|wrong)"
    r"|(?:and|or) (?:an?|one|two|three|over|up|above|more|less|fewer|so|higher|lower|greater|below|under"
    r"|maybe|not|perhaps)"
    r"|half|halves|thirds?|quarters?|(?:\w+ )?(?:more|less|fewer|greater) than (?=\d)|(?:four|fif|six"
    r"|seven|eigh|nin|ten|hundred|thousand|million)ths?"
    r"|at (?:most|least)|(?:per|for|by|in|with|r) (?=\d)|th (?:root|power)|(?:wrong|incorrect)|not(?! \d| \(?[A-J]\b)"
    r"|modulus|percent of|per cent of|degrees below)\b",
    re.IGNORECASE,
)
"""What makes more of an answer: another one beside it, or an operation on it."""
JOINED = re.compile(r"[\s$*\\()]{0,9}(?:,? ?\b(?:and|or|as well as)\b|[,;&/])?(?: also| or| maybe)?[\s$*\\()]{0,9}")
TURNED_ROUND = re.compile(
    r"(?:[<>≤≥≠]|\d(?::|\*\*| in(?= ))|\\(?:[lg]eq?|neq?|[lg]t)(?![a-z])|n['\u2019]t|\b(?:not|never|neither|nor"
    r"|no\.?|less|more|fewer|greater"
    r"|larger|smaller|bigger|higher|lower|than|below|above|most|least|under|over|up to|beyond|within|exceeds?"
    r"|(?:anything|all|nothing) but|except|excluding|without|twice|thrice|double|triple"
    r"|(?:half|third|quarter)(?= of)|root|sqrt|log|ln|exp|sin|cos|tan|square|cube|factorial|inverse|reciprocal"
    r"|absolute value|negation|negative|opposite|either|between|almost|nearly|instead of|minus|multiple"
    r"|power|factor|base|modulo|mod))"
    r"(?: (?:of|than|the|an?|to|as|from|by|is|be|or|equal|exactly|just|even)\b){0,4}[\s$({*_'\"]{0,4}$",
    re.IGNORECASE,
)
"""Words before an answer that make it another one: not 5, under 5, half of 5."""


def tidy(text: str) -> str:
    """The text with white space alone, no denied answers, and minus signs as such."""
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r"\n+", "\n", re.sub(r" ?\n ?", "\n", text))
    text = re.sub(rf"(?<![^\s(\[{{=:$*])[{_DASHES}] ?(?=[$€£¥]?\.?\d)", "-", text)
    text = re.sub(rf"(?<=\d) ?[{_DASHES}] ?(?=\d)", "-", text)
    return DENIED.sub("", NOT_BUT.sub(r"\1 ", text))


def taken_back(text: str) -> bool:
    """Whether the last statement of an answer is followed by `Wait, ...` or `That is wrong.`"""
    ends = [found.end() for found in ANSWER_IS.finditer(text)][-1:] + [box.end for box in _boxes(text)][-1:]
    if any(CALLED_FALSE.match(text, found.end()) for found in ANSWER_IS.finditer(text)):
        return True
    return bool(ends) and RETRACTED.search(text, max(ends)) is not None


def stated_clauses(text: str) -> list[str]:
    """What follows each `answer is`, to the end of the sentence or the next one."""
    found = list(ANSWER_IS.finditer(text))
    limits = [statement.start() for statement in found[1:]] + [len(text)]
    return [sentence(text, statement.end(), limit) for statement, limit in zip(found, limits, strict=False)]


def sentence(text: str, start: int, limit: int | None = None) -> str:
    """The rest of a sentence, with its question mark."""
    limit = len(text) if limit is None else limit
    end = SENTENCE_END.search(text, start, limit)
    return text[start : end.start() + (end[0][0] == "?") if end else limit]


class _Box(NamedTuple):
    start: int
    inside: int
    end: int


def boxed(text: str) -> list[str]:
    r"""What stands in each outermost \boxed{...} that is closed; "" if it is a part of something else."""
    boxes = _boxes(text)
    contents = [_content(text, box) for box in boxes]
    if any(JOINED.fullmatch(text, one.end, other.start) for one, other in pairwise(boxes)):
        contents[-1] = ""
    return contents


def _content(text: str, box: _Box) -> str:
    before, after = text[max(0, box.start - 60) : box.start], text[box.end : box.end + 60]
    in_a_term = BEFORE_A_TERM.search(before) and not NO_TERM.search(before)
    if in_a_term or TURNED_ROUND.search(before) or AFTER_A_TERM.match(after) or MORE.match(after):
        return ""
    return _BOX.sub("{", text[box.inside : box.end - 1])


def _boxes(text: str) -> list[_Box]:
    """The outermost boxes that are closed."""
    boxes: list[_Box] = []
    opened: list[tuple[int, int] | None] = []
    for mark in _BOX_OR_BRACE.finditer(text):
        if mark[1] or mark[2] == "{":
            opened.append(mark.span() if mark[1] else None)
        elif mark[2] and opened and (box := opened.pop()):
            while boxes and boxes[-1].start > box[0]:
                boxes.pop()
            boxes.append(_Box(box[0], box[1], mark.end()))
    return boxes
