"""Documents as models. An error lists all that is wrong with one, each problem with its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError

from tokenbuncher.core.documents import Origin, position, stands_in, written_key
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.fields import FIELDS_ALONE, Path, Strict
from tokenbuncher.core.kinds import other_kind
from tokenbuncher.core.passwords import has_password, masked
from tokenbuncher.core.wrong_fields import NO_PASSWORDS, Problem, within, wrong_fields

MOST_TOLD = 20
"""Problems that one error lists."""
Document = TypeVar("Document", bound=Strict)


def validated(model: type[Document], document: dict[str, Any], wrong: str, *, origin: Origin | None = None) -> Document:
    """The document as a model.

    Raises:
        UserError: If it is not valid: `wrong`, then a line for each field, with its place.
    """
    if problems := list(unnamed(document)):
        raise UserError(f"{wrong}:\n{told(problems, document, origin)}")
    try:
        valid = model.model_validate(document)
        problems = list(passwords_in(document))
    except ValidationError as error:
        if kind := other_kind(model, document):
            raise UserError(f"{wrong}: it is {kind}") from error
        problems = problems_in(model, document) or wrong_fields(model, document, error)
    if problems:
        raise UserError(f"{wrong}:\n{told(problems, document, origin)}")
    return valid


def problems_in(model: type[Strict], document: dict[str, Any]) -> list[Problem]:
    """Every field that is wrong or holds a password, and every contradiction among the others."""
    known, wrong = _known(model, document)
    places = {problem.path for problem in wrong}
    passwords = [problem for problem in passwords_in(document) if problem.path not in places]
    return [*wrong, *passwords, *dict.fromkeys(_contradictions(known, document))]


def _known(model: type[Strict], document: dict[str, Any]) -> tuple[Strict | None, list[Problem]]:
    """The document as a model without the fields that are wrong, and the problems of these fields."""
    try:
        return model.model_validate(document, context=FIELDS_ALONE).model_copy(deep=True), []
    except ValidationError as error:
        wrong = wrong_fields(model, document, error)
    entries = {_entry(document, problem.path) for problem in wrong}
    if () in entries:
        return None, wrong
    rest = deepcopy(document)
    for entry in entries:
        _remove(rest, entry)
    known, _ = _known(model, rest)
    for entry in entries:
        _forget(known, document, entry)
    return known, wrong


def _entry(document: Mapping[str, Any], path: Path) -> Path:
    """The field at a path. For an item of a list it is the whole list, whose other items would be renumbered."""
    entry = within(document, path)
    while entry and isinstance(entry[-1], int):
        entry = entry[:-1]
    return entry


def _remove(value: Any, entry: Path) -> None:
    for part in entry[:-1]:
        value = dict(_parts(value)).get(part, {})
    value.pop(entry[-1], None)


def _forget(known: Strict | None, document: dict[str, Any], entry: Path) -> None:
    """Removes a field from a model, and all that may depend on it. Reading it then raises an AttributeError."""
    value: Any = known
    given: Any = document
    for part in entry:
        if isinstance(value, Strict):
            owner, field = value, str(part)
            _remove_fields(owner, owner.model_fields_set - dict(_parts(given)).keys())  # filled in from what is wrong
        value, given = (dict(_parts(each)).get(part) for each in (value, given))
    if known:
        _remove_fields(owner, [field, *_dependent(owner, field)])


def _remove_fields(model: Strict, names: Iterable[str]) -> None:
    for name in names:
        model.__dict__.pop(name, None)


def _dependent(owner: Strict, field: str) -> list[str]:
    """The field that a misspelled one may stand for, and fields whose defaults follow other fields."""
    fields = type(owner).model_fields
    following = [name for name, each in fields.items() if each.default_factory_takes_validated_data]
    return get_close_matches(field, fields, n=1) + [name for name in following if name not in owner.model_fields_set]


def _contradictions(value: Any, document: Mapping[str, Any], path: Path = ()) -> Iterator[Problem]:
    """What the checks of a model and of all its parts find, the parts first."""
    for key, part in _parts(value):
        yield from _contradictions(part, document, (*path, key))
    for check in value.checks() if isinstance(value, Strict) else ():
        with suppress(AttributeError):  # it reads a field that is wrong
            for place, message in check:
                whole = (*path, *place)
                yield Problem(whole, message, within(document, whole))


def _parts(value: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, Strict):
        return value.__dict__.items()
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def passwords_in(value: Any, path: Path = ()) -> Iterator[Problem]:
    """All texts that have a password or token in an address."""
    if isinstance(value, str) and has_password(value):
        yield Problem(path, NO_PASSWORDS, path)
    for key, part in _parts(value):
        yield from passwords_in(part, (*path, key))


def unnamed(value: Any, path: Path = ()) -> Iterator[Problem]:
    """All keys that are not texts."""
    for key, part in _parts(value):
        name = key if isinstance(value, list) else written_key(key)
        if isinstance(value, Mapping) and not isinstance(key, str):
            where = (*path, name)
            yield Problem(where, f"no field has this name; if {name} is meant as a text, write it in quotes", where)
        yield from unnamed(part, (*path, name))


def told(problems: list[Problem], document: Mapping[str, Any], origin: Origin | None) -> str:
    """A line for each problem: its place (line and column, or option), the field, and what is wrong."""
    lines = []
    kept = [text for text in _texts(document) if has_password(text)]
    for problem in problems[:MOST_TOLD]:
        place = f"{_place(problem, document, origin)}: " if origin else ""
        line = f"  {place}{_named_once(problem)}"
        for text in kept:
            line = line.replace(text, masked(text))
        lines.append(line)
    if len(problems) > MOST_TOLD:
        lines.append(f"  and {len(problems) - MOST_TOLD} more")
    return "\n".join(lines)


def _named_once(problem: Problem) -> str:
    """The field and its message; the field is not repeated if the message begins with its name."""
    field = ".".join(map(str, problem.path))
    for name in (field, str(problem.path[-1]) if problem.path else ""):
        if name and re.match(rf"{re.escape(name)}[ :.]", problem.message):
            return field + problem.message.removeprefix(name)
    return f"{field}: {problem.message}" if field else problem.message


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for _, part in _parts(value):
        yield from _texts(part)


def _place(problem: Problem, document: Mapping[str, Any], origin: Origin) -> str:
    """Where it stands: the option that set it, or line and column."""
    path = problem.stands_at
    inside = path if path == problem.path else ()
    named = (each for each in _named(problem, document) if len(each) > len(path) and each[: len(inside)] == inside)
    path = next(named, path)
    for end in range(len(path), 0, -1):
        part = path[:end]
        option = origin.options.get(".".join(map(str, part))) or _maker(part, origin)
        if option:
            return option
    return position(origin.text, path)


def _maker(path: Path, origin: Origin) -> str:
    """The option that made a part of the document, by setting something within; empty if the text has it."""
    prefix = "".join(f"{part}." for part in path)
    options = (option for name, option in origin.options.items() if name.startswith(prefix))
    return "" if stands_in(origin.text, path) else next(options, "")


def _named(problem: Problem, document: Mapping[str, Any]) -> Iterator[Path]:
    """The fields of the document that a message names."""
    for name in re.findall(r"[a-z]\w*(?:\.\w+)+|[a-z]+_\w+", problem.message):
        parts = tuple(int(part) if part.isdigit() else part for part in name.split("."))
        for named in ((*problem.path, *parts), (*problem.path[:-1], *parts), parts):
            if within(document, named) == named:
                yield named
