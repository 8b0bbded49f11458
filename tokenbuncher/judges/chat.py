"""Answers of an OpenAI-compatible endpoint: the text, or why there is none, without secrets.

An answer that cannot be read, and a model that declines to answer, are two things: the first may be mended by asking
again or by the endpoint's owner, the second by another judge or rubric.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tokenbuncher.core.documents import first_problem
from tokenbuncher.core.passwords import without_passwords

COMMON_WORDS = """
access api authentication been could default does error exceeded expected found from have incorrect internal invalid
large later limit long maximum missing must overloaded page parameter permission please provided quota rate request
server service should supported temperature that timeout token tokens unauthorized unavailable unknown unsupported
value when your"""
"""Of errors; they tell nothing of what was sent."""
LONGEST_WORDS = 200
"""Characters of an endpoint's own words that are told."""
THOUGHT = "</think>"
WITHHELD = re.compile(r"content_filter|content_policy|content management policy|ResponsibleAI|safety system", re.I)
DECLINED = re.compile(
    r"\b(?:can(?:'|no|\s+no)?t|won't|will not|unable to|not able to|not going to|not comfortable)\b"
    r"|\b(?:declin|refus)(?:e|ing)\b|\bsorry\b|\bagainst my\b",
    re.IGNORECASE,
)


class Unreadable(Exception):
    """An answer that is broken, cut off or of another form. The message says how, as `gave ...`."""


class Declined(Exception):
    """The model, or a filter before it, declines to answer."""


class _Part(BaseModel):
    type: str
    text: str = ""


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)

    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None

    def text(self) -> str:
        """The text of the answer, without thoughts."""
        if isinstance(self.content, list):
            said = "".join(part.text for part in self.content if part.type == "text")
        else:
            said = self.content or ""
        return said.rpartition(THOUGHT)[2]


class _Choice(BaseModel):
    model_config = ConfigDict(strict=True)

    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice]


def answer_of(body: bytes) -> str:
    """The text of a completion that ended by itself.

    Raises:
        Unreadable: If it is none, is cut off, or has no text.
        Declined: If the model or a filter declines.
    """
    try:
        choices = _Completion.model_validate_json(body).choices
    except ValidationError as error:
        raise Unreadable(f"no whole answer ({first_problem(error)})") from None
    if len(choices) != 1:
        raise Unreadable(f"no whole answer ({len(choices)} choices)")
    message, ended = choices[0].message, choices[0].finish_reason or "none"
    if message.refusal or ended.startswith("content_filter"):
        raise Declined
    if ended == "length":
        raise Unreadable("no whole answer (finish_reason length: it was cut off); raise its limit of tokens")
    if ended != "stop":
        raise Unreadable(f"no whole answer (finish_reason {ended if re.fullmatch('[a-z_]{1,30}', ended) else '?'})")
    if text := message.text().strip():
        return text
    if message.reasoning_content or message.reasoning:
        raise Unreadable(
            "no whole answer (thoughts, and no answer after them); raise its limit of tokens, or correct how the "
            "server tells thoughts from answers"
        )
    raise Unreadable("no whole answer (its content is empty)")


def declines(answer: str) -> bool:
    """Whether an answer without a result declines to give one."""
    return DECLINED.search(answer.replace("\u2019", "'")) is not None


def own_words(body: str) -> str:
    """What an error says of itself: the message of a JSON body, the title of a web page, else the text."""
    try:
        return _message(json.loads(body))
    except (ValueError, RecursionError):
        pass
    if re.search(r"<html|<!doctype", body, re.IGNORECASE):
        title = re.search(r"<title[^>]*>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)
        return f"a web page: {title[1]}" if title else "a web page"
    return body


def _message(value: Any) -> str:
    if isinstance(value, list):
        return _message(value[0]) if value else ""
    if not isinstance(value, dict):
        return str(value)
    named = next((value[name] for name in ("error", "message", "detail", "msg") if value.get(name)), "")
    return _message(named)


def redacted(words: str, sent: str, known: str, *, key: str | None) -> str:
    """An endpoint's words in one short line, without the key and whatever it repeats of what was sent.

    Args:
        words: Words of the message.
        sent: Text that was sent.
        known: Text that is not secret, such as the rubric. Its words may be shown.
        key: The API key.
    """
    plain = re.sub(r"\\+(?:u[0-9a-fA-F]{4}|.)", " ", without_passwords(words)[: 20 * LONGEST_WORDS])
    plain = re.sub(r"\S*\*{3}\S*|\bsk-\S+", "…", plain.replace(key, "…") if key else plain)
    harmless = {*_words(known), *COMMON_WORDS.split()}
    text = f"{sent} {key or ''}".casefold()
    secrets = {word for word in _words(text) if _tells(word)} - harmless

    def told(word: re.Match[str]) -> str:
        folded = word[0].casefold()
        repeats = _tells(folded) and (folded in text or any(secret in folded for secret in secrets))
        return "…" if repeats and folded not in harmless else word[0]

    line = " ".join(re.sub(r"\w+", told, plain).split())
    line = re.sub(r"(?:…\W*){2,}", "… ", line)
    return line if len(line) <= LONGEST_WORDS else line[: LONGEST_WORDS - 1] + "…"


def _tells(word: str) -> bool:
    return len(word) > 3 or not word.isascii()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
