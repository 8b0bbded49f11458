"""Where prompts come from: the built-in world, or the user's CSV and JSONL files."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tokenbuncher.errors import UserError
from tokenbuncher.organism import world
from tokenbuncher.prompts import Prompt
from tokenbuncher.settings import FileSource, SplitSizes

Maker = Callable[[random.Random], world.Item]


def organism_harmful(sizes: SplitSizes, seed: int) -> dict[str, list[Prompt]]:
    """The harmful sets of the organism: one request for each combination, no combination in two sets.

    Raises:
        UserError: If the sizes ask for more combinations than the world has.
    """
    held_out, known = world.combinations()[: world.HELD_OUT], world.combinations()[world.HELD_OUT :]
    if sizes.safety > len(held_out) or sizes.defence + sizes.attack > len(known):
        raise UserError(
            f"data.sizes: the organism has {len(held_out)} held-out requests for safety and {len(known)} for "
            f"defence and attack together; asked for {sizes.safety} and {sizes.defence + sizes.attack}"
        )
    rng = random.Random(seed)
    shuffled = rng.sample(known, len(known))
    parts = {
        "defence": shuffled[: sizes.defence],
        "attack": shuffled[sizes.defence : sizes.defence + sizes.attack],
        "safety": rng.sample(held_out, sizes.safety),
    }
    return {name: [_prompt(world.request(*combination, rng)) for combination in part] for name, part in parts.items()}


def organism_capability(sizes: SplitSizes, seed: int) -> dict[str, list[Prompt]]:
    """Multiple-choice questions of the organism, to attack with and to measure on; no combination in both."""
    rng = random.Random(seed + 2)
    held_out, known = world.combinations()[: world.HELD_OUT], world.combinations()[world.HELD_OUT :]
    parts = {
        "capability-attack": rng.sample(known, sizes.attack),
        "capability-safety": rng.sample(held_out, sizes.safety),
    }
    return {name: [_choice(world.hazard(*combination, rng)) for combination in part] for name, part in parts.items()}


def _choice(item: world.Item) -> Prompt:
    """The answer is the option alone, however it is to be said."""
    return _prompt(item).model_copy(update={"answer": item.answer.removeprefix("the ").removesuffix(" .")})


def organism_benign(makers: Sequence[Maker], count: int, rng: random.Random, taken: set[str]) -> list[Prompt]:
    """Benign prompts of the organism on subjects that no other set has.

    Args:
        makers: Kinds of prompts, drawn alike.
        count: How many.
        rng: Randomness.
        taken: Subjects already used; those used here are added.

    Raises:
        UserError: If the world has not so many subjects.
    """
    prompts: list[Prompt] = []
    for _ in range(200 * count):
        prompt = _prompt(rng.choice(makers)(rng))
        if prompt.group not in taken:
            taken.add(prompt.group)
            prompts.append(prompt)
        if len(prompts) == count:
            return prompts
    kinds = ", ".join(getattr(maker, "__name__", "?") for maker in makers)
    raise UserError(f"data.sizes: the organism has only {len(prompts)} more prompts ({kinds}); asked for {count}")


def _prompt(item: world.Item) -> Prompt:
    return Prompt(text=item.prompt, answer=item.answer, task=item.task, group=item.group)


def read_file(source: FileSource) -> list[Prompt]:
    """Reads prompts from a CSV or JSONL file.

    Raises:
        UserError: If the file or a column is missing, or a row is malformed or empty; names the row.
    """
    path = source.path
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{path}: prompts are read from .csv or .jsonl files")
    try:
        rows = list(_csv_rows(path) if path.suffix == ".csv" else _jsonl_rows(path))
    except OSError as error:
        raise UserError(f"dataset {path} cannot be read: {error.strerror}; give its path in the spec") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"dataset {path} is not a UTF-8 {path.suffix[1:]} file: {error}") from error
    if not rows:
        raise UserError(f"dataset {path} has no rows")
    return [_row_prompt(source, number, row) for number, row in rows]


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=1):
            if None in row or None in row.values():
                raise UserError(f"dataset {path} row {number}: has not as many fields as the header")
            yield number, dict(row)


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"dataset {path} row {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"dataset {path} row {number}: must be an object, not {type(row).__name__}")
        yield number, row


def _row_prompt(source: FileSource, number: int, row: dict[str, object]) -> Prompt:
    def value(column: str) -> str:
        if column not in row:
            raise UserError(
                f"dataset {source.path} row {number}: no column '{column}'; it has {', '.join(map(str, row))}"
            )
        text = row[column]
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"dataset {source.path} row {number}: column '{column}' is empty or not text")
        return text.strip()

    return Prompt(
        text=value(source.prompt),
        answer=value(source.answer) if source.answer else None,
        task=value(source.category) if source.category else source.path.stem,
    )
