"""Passwords and tokens in the addresses of servers: found, and taken out of texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_WORDS = (
    r"[\w.-]{0,40}(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|credentials?|signature|api[-_]?key|"
    r"access[-_]?key(?:[-_]?id)?|private[-_]?key|authorization|bearer|jwt|session(?:[-_]?id)?)"
)
_NAMES = rf"{_WORDS}|key|sig|auth|code|sid"
_HTTP = r"\bhttps?:/{1,9}"
_OTHER = r"(?:(?<!http)(?<!https)://|\b(?:postgres(?:ql)?|mysql|mariadb|mssql|oracle)(?:\+\w+)?:/{0,9})"
_NO_PORT = r"(?!\d{1,5}(?:[/?#]|$))"
"""`http://host:5000/a@b` has no password; to a database, it has."""
_UNTIL_CUT = r"[^\s'\"<>@]{1,4000}?(?=\.\.\.|…)"
_BLANKS = r"(?:\s|\+|%20|%2B){0,9}"
_MARK = rf"(?:[?&;#]|%(?:25)*(?:3B|26|20)){_BLANKS}"
_EQUALS = rf"{_BLANKS}(?:=|%(?:25)*3D)"
_IN_TEXT = {
    # A password may have / or @ in it.
    "https://user:password@": rf"(?P<before>{_HTTP})[^\s/?#@:[\]'\"<>]{{0,200}}:{_NO_PORT}[^\s'\"<>]{{1,4000}}@",
    "db://user:password@": rf"(?P<before>{_OTHER})[^\s/@:[\]'\"<>]{{0,200}}:[^\s'\"<>]{{1,4000}}@",
    "https://token@": rf"(?P<before>{_HTTP})[^\s/?#@:'\"<>]{{1,4000}}@",
    # Whoever cut the text may have cut the host off.
    "https://user:passw...": rf"(?P<before>{_HTTP})[^\s/?#@:[\]'\"<>]{{0,200}}:(?!\d{{1,5}}(?:\W|$)){_UNTIL_CUT}",
    "db://user:passw...": rf"(?P<before>{_OTHER})[^\s/@:[\]'\"<>]{{0,200}}:(?!\d{{1,5}}(?:[^\w/?]|$)){_UNTIL_CUT}",
    "?odbc_connect=": rf"(?P<before>[?&]odbc_connect=)[^\s&#'\"<>]*{_MARK}(?:{_NAMES}){_EQUALS}[^\s&#'\"<>]*",
    # A parameter may hold others, percent-encoded; quotes around its value do not end in another string.
    "?token=": rf"(?P<before>{_MARK}(?:{_NAMES}){_EQUALS})"
    r"(?:'[^\n\"']+'|\\?\"[^\s\"',:{}\]\\]+\\?\"|[^\s&;#'\"<>]+)",
}
_ALONE = {
    "https://user:password@": rf"(?P<before>^\s*{_HTTP})[^/?#@:[\]]*:{_NO_PORT}.+@",
    "https://token@": rf"(?P<before>^\s*{_HTTP})[^/?#@:]+@",
    "db://user:password@": r"(?P<before>^\s*(?!https?:)[\w+.-]+:/{1,9})[^/@:[\]]*:.+@",
    "?odbc_connect=": rf"(?P<before>[?&]odbc_connect=)[^&#]*{_MARK}(?:{_NAMES}){_EQUALS}[^&#]*",
    "?token=": rf"(?P<before>{_MARK}(?:{_NAMES}){_EQUALS})(?:'[^']*'|\"[^\"]*\"|[^&;#\s]+)",
}
"""Where the whole text is an address, spaces and quotes in it belong to it."""


def _compiled(forms: Mapping[str, str]) -> list[re.Pattern[str]]:
    return [re.compile(form, re.IGNORECASE | re.DOTALL) for form in forms.values()]


_TEXT_PATTERNS, _ALONE_PATTERNS = _compiled(_IN_TEXT), _compiled(_ALONE)
_ADDRESS = re.compile(r"\s*[\w+.-]+:/")
_SECRET_FIELD = re.compile(rf"key_env|env|{_WORDS}", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """The text with *** in the place of the passwords and tokens of its addresses."""
    return _hidden(text, _TEXT_PATTERNS) if ":" in text else text


def masked(value: Any) -> Any:
    """A value of a document, whole, without the passwords and tokens of its addresses, to be shown or cut."""
    if isinstance(value, str):
        return without_passwords(_hidden(value, _ALONE_PATTERNS) if _ADDRESS.match(value) else value)
    if isinstance(value, Mapping):
        return {masked(key): HIDDEN if is_secret(key) else masked(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(masked, value))
    return value


def has_password(value: str) -> bool:
    """Whether an address in the value has a password or token, before its host or among its parameters."""
    return bool(masked(value) != value)


def is_secret(field: object) -> bool:
    """Whether a field has the name of those that hold a secret, or in which people write one by mistake."""
    return isinstance(field, str) and bool(_SECRET_FIELD.fullmatch(field))


def _hidden(text: str, patterns: list[re.Pattern[str]]) -> str:
    for pattern in patterns:
        text = pattern.sub(lambda found: f"{found['before']}{HIDDEN}{'@' if found[0].endswith('@') else ''}", text)
    return text
