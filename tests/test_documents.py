"""YAML documents: what fuzzing found to bring a reader down, or to keep it busy for ever."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from tokenbuncher.documents import DEEPEST, LARGEST, LONGEST, MOST_TOLD, parse_yaml, read_text
from tokenbuncher.errors import UserError
from tokenbuncher.settings import parse_spec


def bomb(grain: str, layer: str) -> str:
    layers = (f"&{name} {layer % ', '.join([f'*{former}'] * 9)}" for former, name in pairwise("abcdefghi"))
    return f"a: [&a {grain}, {', '.join(layers)}]"


@pytest.mark.parametrize(
    ("text", "telling"),
    {
        "a date that is none": ("a: 2026-02-30", "ValueError: day is out of range"),
        "a tag that promises a number": ("a: !!int abc", "ValueError"),
        "a tag that promises a number of nothing": ("a: !!int ''", "IndexError"),
        "a tag that promises a truth": ("a: !!bool maybe", "KeyError"),
        "a tag that promises a time": ("a: !!timestamp abc", "AttributeError"),
        "a tag that promises a mapping": ("a: !!map [b]", "TypeError"),
        "a tag of Python's": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        "digits that are missing": ("a: 0x_", "ValueError"),
        "a long number": (f"a: {'9' * 5000}", "a number of more than 64 bits"),
        "a long number in hex": (f"a: 0x{'f' * 5000}", "a number of more than 64 bits"),
        "a long number in sixties": (f"a: 1{':59' * 50_000}", "a number of more than 64 bits"),
        "a long fraction in sixties": (f"a: 1{':59' * 500}.0", "OverflowError"),
        "NUL": (r'a: "b\0"', "a broken character"),
        "half a character": (r'a: "\ud800"', "a broken character"),
        "half a character in a key": (r'"\ud800": 1', "a broken character"),
        "many levels": ("[" * 100_000, f"more than {DEEPEST} levels"),
        "itself": ("a: &a [*a]", f"{DEEPEST} levels, aliases written out"),
        "itself, merged": ("a: &a {b: 1, <<: *a}", f"{DEEPEST} levels, aliases written out"),
        "aliases of aliases": (bomb("[x, x]", "[%s]"), f"more than {LARGEST} values"),
        "merges of merges": (bomb("{k: 1}", "{<<: [%s]}"), f"more than {LARGEST} values"),
        "far too long": ("a: " + "b" * LONGEST, "is too large"),
    }.values(),
)
def test_what_yaml_cannot_hold_is_refused_at_once(text: str, telling: str) -> None:
    began = time.process_time()
    with pytest.raises(UserError, match=f"^mine .*(?s:.*){telling}"):
        parse_yaml(text, "mine")
    assert time.process_time() - began < 1


@pytest.mark.parametrize("value", ["!!int abc", bomb("[x, x]", "[%s]").removeprefix("a: "), r'"\0"', "{a: 1, a: 2}"])
def test_the_same_holds_of_an_override(value: str) -> None:
    with pytest.raises(UserError, match="the value is not YAML"):
        parse_spec("", [f"name={value}"])


def test_an_alias_stands_for_what_it_names() -> None:
    assert parse_yaml("a: &a {b: 1}\nc: [*a, *a]", "mine") == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}


def test_no_more_wrong_fields_are_told_than_can_be_read() -> None:
    with pytest.raises(UserError) as error:
        parse_spec("\n".join(f"field{number}: 1" for number in range(MOST_TOLD + 5)))
    first, *told, last = str(error.value).splitlines()
    assert (first, len(told), last) == ("spec is not a valid release spec:", MOST_TOLD, "  and 5 more")


def test_a_path_that_cannot_be_one() -> None:
    with pytest.raises(UserError, match="cannot read policy a\x00b: embedded null byte"):
        read_text("policy", "a\0b")


def test_a_message_can_be_written_wherever_it_goes(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_text("policy", tmp_path / b"\xff".decode(errors="surrogateescape"))
    assert str(error.value).encode().decode() == str(error.value)
    assert r"\udcff" in str(error.value)
