"""Passwords and tokens in the addresses of servers: found, and taken out of texts."""

from __future__ import annotations

import re

HIDDEN = "***"
_NAMES = (
    r"[\w.-]{0,40}(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|credentials?|signature|api[-_]?key|access[-_]?key|"
    r"private[-_]?key)|key|sig|auth"
)
_SECRETS = {
    # A password may have / or @ in it; `host:5000/a@b` has none.
    "://user:password@": r"(?P<before>https?:/{1,9}|://)[^\s/?#@:[\]'\"<>]{0,200}:(?!\d{1,5}(?:[/?#]|$))[^\s'\"<>]{0,500}@",
    "https://token@": r"(?P<before>\bhttps?:/{1,9})[^\s/?#@:'\"<>]{1,500}@",
    # A parameter may hold others, percent-encoded.
    "?token=": rf"(?P<before>(?:[?&;#]|%3B)(?:{_NAMES})(?:=|%3D))[^\s&;#'\"<>]+",
}
_PATTERNS = [re.compile(pattern, re.IGNORECASE) for pattern in _SECRETS.values()]


def without_passwords(text: str) -> str:
    """The text with *** in the place of the passwords and tokens of its addresses."""
    if ":/" not in text:
        return text
    for pattern in _PATTERNS:
        text = pattern.sub(lambda found: f"{found['before']}{HIDDEN}{'@' if found[0].endswith('@') else ''}", text)
    return text


def has_password(text: str) -> bool:
    """Whether an address in the text has a password or token, before its host or among its parameters."""
    return without_passwords(text) != text
