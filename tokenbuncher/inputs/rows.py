"""Reads rows of a CSV, JSONL or Parquet file. Errors number the rows from 1."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenbuncher.core.documents import decoded
from tokenbuncher.core.errors import UserError

Row = dict[str, Any]


def read_rows(path: Path, name: str) -> list[Row]:
    """The rows of a file, by column.

    Args:
        path: The file. Its ending gives the format.
        name: Name of the file in error messages.

    Raises:
        UserError: If it is of another format, damaged, has a malformed row, or none.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    ending = path.suffix.lower()
    if ending not in readers:
        raise UserError(f"{name}: prompts are read from {', '.join(readers)} files")
    rows = list(readers[ending](path, f"dataset {name}"))
    if not rows:
        raise UserError(f"dataset {name} has no rows")
    return rows


def _csv_rows(path: Path, where: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(_text(path, where), newline=""), strict=True)
    rows = _numbered_csv(reader, where)
    _, header = next(rows, (0, []))
    _refuse_repeated(header, where)
    for number, fields in rows:
        if len(fields) != len(header):
            raise UserError(f"{where} row {number}: has {len(fields)} fields, the header {len(header)}")
        yield dict(zip(header, fields, strict=True))


def _numbered_csv(reader: Iterator[list[str]], where: str) -> Iterator[tuple[int, list[str]]]:
    """The header as row 0, then the rows, without empty lines."""
    number = 0
    try:
        for fields in reader:
            if fields:
                yield number, fields
                number += 1
    except csv.Error as error:
        raise UserError(f"{where} row {number}: not CSV: {error}") from error


def _jsonl_rows(path: Path, where: str) -> Iterator[Row]:
    lines = (line for line in io.StringIO(_text(path, where)) if line.strip())
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} row {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{where} row {number}: must be an object, not {type(row).__name__}")
        yield row


def _parquet_rows(path: Path, where: str) -> Iterator[Row]:
    from pyarrow import ArrowException  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    try:
        with ParquetFile(path) as file:
            _refuse_repeated(file.schema_arrow.names, where)
            for batch in file.iter_batches():
                yield from _as_written(batch).to_pylist()
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{where} is not a Parquet file, or damaged: {error}") from error


def _as_written(batch: Any) -> Any:
    """The batch with its floats of 32 bits as they are printed: 0.1, not 0.10000000149."""
    from pyarrow import float32, float64, string

    for place, field in enumerate(batch.schema):
        if field.type == float32():
            printed = batch.column(place).cast(string()).cast(float64())
            batch = batch.set_column(place, field.with_type(float64()), printed)
    return batch


def _text(path: Path, where: str) -> str:
    try:
        return decoded(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _refuse_repeated(columns: Iterable[str], where: str) -> None:
    for column, count in Counter(columns).items():
        if count > 1:
            raise UserError(f"{where}: column '{column}' stands {count} times; rename or remove one")
