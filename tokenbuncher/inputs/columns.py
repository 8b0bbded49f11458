"""Reads prompts from the user's files, by column."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import inf, isfinite
from pathlib import PurePosixPath
from string import ascii_uppercase
from typing import Any, NamedTuple

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import file_digest
from tokenbuncher.inputs.rows import Row, read_rows
from tokenbuncher.settings import FileSource
from tokenbuncher.settings.prompts import Prompt
from tokenbuncher.storage import resolve_file

CATEGORY_SEPARATOR = "; "
CHOICE = "{question}\n\n{options}\n\nAnswer with the letter of the right option, as \\boxed{{A}}."
WITH_CONTEXT = "{context}\n\n---\n\n{prompt}"


class FilePrompts(NamedTuple):
    """The content of a file of prompts."""

    prompts: dict[int, Prompt]
    """By their row, from 1."""
    sha256: str
    """Of the file, in hex."""
    rows: int
    """How many it has."""


def read_file(source: FileSource) -> FilePrompts:
    """Reads the prompts of a file, which is downloaded if necessary.

    Raises:
        UserError: If the file or a column is missing, a row is malformed or empty, or none is left.
    """
    path = resolve_file(source.path, source.sha256)
    rows = read_rows(path, source.path)
    prompts = {}
    for number, row in enumerate(rows, start=1):
        prompt = _prompt(_Cells(source.path, number, row), source)
        if prompt and len(prompt.text.split()) <= (source.max_words or inf):
            prompts[number] = prompt
    if not prompts:
        raise UserError(f"dataset {source.path}: none of its {len(rows)} rows meets where and max_words")
    return FilePrompts(prompts, file_digest(path), len(rows))


class _Cells:
    """The cells of a row; errors name the row and the column."""

    def __init__(self, path: str, number: int, row: Row) -> None:
        self.path, self.number, self.row = path, number, row

    def error(self, what: str) -> UserError:
        return UserError(f"dataset {self.path} row {self.number}: {what}")

    def value(self, column: str) -> Any:
        if column not in self.row:
            raise self.error(f"no column '{column}'; it has {', '.join(map(str, self.row))}")
        return self.row[column]

    def text(self, column: str) -> str:
        return self.checked(self.value(column), f"column '{column}'")

    def word(self, column: str) -> str:
        """A text, or a number as people write it."""
        return self.spelled(self.value(column), f"column '{column}'")

    def spelled(self, value: Any, what: str) -> str:
        if isinstance(value, bool):
            raise self.error(f"{what} is {str(value).lower()}, no text or number; write the word, such as yes or true")
        if isinstance(value, float | Decimal) and not isfinite(value):
            raise self.error(f"{what} is empty: it is {value}")
        return self.checked(_spelled(value), what)

    def checked(self, text: Any, what: str) -> str:
        if not isinstance(text, str) or not text.strip():
            raise self.error(f"{what} is empty or not text")
        if re.search(r"[\x00\ud800-\udfff]", text):
            raise self.error(f"{what} has a broken character")
        return text.strip()


def _spelled(value: Any) -> Any:
    """A number as people write it, whatever its type: 42 for 42.0, 1000 for 1e3; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return value
    if isinstance(value, float | Decimal) and not isfinite(value):
        return value
    digits = format(Decimal(str(value)), "f")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def _prompt(cells: _Cells, source: FileSource) -> Prompt | None:
    """The prompt of a row; None if the row is not to be kept."""
    if not all(_holds(cells.value(column), wanted) for column, wanted in source.where.items()):
        return None
    text = cells.text(source.prompt)
    if source.context:
        text = WITH_CONTEXT.format(context=cells.text(source.context), prompt=text)
    options = _options(cells, source.choices) if source.choices else {}
    if options:
        lettered = "\n".join(f"{letter}. {option}" for letter, option in options.items())
        text = CHOICE.format(question=text, options=lettered)
    answer, category = _answer(cells, source, options), _category(cells, source)
    return Prompt(text=text, answer=answer, task=category, options=len(options) or None)


def _holds(cell: Any, wanted: Any) -> bool:
    values = wanted if isinstance(wanted, list) else [wanted]
    return _folded(cell) in {_folded(value) for value in values}


def _folded(value: Any) -> str:
    text = str(_spelled(value)).strip().casefold()
    return text.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", text) else text


def _answer(cells: _Cells, source: FileSource, options: Mapping[str, str]) -> str | None:
    if source.answer is None:
        return None
    if options:
        return _letter(cells, source.answer, list(options))
    answer = cells.word(source.answer)
    if source.answer_after is None:
        return answer
    _, mark, final = answer.rpartition(source.answer_after)
    if not mark:
        raise cells.error(f"column '{source.answer}' has no '{source.answer_after}' before the final answer")
    final = cells.checked(final, f"column '{source.answer}' after '{source.answer_after}'")
    return final.replace(",", "") if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", final) else final


def _options(cells: _Cells, column: str) -> dict[str, str]:
    """The options by their letters."""
    options = cells.value(column)
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError as error:
            raise cells.error(f"column '{column}' is not a JSON list: {error}") from error
    if not isinstance(options, list) or not 2 <= len(options) <= len(ascii_uppercase):
        raise cells.error(f"column '{column}' must be a list of 2 to {len(ascii_uppercase)} options")
    return {
        letter: cells.spelled(option, f"option {letter} in column '{column}'")
        for letter, option in zip(ascii_uppercase, options, strict=False)
    }


def _letter(cells: _Cells, column: str, letters: Sequence[str]) -> str:
    given = str(_spelled(cells.value(column))).strip()
    if (index := re.fullmatch(r"([0-9]{1,2})(\.0)?", given)) and int(index[1]) < len(letters):
        return letters[int(index[1])]
    if given not in letters:
        raise cells.error(
            f"column '{column}' is {given!r}, no option; write a letter of {letters[0]} to {letters[-1]}, or an index "
            f"from 0 to {len(letters) - 1}"
        )
    return given


def _category(cells: _Cells, source: FileSource) -> str:
    """The category; of several, all in order; without a column, the dataset's or the file's name."""
    if source.category is None:
        return source.dataset or PurePosixPath(source.path).stem
    category = cells.value(source.category)
    if isinstance(category, Mapping):
        category = CATEGORY_SEPARATOR.join(sorted(str(name) for name, holds in category.items() if holds is True))
    return cells.spelled(category, f"column '{source.category}'")
