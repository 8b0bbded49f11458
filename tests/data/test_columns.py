"""Files of prompts by column mapping: what is read from them, and that each malformed one is refused with its row."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import file_digest
from tokenbuncher.inputs.columns import read_file
from tokenbuncher.judges.capability import chosen
from tokenbuncher.settings import FileSource
from tokenbuncher.settings.prompts import Prompt

ROWS = [{"prompt": "first one", "kind": "a"}, {"prompt": "the second one", "kind": "B"}, {"prompt": "3rd", "kind": "c"}]


def write(folder: Path, content: Any, ending: str = ".jsonl") -> Path:
    """A file with text, bytes or rows."""
    path = folder / f"prompts{ending}"
    if isinstance(content, str | bytes):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    elif ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    elif ending == ".csv":
        lines = [",".join(row.values()) for row in content]
        path.write_text("\n".join([",".join(content[0]), *lines]) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


def read(path: Path, **fields: Any) -> list[Prompt]:
    return list(read_file(FileSource(path=str(path), **fields)).prompts.values())


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path, ROWS, ending)
    found = read_file(FileSource(path=str(path), category="kind"))
    assert found.prompts == {n: Prompt(text=row["prompt"], task=row["kind"]) for n, row in enumerate(ROWS, start=1)}
    assert (found.rows, found.sha256) == (3, file_digest(path))


def test_a_csv_with_byte_order_mark_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeffprompt,kind\r\n"one, with ""quotes""\nand a break",a\r\n\r\ntwo,b\r\n', ".csv")
    assert [prompt.text for prompt in read(path)] == ['one, with "quotes"\nand a break', "two"]


def test_jsonl_may_have_unicode_line_separators_in_texts(tmp_path: Path) -> None:
    path = write(tmp_path, '{"prompt": "one\u2028two\u0085"}\n')
    assert [prompt.text for prompt in read(path)] == ["one\u2028two"]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({"kind": "a"}, [1]),
        ({"kind": "b"}, [2]),
        ({"kind": ["a", "c"]}, [1, 3]),
        ({"kind": ["a", "b"], "prompt": "first one"}, [1]),
    ],
)
def test_where_keeps_rows(tmp_path: Path, where: dict[str, Any], rows: list[int]) -> None:
    assert list(read_file(FileSource(path=str(write(tmp_path, ROWS)), where=where)).prompts) == rows


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_where_knows_booleans_in_every_format(tmp_path: Path, ending: str) -> None:
    safe: list[Any] = ["True", "False"] if ending == ".csv" else [True, False]
    path = write(tmp_path, [{"prompt": f"prompt {n}", "is_safe": one} for n, one in enumerate(safe)], ending)
    assert [prompt.text for prompt in read(path, where={"is_safe": False})] == ["prompt 1"]


def test_max_words_leaves_long_prompts_out(tmp_path: Path) -> None:
    assert [prompt.text for prompt in read(write(tmp_path, ROWS), max_words=2)] == ["first one", "3rd"]


def test_context_goes_before_the_prompt(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "Do it", "story": "Once upon a time."}])
    assert read(path, context="story")[0].text == "Once upon a time.\n\n---\n\nDo it"


@pytest.mark.parametrize(("answer", "letter"), [(0, "A"), (3, "D"), ("2", "C"), ("B", "B")])
@pytest.mark.parametrize("as_text", [False, True])
def test_choices_are_lettered_and_the_answer_is_a_letter(
    tmp_path: Path, answer: int | str, letter: str, as_text: bool
) -> None:
    options: Any = ["red", "green", "blue", "grey"]
    path = write(
        tmp_path,
        [{"question": "Which?", "choices": json.dumps(options) if as_text else options, "answer": answer}],
        ".parquet",
    )
    [prompt] = read(path, prompt="question", choices="choices", answer="answer")
    assert prompt.text.startswith("Which?\n\nA. red\nB. green\nC. blue\nD. grey\n\n")
    assert prompt.answer == letter
    assert chosen(prompt.text, rf"It is \boxed{{{letter}}}.") == letter
    assert chosen(prompt.text, r"\boxed{E}") is None


@pytest.mark.parametrize(
    ("answer", "final"),
    [
        ("so\n#### 42", "42"),
        ("#### 1,450,000", "1450000"),
        ("#### -3", "-3"),
        ("#### 1,234.50", "1234.50"),
        ("#### 1 #### 2", "2"),
        ("#### 1,2", "1,2"),
    ],
)
def test_the_final_answer_comes_after_its_mark(tmp_path: Path, answer: str, final: str) -> None:
    path = write(tmp_path, [{"prompt": "How many?", "answer": answer}])
    assert read(path, answer="answer", answer_after="####")[0].answer == final


def test_a_mapping_gives_the_categories_that_hold(tmp_path: Path) -> None:
    row = {"prompt": "x", "category": {"violence": True, "drugs,weapons": True, "animals": False}}
    for ending in (".jsonl", ".parquet"):
        assert read(write(tmp_path, [row], ending), category="category")[0].task == "drugs,weapons; violence"


def test_the_sha256_pins_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    digest = file_digest(path)
    assert len(read(path, sha256=digest)) == 3
    path.write_text(path.read_text(encoding="utf-8").replace("first", "worst"), encoding="utf-8")
    with pytest.raises(UserError, match=f"is not the file that is expected: its sha256 is {file_digest(path)}"):
        read(path, sha256=digest)


def rows_with(**broken: Any) -> list[dict[str, Any]]:
    """Three questions, of which the second differs."""
    row = {"prompt": "Which?", "options": ["x", "y"], "answer": 1, "kind": "a", "text": "#### 4"}
    return [row, row | broken, row]


def far_date() -> bytes:
    table = pa.table({"prompt": pa.array([4_000_000], pa.date32())})
    pq.write_table(table, content := BytesIO())
    return content.getvalue()


CHOICES = {"choices": "options", "answer": "answer"}
CSV = "prompt,kind\nfirst,a\nsecond,b\nthird,c\n"
MALFORMED: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "no rows in CSV": (".csv", "prompt,kind\n", {}, "has no rows"),
    "no rows in JSONL": (".jsonl", "", {}, "has no rows"),
    "no rows in Parquet": (".parquet", rows_with()[:0], {}, "has no rows"),
    "CSV with too many fields": (".csv", CSV.replace("d,b", "d,b,c"), {}, "row 2: has 3 fields, the header 2"),
    "CSV with too few fields": (".csv", CSV.replace("d,b", "d"), {}, "row 2: has 1 fields, the header 2"),
    "CSV with an open quote": (".csv", CSV.replace("third", '"third'), {}, "row 3: not CSV: unexpected end of data"),
    "CSV with a stray quote": (".csv", CSV.replace("second", '"sec"ond'), {}, "row 2: not CSV"),
    "CSV with a column twice": (".csv", CSV.replace("kind", "prompt"), {}, "column 'prompt' stands 2 times"),
    "CSV with a huge field": (".csv", CSV.replace("second", "x" * 200_000), {}, "row 2: not CSV: field larger than"),
    "CSV of another encoding": (".csv", CSV.replace("second", "é").encode("latin-1"), {}, "line 3 is not UTF-8"),
    "CSV of UTF-16": (".csv", CSV.encode("utf-16"), {}, "is UTF-16; save it as UTF-8"),
    "CSV with a NUL": (".csv", CSV.replace("second", "sec\0ond"), {}, "row 2: column 'prompt' has a broken character"),
    "no such column": (".csv", CSV, {"prompt": "text"}, "row 1: no column 'text'; it has prompt, kind"),
    "empty prompt": (".csv", CSV.replace("second", " "), {}, "row 2: column 'prompt' is empty or not text"),
    "JSONL of another encoding": (".jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n', {}, "line 2 is not UTF-8"),
    "broken JSON": (".jsonl", '{"prompt": "a"}\n{"prompt": \n', {}, "row 2: not JSON"),
    "nested without end": (".jsonl", "[" * 100_000, {}, "row 1: not JSON"),
    "a list, no object": (".jsonl", '{"prompt": "a"}\n["b"]\n', {}, "row 2: must be an object, not list"),
    "a row without the column": (".jsonl", '{"prompt": "a"}\n{"text": "b"}\n', {}, "row 2: no column 'prompt'"),
    "a number for a prompt": (".jsonl", rows_with(prompt=7), {}, "row 2: column 'prompt' is empty or not text"),
    "null for a prompt": (".parquet", rows_with(prompt=None), {}, "row 2: column 'prompt' is empty or not text"),
    "half a character": (".jsonl", rows_with(prompt="a\ud800"), {}, "row 2: column 'prompt' has a broken character"),
    "no Parquet": (".parquet", "prompt\nfirst\n", {}, "is not a Parquet file, or damaged"),
    "empty Parquet": (".parquet", b"", {}, "is not a Parquet file, or damaged"),
    "a date of no calendar": (".parquet", far_date(), {}, "is not a Parquet file, or damaged: date value out of range"),
    "null for a category": (".jsonl", rows_with(kind=None), {"category": "kind"}, "row 2: column 'kind' is empty"),
    "a category of none": (
        ".jsonl",
        rows_with(kind={"a": False}),
        {"category": "kind"},
        "row 2: column 'kind' is empty",
    ),
    "empty context": (".jsonl", rows_with(kind=""), {"context": "kind"}, "row 2: column 'kind' is empty"),
    "unknown where column": (".jsonl", rows_with(), {"where": {"split": "x"}}, "row 1: no column 'split'"),
    "nothing left by where": (".jsonl", rows_with(), {"where": {"kind": "z"}}, "none of its 3 rows meets where"),
    "nothing left by max_words": (".jsonl", ROWS[:2], {"max_words": 1}, "none of its 2 rows meets where and max_words"),
    "index beyond the options": (".jsonl", rows_with(answer=2), CHOICES, "row 2: column 'answer' is '2', no option"),
    "negative index": (".jsonl", rows_with(answer=-1), CHOICES, "row 2: column 'answer' is '-1', no option"),
    "letter beyond the options": (".jsonl", rows_with(answer="C"), CHOICES, "write a letter of A to B"),
    "boolean answer": (".jsonl", rows_with(answer=True), CHOICES, "row 2: column 'answer' is 'True', no option"),
    "no answer": (".jsonl", rows_with(answer=None), CHOICES, "row 2: column 'answer' is 'None', no option"),
    "options that are no list": (".jsonl", rows_with(options={"A": "x"}), CHOICES, "row 2: column 'options' must be a"),
    "options as Python prints them": (".jsonl", rows_with(options="['x' 'y']"), CHOICES, "row 2: .* not a JSON list"),
    "one option": (".jsonl", rows_with(options=["x"]), CHOICES, "row 2: .* must be a list of 2 to 26 options"),
    "too many options": (
        ".jsonl",
        rows_with(options=["x"] * 27),
        CHOICES,
        "row 2: .* must be a list of 2 to 26 options",
    ),
    "empty option": (".jsonl", rows_with(options=["x", ""]), CHOICES, "row 2: option B in column 'options' is empty"),
    "no mark": (".jsonl", rows_with(text="4"), {"answer": "text", "answer_after": "####"}, "row 2: .* has no '####'"),
    "nothing after the mark": (
        ".jsonl",
        rows_with(text="4 ####"),
        {"answer": "text", "answer_after": "####"},
        "row 2: column 'text' after '####' is empty",
    ),
    "another format": (".txt", "first\n", {}, r"prompts are read from \.csv, \.jsonl, \.parquet files"),
    "another sha256": (".csv", CSV, {"sha256": "0" * 64}, "is not the file that is expected"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused(tmp_path: Path, case: str) -> None:
    ending, content, fields, telling = MALFORMED[case]
    path = write(tmp_path, content, ending)
    with pytest.raises(UserError, match=telling) as error:
        read(path, **fields)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_parquet_is_refused(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path, [{"prompt": f"prompt number {n}"} for n in range(1000)], ".parquet")
    content = path.read_bytes()
    path.write_bytes(content[:-100] if damage == "cut" else content[:4] + b"\xff" * 2000 + content[2004:])
    with pytest.raises(UserError, match="is not a Parquet file, or damaged"):
        read(path)


def test_a_column_twice_in_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table([["a"], ["b"]], names=["prompt", "prompt"]), path)
    with pytest.raises(UserError, match="column 'prompt' stands 2 times"):
        read(path)


@pytest.mark.parametrize(("name", "telling"), [("none.csv", "No such file or directory"), ("", "Is a directory")])
def test_no_file(tmp_path: Path, name: str, telling: str) -> None:
    with pytest.raises(UserError, match=f"cannot be read: {telling}; give its path"):
        read(tmp_path / name)
