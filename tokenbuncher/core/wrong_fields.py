"""Fields that are wrong, in the words of people who write YAML: what is wrong with each, and what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tokenbuncher.core.documents import shortened
from tokenbuncher.core.fields import Path, Strict, is_kind, models_of
from tokenbuncher.core.passwords import HIDDEN, has_password, is_secret

NO_PASSWORDS = (
    "holds a password or token in an address, which would be written down and shown; leave it out, and give it by an "
    "environment variable: those of AWS for s3://, HF_TOKEN for hf://, that of key_env for a judge, "
    "MLFLOW_TRACKING_TOKEN for MLflow"
)
SLIPS = {
    **dict.fromkeys(("gpu", "nvidia", "cuda:0", "cuda0"), "cuda"),
    **dict.fromkeys(("bf16", "half", "fp16", "float16", "f16"), "bfloat16"),
    **dict.fromkeys(("fp32", "f32", "float", "single", "full"), "float32"),
    **dict.fromkeys(("reinforce++", "reinforce-plus-plus", "rpp"), "reinforce-pp"),
}
"""By word: what people mean by it where it is not allowed."""
_NAME = "must be 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at "
PATTERNS = {
    r"^[0-9a-f]{64}$": "must be a sha256: 64 digits and letters from a to f, in lower case",
    r"^[a-z0-9][a-z0-9-]{0,62}$": f"{_NAME}the start",
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$": f"{_NAME}both ends",
    r"^/[^\s/][^\s]*$": "must be a whole path, which begins with one slash and has no spaces",
    r"^\S+$": "must have at least one character, and no spaces",
    r"\S": "must have at least one character that is no space",
    r"^(\d+(\.\d{1,3})?|\d+m)$": "must be a number of processors in quotes, such as '2', '0.5' or '500m'",
    r"^\d+(\.\d+)?(k|[MGTPE]|[KMGTPE]i)?$": "must be a number of bytes with a unit and no space, such as 512Mi or 8Gi",
    r"^\d+([MGTPE]|[KMGTPE]i)$": "must be a whole number of bytes with a unit and no space, such as 512Mi or 8Gi",
    r"^https?://[^@\s?#]+$": (
        "must begin with http:// or https://, in lower case, and have a host and a path alone: no user, space, ? or #"
    ),
    r"^[^/:\s][^/:]*$": "must have at least one character, no / and no :, and must not begin with a space",
    r"^[A-Za-z_][A-Za-z0-9_]*$": (
        "must be the name of an environment variable: letters, digits and _, the first no digit; never the key itself"
    ),
    r"^[A-Za-z][\w-]*$": "must begin with a letter, and have letters, digits, _ and - alone",
}
"""By pattern of a text: what it allows, in words."""


class Problem(NamedTuple):
    """Something wrong at a place of a document."""

    path: Path
    message: str
    stands_at: Path
    """The part of the path that is in the document."""
    in_union: bool = False
    """Whether it is wrong but in one of several forms that are allowed there."""


def wrong_fields(model: type[Strict], document: Mapping[str, Any], error: ValidationError) -> list[Problem]:
    """All that pydantic finds, by the paths that the document has."""
    found = [_problem(model, document, each) for each in error.errors()]
    deeper = [each for each in found if not any(_goes_on(other, each) for other in found)]
    merged: dict[Path, Problem] = {}
    for each in deeper:
        before = merged.get(each.path)
        merged[each.path] = each._replace(message=_either(before.message, each.message)) if before else each
    return list(merged.values())


def _problem(model: type[Strict], document: Mapping[str, Any], error: ErrorDetails) -> Problem:
    location = error["loc"]
    stands_at = within(document, location)
    path = (*stands_at, location[-1]) if error["type"] == "missing" else stands_at
    if error["type"] == "unknown_kind" and isinstance(error["input"], Mapping) and "kind" in error["input"]:
        stands_at = (*stands_at, "kind")
    if error["type"] == "extra_forbidden":
        return Problem(path, _unknown(model, document, path), stands_at)
    return Problem(path, _reason(error), stands_at, in_union=bool(location) and location[-1] not in (*path, "[key]"))


def within(document: Any, location: Path) -> Path:
    """The path of a location in the document, without the names that pydantic adds for the branches of a union."""
    path: list[str | int] = []
    value = document
    for part in location:
        is_there = part in value if isinstance(value, Mapping) else isinstance(value, list) and isinstance(part, int)
        if is_there:
            path.append(part)
            value = value[part]
    return tuple(path)


def _goes_on(other: Problem, each: Problem) -> bool:
    """Whether another problem is deeper in the same value: then a form was meant in which only that is wrong."""
    return each.in_union and len(other.path) > len(each.path) and other.path[: len(each.path)] == each.path


def _either(one: str, other: str) -> str:
    """Two reasons why a value is wrong, of which either would do if it held."""
    head, allowed = "Input should be ", other.partition(" (given: ")[0]
    if not one.startswith(head) or not allowed.startswith(head) or allowed in one:
        return one if other in one else f"{one}; or {other}"
    before, given, after = one.partition(" (given: ")
    return f"{before} or {allowed.removeprefix(head)}{given}{after}"


def _reason(error: ErrorDetails) -> str:
    """What is wrong with a value, in the words of people who write YAML."""
    value, message = error["input"], error["msg"].removeprefix("Value error, ")
    if isinstance(value, str) and has_password(value):
        return message if "holds a password" in message else NO_PASSWORDS
    is_kept = HIDDEN in message or (error["loc"] and is_secret(error["loc"][-1]))
    given = "" if is_kept else f" (given: {shortened(value)})"
    match error["type"]:
        case "literal_error":
            allowed = re.findall("'([^']*)'", error["ctx"]["expected"])
            return f"{message}{given}{guessed(str(value), allowed)}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"Input should be a mapping of fields{given}"
        case "int_type" | "float_type" | "bool_type" if _is_quoted(value):
            return f"{message}{given}; write it without quotes"
        case "path_type":
            return f"Input should be a path{given}"
        case "string_pattern_mismatch":
            return f"{PATTERNS.get(error['ctx']['pattern'], 'has a form that is not allowed here')}{given}"
        case "missing":
            return message
        case _:
            return message if isinstance(value, Mapping | Strict) else f"{message}{given}"


def _is_quoted(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?|true|false", value.strip(), re.I))


def _unknown(model: type[Strict], document: Mapping[str, Any], path: Path) -> str:
    allowed = list(_model_at(model, document, path[:-1]).model_fields)
    name = str(path[-1])
    homes = list(_homes(model, name))[:3]
    alike = get_close_matches(name, allowed, n=1, cutoff=0.8)
    guess = f"; did you mean {' or '.join([*alike, *homes])}?" if homes else guessed(name, allowed)
    return f"unknown field; allowed here: {', '.join(allowed)}{guess}"


def _model_at(model: type[Strict], document: Any, path: Path) -> type[Strict]:
    """The model of a part of the document; of several that are allowed there, the one of its kind."""
    models, value = [model], document
    for part in path:
        value = value[part]
        if isinstance(part, str) and part in model.model_fields:
            models = models_of(model.model_fields[part].annotation) or [model]
        model = next((each for each in models if is_kind(each, value)), models[0])
    return model


def _homes(model: type[Strict], name: str, path: str = "") -> Iterator[str]:
    """Where else a field of that name is allowed."""
    for field, known in model.model_fields.items():
        if field == name and path:
            yield f"{path}{field}"
        item = "0." if re.match(r"(typing\.Annotated\[)?list\[", str(known.annotation)) else ""
        for part in models_of(known.annotation):
            yield from _homes(part, name, f"{path}{field}.{item}")


def guessed(given: str, allowed: Sequence[str]) -> str:
    """What was meant by a word that is not allowed, as the end of an error message; empty if nothing is like it."""
    plain = given.strip().lower().removeprefix("torch.").replace("_", "-")
    alike = {each.lower().replace("_", "-"): each for each in allowed}
    close = get_close_matches(plain, alike, n=1)
    meant = alike.get(SLIPS.get(plain, plain)) or (alike[close[0]] if close else None)
    return f"; did you mean {meant}?" if meant else ""
