"""YAML documents: what fuzzing found to bring a reader down, or to keep it busy for ever."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tokenbuncher.core.documents import DEEPEST, LARGEST, LONGEST, parse_yaml, read_text, refuse_repeated_keys, to_yaml
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.problems import MOST_TOLD
from tokenbuncher.settings import parse_spec


def bomb(grain: str, layer: str) -> str:
    layers = (f"&{name} {layer % ', '.join([f'*{former}'] * 9)}" for former, name in pairwise("abcdefghi"))
    return f"a: [&a {grain}, {', '.join(layers)}]"


@pytest.mark.parametrize(
    ("text", "telling"),
    {
        "a date that is none": ("a: !!timestamp 2026-02-30", "ValueError: day is out of range"),
        "a tag that promises a number": ("a: !!int abc", "'abc' is no plain number"),
        "a tag that promises a number of nothing": ("a: !!int ''", "'' is no plain number"),
        "a tag that promises a number, of a mapping": ("a: !!float {b: 1}", "is no plain number"),
        "a tag that promises a truth": ("a: !!bool maybe", "'maybe' is no plain number"),
        "a tag that promises a time": ("a: !!timestamp abc", "AttributeError"),
        "a tag that promises a mapping": ("a: !!map [b]", "TypeError"),
        "a tag of Python's": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        "digits that are missing": ("a: 0x_", "'0x_' is no plain number"),
        "a long number": (f"a: {'9' * 5000}", "a number of more than 64 bits"),
        "a long number in hex": (f"a: 0x{'f' * 5000}", "is no plain number"),
        "a long number in sixties": (f"a: 1{':59' * 50_000}", "is no plain number"),
        "a long fraction in sixties": (f"a: 1{':59' * 500}.0", "is no plain number"),
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


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]', '{"a": 1, "\\u0061": 2}', b'{"a":1,"a":2}']
)
def test_a_key_that_stands_twice_in_json_is_found(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="key 'a' stands twice"):
        refuse_repeated_keys(text)


def test_the_same_key_in_several_objects_is_none() -> None:
    refuse_repeated_keys('[{"a": {"a": 1}}, {"a": 2}]')


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


NO_PLAIN_NUMBER = [
    *("010", "-017", "0_1", "1_000", "1_0.5", "01.5", "0x1F", "0b11", "1:30", "-1:30", "1:30.5", "190:20:30"),
    *(".inf", "-.Inf", ".NaN", "1__0", "0x_"),
]


@pytest.mark.parametrize("text", NO_PLAIN_NUMBER)
def test_what_yaml_readers_take_for_different_numbers_is_refused(text: str) -> None:
    for document in (f"a: {text}", f"a: [{text}]", f"a: {{b: {text}}}", f"a: !!int {text}", f"a: !!float {text}"):
        with pytest.raises(UserError, match=r"is no plain number: .* write numbers in decimal digits"):
            parse_yaml(document, "mine")


def test_a_number_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(UserError, match="a number that is too large"):
        parse_yaml("a: 1e999", "mine")


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "off", "y", "N", "Yes", "NO", "2026-02-30", "2026-01-01", "0o17", "="]
)
def test_words_and_dates_are_texts(text: str) -> None:
    assert parse_yaml(f"a: {text}", "mine") == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e1", 10.0), ("2e-4", 2e-4), ("+3", 3), ("-0", 0), (".5", 0.5), ("1.", 1.0), ("True", True), ("~", None)],
)
def test_plain_values_are_what_they_look_like(text: str, value: object) -> None:
    found = parse_yaml(f"a: {text}", "mine")["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("tag", ["!!bool yes", "!!bool 1", "!!bool on"])
def test_a_tag_makes_no_truth_of_a_word(tag: str) -> None:
    with pytest.raises(UserError, match="truth as true or false"):
        parse_yaml(f"a: {tag}", "mine")


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([*NO_PLAIN_NUMBER, "yes", "no", "1e1", "0o17", "true", "null", "", "~", "<<", "=", "2026-01-01"]),
    st.from_regex(r"[-+0-9._:eExob]{1,8}", fullmatch=True),
    st.text(st.characters(min_codepoint=32, max_codepoint=0xD7FF), max_size=20),
)


@given(st.dictionaries(st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=4), VALUES))
@example({"no": "no", "y": "1e1"})
def test_what_is_written_is_read_as_it_was_by_us_and_by_others(document: dict[str, object]) -> None:
    text = to_yaml(document)
    for found in (parse_yaml(text, "mine"), yaml.safe_load(text)):
        assert found == document
        assert [type(value) for value in found.values()] == [type(value) for value in document.values()]


@given(st.from_regex(r"[-+0-9._:eExoab]{1,6}", fullmatch=True))
def test_a_number_is_the_one_that_python_reads_or_none(text: str) -> None:
    try:
        value = parse_yaml(f"a: {text}", "mine")["a"]
    except UserError:
        return
    if isinstance(value, int | float):
        assert value == float(text)
