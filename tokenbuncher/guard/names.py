"""Names as databases compare them: to many, `chámpion` and `Champion ` are the same key as `champion`."""

from __future__ import annotations

import unicodedata

IGNORED = ("Mn", "Mc", "Me", "Cf", "Cc")
"""Unicode categories of marks and of characters without a shape."""
SPELT = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ł": "l", "ŧ": "t", "þ": "th"}  # noqa: RUF001
)
"""Letters that no decomposition takes apart, but collations compare as others."""


def folded(name: str) -> str:
    """A name without case, marks, width, script of its digits, invisible characters and surrounding space.

    Two names that any usual collation takes for one fold to the same, with few exceptions; those the guard finds by
    asking the database.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    shaped = (c for c in plain if unicodedata.category(c) not in IGNORED)
    return "".join(str(unicodedata.digit(c, c)) for c in shaped).translate(SPELT).strip()
