"""Inputs that nobody meant to write: noise, and valid files that were changed in a few places."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

Place = tuple[str | int, ...]
Inputs = SearchStrategy[bytes]

LONG = 20_000
LONGEST = 8 * 2**20
"""Bytes of an input."""


def _bomb(grain: str, layer: str) -> str:
    """Aliases of aliases: short, and without end when they are written out."""
    layers = [f"&{name} {layer % ', '.join([f'*{former}'] * 9)}" for former, name in pairwise("abcdefghi")]
    return f"[&a {grain}, {', '.join(layers)}]"


# What may stand in the place of a value, as it is written in the file.
RAW_JSON = [
    *("null", "true", "false", "0", "1", "-1", "-0", "-0.0", "0.1", "1.0", "100", "1e-400", "1e400", "-1e400", "1e308"),
    *("NaN", "Infinity", "-Infinity", "nan", "inf", "0x1F", "1_000", "01", "+1", ".5", "1.", "1e", "--1", "True"),
    *("9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 400, "9" * 5000),
    *('""', '" "', '"0"', '"1"', '"0.1"', '"NaN"', '"true"', '"null"', '"PASS"', '"PASSED"', '"BLOCK"', '"sft"', '"."'),
    *(r'"\u0000"', r'"\ud800"', r'"\udc00\ud800"', r'"\u202eSSAP"', '"\u2028"', '"\x85"', '"\ufeff"', r'"a\nb"', '"é"'),
    *('"2026-11-25"', '"2026-11-25T12:00:00"', '"2026-11-25T12:00:00Z"', '"2026-11-25T12:00:00+99:99"', "1764072000"),
    *('"9999-12-31T23:59:59-14:00"', '"0001-01-01T00:00:00+14:00"', '"2026-02-30T00:00:00Z"', '"24:00"', '"1e400"'),
    *(
        "[]",
        "{}",
        "[[]]",
        "[null]",
        '{"": 0}',
        '{"a": 1, "a": 2}',
        "[1, 2",
        '{"a"',
        "'a'",
        "undefined",
        "// 1",
        "/**/1",
    ),
    *("[" * depth + "]" * depth for depth in (100, 250, 900, 990, 5000, LONG)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (100, 250, 900, 990, 5000)),
    *('"' + "a" * length + '"' for length in (64, 300, 5000, LONG)),
    *("[" + ", ".join([item] * 300) + "]" for item in ("0", '"a"', "{}")),
]
RAW_YAML = [
    *RAW_JSON,
    *("", "~", "yes", "off", ".nan", "-.inf", ".", "1:30:00", "09", "0o17", "0b_", "0x_", "0x" + "f" * 5000, "1_0.5_"),
    *("2026-11-25", "2026-13-45", "2026-02-30 25:61:61", "2026-11-25T12:00:00+99:99", "0001-01-01 00:00:00 +14:00"),
    *("&a [*a]", "&a {b: *a}", "*a", "&a &b c", "{<<: 1}", "{<<: {a: 1}, a: 2}", "&a {<<: *a}", "&a {<<: [*a, *a]}"),
    *(_bomb("[x, x]", "[%s]"), _bomb("{k: 1, l: 2}", "{<<: [%s]}")),
    *(
        "!!binary '####'",
        "!!timestamp abc",
        "!!int abc",
        "!!int ''",
        "!!float ''",
        "!!bool maybe",
        "!!null x",
        "!!str [a]",
    ),
    *(
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!pairs [a: b]",
        "!!map [a]",
        "!!seq {a: 1}",
        "!x y",
        "!<x> y",
        "!!python/name:os.x",
    ),
    *("!!python/object/apply:os.system [false]", "{[1, 2]: 3}", "{{a: b}: c}", "{? [a] : b}", "{1: 2}", "{null: 1}"),
    *(
        "{true: 1, yes: 2}",
        "{2026-11-25: 1}",
        "{.nan: 1}",
        r'"\0"',
        r'"\ud800"',
        r'{"\ud800": 1}',
        r'"\U00110000"',
        "=",
    ),
    *("|", ">", "%", "@", "`", "- a", "a: b: c", "? a", "[a, b", "{a, b", "'", '"', "#", "---", "...", "\t1", "a #b"),
]
BLOTS = [
    *(
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\x0b",
    ),
    *(
        b"\r\n",
        b"\r",
        b"\n",
        b"\t",
        b" ",
        b'"',
        b"'",
        b",",
        b":",
        b"{",
        b"}",
        b"[",
        b"]",
        b"-",
        b"\\",
        b"#",
        b"&a ",
        b"*a",
    ),
]
CODECS = ["utf-8-sig", "utf-16", "utf-32-be", "latin-1", "utf-7"]


@st.composite
def noise(draw: DrawFn) -> bytes:
    """Bytes and texts of no form."""
    text = st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass"))
    # A composite, so that it is one of the choices beside it, and not three.
    return draw(st.binary(max_size=200) | text | st.sampled_from([raw.encode() for raw in RAW_YAML]))


def changed_json(*documents: Any, keys: Sequence[str] = ()) -> Inputs:
    """A JSON file of one of the documents, with a few values, keys or bytes that are not as they were.

    Args:
        documents: Valid documents.
        keys: Names of fields that a document may have; those that it has are known.
    """
    return st.one_of([_changed(_Document(document, RAW_JSON, keys)) for document in documents])


def changed_yaml(*documents: Any, keys: Sequence[str] = ()) -> Inputs:
    """The same of a YAML file, which JSON is as well."""
    return st.one_of([_changed(_Document(document, RAW_YAML, keys)) for document in documents])


def changed_lines(*texts: str) -> Inputs:
    """A text with lines that are missing, stand elsewhere, are indented or hold another value, or changed bytes."""
    return st.one_of([_moved(text.splitlines(keepends=True)) for text in texts])


def changed_bytes(*contents: bytes) -> Inputs:
    """A file with changed bytes."""
    return st.one_of([_with_blots(content) for content in contents])


class _Document:
    """A document, the places in it, and what may be put there."""

    def __init__(self, document: Any, raw: Sequence[str], keys: Sequence[str]) -> None:
        self.document, self.raw = document, raw
        alike: dict[Place, list[Place]] = {}
        for place in _places(document):
            alike.setdefault(tuple("*" if isinstance(part, int) else part for part in place), []).append(place)
        # So that the fields of a long list are not all that is ever changed.
        self.places = list(alike.values())
        self.keys = sorted({*keys, *(part for place in alike for part in place if isinstance(part, str)), "", "\x00"})


def _places(value: Any, place: Place = ()) -> Iterator[Place]:
    yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _places(part, (*place, key))


_FEW = st.sampled_from([1, 1, 1, 1, 2, 2, 3, 0])


class _Dice:
    """Choices by one drawn number, which is much faster than drawing each."""

    def __init__(self, draw: DrawFn) -> None:
        self.left = int.from_bytes(draw(st.binary(min_size=12, max_size=12)), "little")

    def below(self, count: int) -> int:
        self.left, rest = divmod(self.left, count)
        return rest

    def one_of(self, choices: Sequence[Any]) -> Any:
        return choices[self.below(len(choices))]


class _Change:
    """One change of a document; `written` makes a stand-in for a text that only the finished file can hold."""

    def __init__(self, draw: DrawFn, given: _Document, written: Callable[[str], str]) -> None:
        self.draw, self.given, self.written, self.dice = draw, given, written, _Dice(draw)
        self.place: Place = self.some_place()

    def some_place(self) -> Place:
        place: Place = self.dice.one_of(self.dice.one_of(self.given.places))
        return place

    def raw(self) -> str:
        match self.dice.below(12):
            case 0:
                return json.dumps(self.draw(st.text(max_size=20)), ensure_ascii=False)
            case 1:
                return repr(self.draw(st.floats()))
            case 2:
                return str(self.draw(st.integers()))
        raw: str = self.dice.one_of(self.given.raw)
        return raw

    def of(self, document: Any) -> Any:
        """The changed document."""
        changes = [self.replaced, self.replaced, self.tweaked, self.tweaked, self.dropped, self.renamed]
        changes += [self.said_twice, self.copied, self.repeated, self.with_more]
        return self.dice.one_of(changes)(document) if _has(document, self.place) else document

    def replaced(self, document: Any) -> Any:
        return _put(document, self.place, lambda _: self.written(self.raw()))

    def tweaked(self, document: Any) -> Any:
        """Another value of the same type."""
        return _put(document, self.place, self.other)

    def other(self, value: Any) -> Any:
        match value:
            case bool():
                return not value
            case int():
                return self.dice.one_of([0, 1, value + 1, value - 1, 2 * value, 10**6, 10**18, -value])
            case float():
                return self.dice.one_of([0.0, 1.0, 0.5, value / 2, value + 1e-9, 1e18, 1e308, -value])
            case str():
                return self.dice.one_of([value[:-1], value + " ", value.upper(), value[::-1], "é\u2028<b>", "a" * 300])
            case list():
                return self.dice.one_of([value[::-1], value[1:], value[: len(value) // 2], value[1:] + value[:1]])
            case dict():
                return dict(reversed(value.items()))
        return value

    def dropped(self, document: Any) -> Any:
        return _put(document, self.place[:-1], lambda part: _without(part, self.place[-1])) if self.place else []

    def renamed(self, document: Any) -> Any:
        if not self.place or isinstance(self.place[-1], int):
            return document
        name = self.dice.one_of(self.given.keys)
        return _put(
            document,
            self.place[:-1],
            lambda part: {name if key == self.place[-1] else key: value for key, value in part.items()},
        )

    def said_twice(self, document: Any) -> Any:
        """The same key a second time, with another value."""
        if not self.place or isinstance(self.place[-1], int):
            return document
        again = f"{json.dumps(self.place[-1])}: {self.raw()}"
        return _put(
            document, self.place, lambda value: self.written(f"{json.dumps(value, ensure_ascii=False)}, {again}")
        )

    def copied(self, document: Any) -> Any:
        """What stands elsewhere."""
        other: Any = self.given.document
        for part in self.some_place():
            other = other[part]
        return _put(document, self.place, lambda _: other)

    def repeated(self, document: Any) -> Any:
        times = self.dice.one_of([0, 2, 2, 3, 20])
        return _put(document, self.place, lambda value: (value if isinstance(value, list) else [value]) * times)

    def with_more(self, document: Any) -> Any:
        """With a field more."""
        name, raw = self.dice.one_of(self.given.keys), self.written(self.raw())
        return _put(document, self.place, lambda value: {**value, name: raw} if isinstance(value, dict) else raw)


@st.composite
def _changed(draw: DrawFn, given: _Document) -> bytes:
    document, raws = given.document, []

    def written(text: str) -> str:
        raws.append(text)
        return f"\ue000{len(raws) - 1}\ue000"

    for _ in range(draw(_FEW)):
        document = _Change(draw, given, written).of(document)
    text = json.dumps(document, ensure_ascii=False)
    for number in reversed(range(len(raws))):  # an earlier one may stand in a later one
        text = text.replace(f'"\ue000{number}\ue000"', raws[number])
    return _blotted(draw, text.encode(errors="surrogatepass"))


def _has(document: Any, place: Place) -> bool:
    for part in place:
        if isinstance(document, dict):
            if part not in document:
                return False
        elif not (isinstance(document, list) and isinstance(part, int) and part < len(document)):
            return False
        document = document[part]
    return True


def _put(document: Any, place: Place, change: Callable[[Any], Any]) -> Any:
    """A copy in which the value at a place is changed."""
    if not place:
        return change(document)
    copied = document.copy()
    copied[place[0]] = _put(document[place[0]], place[1:], change)
    return copied


def _without(part: Any, key: str | int) -> Any:
    copied = part.copy()
    del copied[key]
    return copied


@st.composite
def _moved(draw: DrawFn, original: list[str]) -> bytes:
    lines = original.copy()
    for _ in range(draw(_FEW)):
        dice = _Dice(draw)
        number, other = dice.below(len(lines)), dice.below(len(lines))
        line = lines[number]
        key, colon, _ = line.partition(": ")
        match dice.below(8):
            case 0:
                lines[number] = ""
            case 1:
                lines[number] = line + lines[other]
            case 2:
                lines[number], lines[other] = lines[other], line
            case 3:
                lines[number] = dice.one_of([" ", "  ", "\t", "- ", "? ", "# "]) + line
            case 4:
                lines[number] = line.lstrip()
            case _ if colon:
                lines[number] = f"{key}: {dice.one_of(RAW_YAML)}\n"
    return _blotted(draw, "".join(lines).encode(errors="surrogatepass"))


@st.composite
def _with_blots(draw: DrawFn, content: bytes) -> bytes:
    return _blotted(draw, content, draw(st.integers(1, 3)))


def _blotted(draw: DrawFn, content: bytes, times: int | None = None) -> bytes:
    """Mostly as it is; else cut off, written in another encoding, or with bytes put in, left out or changed."""
    content = content[:LONGEST]
    if times is None:
        times = max(0, draw(st.integers(0, 8)) - 5)
    for _ in range(times):
        dice = _Dice(draw)
        start = dice.below(len(content) + 1)
        stop = start + dice.below(9)
        match dice.below(7):
            case 0:
                content = content[:start]
            case 1:
                content = content[:start] + content[stop:]
            case 2:
                content = content[:start] + dice.one_of(BLOTS) + content[start:]
            case 3:
                content = content[:start] + bytes([dice.below(256)]) + content[stop:]
            case 4:
                content = content.replace(b"\n", dice.one_of([b"\r\n", b"\r", b"\n\n", b""]))
            case 5:
                content += content[start:]
            case _:
                content = content.decode(errors="replace").encode(dice.one_of(CODECS), errors="replace")
    return content
