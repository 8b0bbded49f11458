"""YAML documents that people write: strict, and refused with the path of every field that is wrong."""

from __future__ import annotations

import hashlib
import json
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenbuncher.errors import UserError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Strict(BaseModel):
    """Base of every part of a document: immutable, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Document = TypeVar("Document", bound=Strict)


def digest_of(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_text(what: str, path: str | Path) -> str:
    """The text of a file.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {what} {path}: {error}") from error


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """The mapping of a YAML text; empty if the text is.

    Raises:
        UserError: If it is not YAML, repeats a key or is not a mapping.
    """
    try:
        document = yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        raise UserError(f"{origin} is not YAML: {error}") from error
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise UserError(f"{origin} must be a mapping of fields, not {type(document).__name__}")
    return document


class _UniqueKeys(yaml.SafeLoader):
    """YAML without repeated keys, of which PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", key_node.start_mark)
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)


def apply_override(document: dict[str, Any], override: str) -> None:
    """Sets one field of a document, in place.

    Args:
        document: The mapping.
        override: `field.path=value`; the value is YAML.

    Raises:
        UserError: If it is not of that form, or the path leads through something that is not a mapping.
    """
    field, separator, value = override.partition("=")
    if not separator or not field:
        raise UserError(f"'{override}' is not of the form field.path=value")
    *parents, last = field.split(".")
    place = document
    for key in parents:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise UserError(f"'{override}': {key} is not a mapping in the spec")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"'{override}': the value is not YAML: {error}") from error


def validated(model: type[Document], document: dict[str, Any], wrong: str) -> Document:
    """The document as a model.

    Raises:
        UserError: If it is not valid: `wrong`, then a line for each field.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise UserError(f"{wrong}:\n{_explain(model, error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first field that is wrong, and why, in one line."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'document'}: {first['msg']}"


def _explain(model: type[Strict], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "spec"
        if problem["type"] == "extra_forbidden":
            allowed = _fields_at(model, problem["loc"][:-1])
            meant = get_close_matches(str(problem["loc"][-1]), allowed, n=1)
            guess = f"; did you mean {meant[0]}?" if meant else ""
            lines.append(f"  {where}: unknown field; allowed here: {', '.join(allowed)}{guess}")
        else:
            lines.append(
                f"  {where}: {problem['msg'].removeprefix('Value error, ')} (given: {_short(problem['input'])})"
            )
    return "\n".join(lines)


def _fields_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        if isinstance(part, int) or part not in getattr(model, "model_fields", {}):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        candidates += [inner for c in candidates for inner in getattr(c, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, Strict)), model)
    return list(model.model_fields)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
