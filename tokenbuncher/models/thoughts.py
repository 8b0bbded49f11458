"""Thoughts: what a model writes before its answer, between marks that its chat template or tokenizer tells.

    thoughts = thoughts_of(tokenizer)
    text = thoughts.text(ids)     # with the marks, even where they are special tokens
    thoughts.answer(text)         # ("sure", True); ("", False) while the model still thinks

Whatever reads responses reads them by this: judges, rewards, answers to questions, the harness, entropies.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TURN = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True)
class Mark:
    """What stands before and after thoughts."""

    opening: str
    closing: str
    ending: str = ""
    """A token that ends thoughts as it may end messages, so that no response is over with it."""


KNOWN = (
    Mark("<|channel|>", "<|channel|>final<|message|>", ending="<|end|>"),
    Mark("<|channel>", "<channel|>"),
    Mark("<|inner_prefix|>", "<|inner_suffix|>"),
    Mark("Here is my thought process:", "Here is my response:"),
)
"""Marks whose form does not tell that they are a pair; `_pairs` tells all others, such as [THINK] and [/THINK]."""
AROUND_ANSWERS = (
    ("<answer>", "</answer>"),
    ("<response>", "</response>"),
    ("<output>", "</output>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
)
"""What some models put around the answer that follows their thoughts."""
FIELDS = ("reasoning_content", "reasoning", "thinking", "thoughts")
"""By these names chat templates take the thoughts of a message."""

_WORD = "(?:think|thought|reason|rationale|reflect|scratch_?pad|ponder|deliberat|monologue|(?<![a-z])cot(?![a-z]))"
_LIKE_MARKS = (
    re.compile(rf"<\|?/?[\w:.-]*{_WORD}[\w:.-]*\|?>|◁/?[\w:.-]*{_WORD}[\w:.-]*▷", re.IGNORECASE),
    re.compile(r"\[/?[A-Z_]*(?:THINK|THOUGHT|REASON)[A-Z_]*\]"),
)
_BRACKETS = re.compile(r"(<\|?|\[|◁)(/?)([^<>\[\]◁▷|/]+)(\|?>|\]|▷)")
_SIDES = {"begin": "end", "start": "end", "open": "close", "prefix": "suffix"}


@dataclass(frozen=True)
class Thoughts:
    """How a model marks its thoughts."""

    tokenizer: PreTrainedTokenizerBase
    marks: tuple[Mark, ...]
    opened: Mark | None
    """The mark that the prompt has opened already, so that responses begin inside it."""
    unknown: tuple[str, ...] = ()
    """What looks like a mark of thoughts, and nobody can tell where they end."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of some tokens without special tokens, but for those that mark thoughts."""
        specials, within = _special_tokens(self.tokenizer), self._marks_as_text
        if not self._by_special_tokens:
            return str(self.tokenizer.decode(ids, skip_special_tokens=True))
        kept = [token for token in ids if token not in specials or specials[token] in within]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def whole(self, ids: Sequence[int]) -> str:
        """The text of a response's tokens as it can be read again: with all special tokens if such mark thoughts."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=not self._by_special_tokens)).strip()

    @cached_property
    def _marks_as_text(self) -> str:
        return "".join(mark.opening + mark.closing for mark in self.marks)

    @cached_property
    def _by_special_tokens(self) -> bool:
        return any(token in self._marks_as_text for token in _special_tokens(self.tokenizer).values())

    def answer(self, response: str) -> tuple[str, bool]:
        """What a response says after its thoughts, and whether it has come that far.

        Args:
            response: Text of the response. Closing thoughts that were never opened hides no answer.

        Returns:
            The answer and True; without thoughts, the whole response and True; with unfinished ones, "" and False.
        """
        text, mark = response.strip(), self.opened
        while mark := mark or self._begun(text):
            _, closed, text = text.partition(mark.closing)
            if not closed:
                return "", False
            text, mark = _unwrapped(text.strip()), None
        return text, True

    def within(self, response: str) -> bool:
        """Whether the text contains thoughts."""
        return self.opened is not None or self._begun(response.strip()) is not None

    def first_token(self, ids: Sequence[int]) -> int:
        """Which token is the first of the answer; 0 if there are no thoughts, or nothing after them."""
        if not self.within(self.text(ids)):
            return 0
        before = bisect_left(range(len(ids)), True, key=lambda last: bool(self.answer(self.text(ids[: last + 1]))[0]))
        return before if before < len(ids) else 0

    def _begun(self, text: str) -> Mark | None:
        return next((mark for mark in self.marks if text.startswith(mark.opening)), None)


def thoughts_of(tokenizer: PreTrainedTokenizerBase) -> Thoughts:
    """How the model of a tokenizer marks its thoughts, as the chat template and the tokenizer's tokens tell.

    Between marks that these do not tell, even `<think>`, users see the text, and a model may have learnt to hide there.
    What is not told by the text of the template is read from what it renders.
    """
    template, tokens = str(tokenizer.get_chat_template()), list(tokenizer.get_added_vocab())
    told = [mark for mark in KNOWN if mark.opening in template or mark.opening in tokens]
    alike = {found for text in (template, *tokens) for like in _LIKE_MARKS for found in like.findall(text)}
    told += sorted(_pairs(alike), key=lambda mark: mark.opening)
    if not told:
        told += _rendered(tokenizer)
    marks = tuple(dict.fromkeys(told))
    prompt = str(tokenizer.apply_chat_template(TURN, tokenize=False, add_generation_prompt=True))
    tail = prompt.rpartition(TURN[0]["content"])[2]
    opened = next((mark for mark in marks if mark.opening in tail and mark.closing not in tail), None)
    known = {part for mark in marks for part in (mark.opening, mark.closing)}
    unknown = sorted(alike - known) or ([] if told else [field for field in FIELDS[:1] if field in template])
    return Thoughts(tokenizer, marks, opened, tuple(unknown))


def opens_unknown(thoughts: Thoughts) -> str | None:
    """A mark at the end of prompts for which no closing mark is known."""
    prompt = str(thoughts.tokenizer.apply_chat_template(TURN, tokenize=False, add_generation_prompt=True))
    return next((mark for mark in thoughts.unknown if prompt.rstrip().endswith(mark)), None)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that decoding leaves out."""
    return {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def _unwrapped(answer: str) -> str:
    for before, after in AROUND_ANSWERS:
        if answer.startswith(before):
            return answer.removeprefix(before).removesuffix(after).strip()
    return answer


def _pairs(alike: set[str]) -> Iterator[Mark]:
    """Pairs by their form: a slash in the second, or sides like begin and end.

    Either of <this>, [THIS] or ◁this▷ is enough; of <|this|> and of sides both must be there.
    """
    for brackets in filter(None, map(_BRACKETS.fullmatch, alike)):
        before, slash, name, after = brackets.groups()
        sides = [(opens, closes) for opens, closes in _SIDES.items() if _has(name, opens)]
        closings = [
            f"{before}{re.sub(opens, partial(_cased, closes), name, flags=re.I)}{after}" for opens, closes in sides
        ]
        slashed = f"{before}/{name}{after}"
        if slash or slashed in alike or not (sides or "|" in before or any(map(partial(_has, name), _SIDES.values()))):
            closings.append(slashed)
        yield from (
            Mark(f"{before}{name}{after}", closing) for closing in closings if closing in alike or closing == slashed
        )


def _has(name: str, side: str) -> bool:
    return re.search(rf"(?<![a-z]){side}(?![a-z])", name, re.IGNORECASE) is not None


def _cased(word: str, like: re.Match[str]) -> str:
    return word.upper() if like[0].isupper() else word


def _rendered(tokenizer: PreTrainedTokenizerBase) -> list[Mark]:
    """The marks that the template puts around the thoughts of a message."""
    asked = str(tokenizer.apply_chat_template(TURN, tokenize=False, add_generation_prompt=True))
    for field in FIELDS:
        turns = [*TURN, {"role": "assistant", field: "hm, a hen", "content": "fine"}]
        try:
            rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
        except Exception:  # a template that does not take such a message does not render thoughts by that name
            continue
        before, found, after = rendered.partition("hm, a hen")
        opening, closing = before.removeprefix(asked).strip(), after.partition("fine")[0].strip()
        if found and opening and closing and before.startswith(asked):
            return [Mark(opening, closing)]
    return []
