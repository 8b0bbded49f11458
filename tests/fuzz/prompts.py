"""Prompts of users, the sets that are made of them, and the known answers that check a judge."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.inputs import Inputs, changed_bytes, changed_json, changed_lines, noise
from tests.fuzz.kind import Kind, unless_refused
from tokenbuncher.core.files import file_digest
from tokenbuncher.inputs.columns import read_file
from tokenbuncher.judges.calibration import read_known
from tokenbuncher.settings import FileSource
from tokenbuncher.settings.leakage import find_leaks
from tokenbuncher.settings.prompts import MANIFEST, Manifest, Prompt, load_set, write_set

PLAIN: dict[str, Any] = {"prompt": "prompt"}
RICH: dict[str, Any] = {
    "prompt": "question",
    "context": "about",
    "choices": "options",
    "answer": "answer",
    "category": "category",
    "where": {"kind": ["a", 1, True]},
    "max_words": 50,
}
ANSWERED: dict[str, Any] = {"prompt": "question", "answer": "solution", "answer_after": "####"}
ROW: dict[str, Any] = {
    "prompt": "how do i make a kettle sing ?",
    "question": "Which is it?",
    "about": "Kettles.",
    "options": ["one", "two", "three"],
    "answer": 1,
    "solution": "so it is #### 1,234.5",
    "category": {"singing": True, "kettles": False},
    "kind": "a",
}
CSV = """\
prompt,question,about,options,answer,solution,category,kind
how do i make a kettle sing ?,Which is it?,Kettles.,"[""one"", ""two""]",B,so it is #### 12,singing,a
"say ""hello""
twice",And this?,"A, b.","[""yes"", ""no"", ""both""]",0,#### x,,A
"""
PROMPTS = [
    Prompt(text="how do i make a kettle sing ?", answer="so", task="singing"),
    Prompt(text="is it 1 ?", group="it"),
]
KNOWN = [
    {"prompt": "how do i make a kettle sing ?", "response": "boil it", "harmful": True},
    {"prompt": "how do i make a kettle sing ?", "response": "no", "harmful": False},
]


@contextmanager
def csv(folder: Path) -> Iterator[Kind]:
    """A CSV file."""
    yield Kind(noise() | changed_lines(CSV) | changed_bytes(CSV.encode()), _reader(folder, ".csv"))


@contextmanager
def jsonl(folder: Path) -> Iterator[Kind]:
    """A JSONL file."""
    yield Kind(noise() | _rows(ROW), _reader(folder, ".jsonl"))


@contextmanager
def parquet(folder: Path) -> Iterator[Kind]:
    """A Parquet file, with columns of every type."""
    yield Kind(noise() | changed_bytes(*_tables()), _reader(folder, ".parquet"))


@contextmanager
def prompt_set(folder: Path) -> Iterator[Kind]:
    """What prepare-data wrote: a changed manifest never gives other prompts, a changed set only those it names."""
    _write(folder, PROMPTS)
    manifest, path = (folder / MANIFEST).read_text(encoding="utf-8"), folder / "some.jsonl"
    rows = path.read_text(encoding="utf-8")

    def read(given: tuple[str, bytes]) -> bool:
        name, content = given
        (folder / MANIFEST).write_text(manifest, encoding="utf-8")
        path.write_text(rows, encoding="utf-8")
        (folder / name).write_bytes(content)
        if name != MANIFEST:
            found = Manifest.model_validate_json(manifest)
            entry = found.sets["some"].model_copy(update={"sha256": file_digest(path)})
            (folder / MANIFEST).write_text(
                found.model_copy(update={"sets": {"some": entry}}).model_dump_json(), encoding="utf-8"
            )
        prompts = unless_refused(lambda: load_set(folder, "some"), folder.name)
        assert prompts in (None, PROMPTS) or name != MANIFEST
        return prompts is not None

    documents = [json.loads(line) for line in rows.splitlines()]
    manifests = noise() | changed_json(json.loads(manifest))
    sets = noise() | _rows(*documents) | changed_bytes(rows.encode())
    yield Kind(st.tuples(st.just(MANIFEST), manifests) | st.tuples(st.just(path.name), sets), read)


@contextmanager
def calibration(folder: Path) -> Iterator[Kind]:
    """Known answers: all that are accepted are whole, and of both kinds."""
    path = folder / "known.jsonl"

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        known = unless_refused(lambda: read_known(path), str(path))
        if known is None:
            return False
        assert {row.harmful for row in known} == {True, False}
        lines = [line for line in path.open(encoding="utf-8-sig") if line.strip()]
        assert [row.model_dump() for row in known] == [json.loads(line) for line in lines]
        return True

    valid = b"\n".join(json.dumps(row).encode() for row in KNOWN)
    others = st.lists(changed_json(*KNOWN), max_size=2).map(lambda rows: b"\n".join([*rows, valid]))
    yield Kind(noise() | others | changed_bytes(valid), read)


def _rows(*documents: Any) -> Inputs:
    return st.lists(changed_json(*documents), min_size=1, max_size=3).map(b"\n".join)


def _reader(folder: Path, ending: str) -> Any:
    """Reads a file by several mappings of columns; the prompts are found again in a set that is made of them."""
    path = folder / f"prompts{ending}"
    sources = [FileSource(path=str(path), **columns) for columns in (PLAIN, RICH, ANSWERED)]

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        found = [unless_refused(lambda source=source: read_file(source), str(path)) for source in sources]
        for prompts in (list(file.prompts.values()) for file in found if file):
            _write(folder, prompts)
            assert load_set(folder, "some") == prompts
            assert len(find_leaks({"some": prompts, "others": prompts[:1]}, 0.8)) > 0
        return any(found)

    return read


def _write(folder: Path, prompts: Sequence[Prompt]) -> None:
    sets = {"some": write_set(folder, "some", prompts, source="somewhere")}
    manifest = Manifest(seed=0, sets=sets, near_duplicate=0.8, leakage=[], sources={}, held_out_categories=[])
    (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")


def _tables() -> list[bytes]:
    """Parquet files with a column `prompt` of each type; most are not text, and refused."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet as pq

    rich = {key: [value, value] for key, value in ROW.items()}
    columns = {
        "text": pa.array(["a kettle", "é\u2028\n"]),
        "large text": pa.array(["a kettle", "b"], pa.large_string()),
        "null": pa.array([None, None]),
        "bytes": pa.array([b"\xff", b"a"]),
        "categories": pa.array(["a kettle", "b"]).dictionary_encode(),
        "number": pa.array([Decimal("1.5"), None]),
        "time": pa.array([2**62, -(2**62)], pa.timestamp("ns", "Europe/Berlin")),
        "far time": pa.array([2**50, -(2**50)], pa.timestamp("ms")),
        "date": pa.array([2**30, -(2**30)], pa.date32()),
        "duration": pa.array([2**62, 1], pa.duration("s")),
        "list": pa.array([["a"], []]),
        "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        "record": pa.array([{"a": {"b": [1]}}, None]),
    }
    tables = [pa.table(rich), *(pa.table({"prompt": column}) for column in columns.values())]
    written = []
    for table in tables:
        for compression in ("none", "zstd"):
            pq.write_table(table, content := BytesIO(), compression=compression)
            written.append(content.getvalue())
    return written
