"""Single fields of a document, set by an option: `--set field.path=value`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from tokenbuncher.core.documents import parse_value, shortened
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.fields import Strict, is_kind, models_of
from tokenbuncher.core.passwords import HIDDEN, is_secret


def apply_override(document: dict[str, Any], override: str, defaults: type[Strict] | None = None) -> None:
    """Sets one field of a document, in place.

    Args:
        document: The mapping to change.
        override: `field.path=value`, where the value is YAML. Items of a list are numbered from 0.
        defaults: The model of the document. It supplies the default items of lists that the document leaves out.

    Raises:
        UserError: If it is not of that form, or the path leads through a value that has no parts, or to an item that
            is not there.
    """
    path, separator, value = override.partition("=")
    path = path.strip()
    if not separator or not all(path.split(".")):
        raise UserError(f"--set {shortened(override)} is not of the form field.path=value")
    *parents, last = path.split(".")
    place: Any = document
    models = [defaults] if defaults else []
    for key in parents:
        field = _field(models, key, place)
        place = _part(place, key, path, missing=_left_out(field))
        models = models_of(field.annotation) if field else models
    _set_part(place, last, parse_value(value, f"--set {path}: the value"), path=path)


def _part(place: Any, key: str, path: str, *, missing: Any) -> Any:
    """A part of a mapping or list, which is made if a mapping has nothing there."""
    if isinstance(place, dict):
        if place.get(key) is None:
            place[key] = missing
        part = place[key]
    else:
        part = place[_number(place, key, path)]
    if not isinstance(part, dict | list):
        shown = HIDDEN if is_secret(key) else shortened(part)
        raise UserError(f"--set {path}: {key} is {shown} in the spec, which has no fields or items")
    own = part.copy()  # elsewhere, an alias may stand for the same
    _set_part(place, key, own, path=path)
    return own


def _set_part(place: Any, key: str, value: Any, *, path: str) -> None:
    if isinstance(place, dict):
        place[key] = value
    else:
        place[_number(place, key, path)] = value


def _number(place: list[Any], key: str, path: str) -> int:
    """The number of an item, if it is there."""
    if not re.fullmatch(r"[0-9]{1,6}", key) or int(key) >= len(place):
        there = f"0 to {len(place) - 1}" if place else "none; set the list as a whole"
        raise UserError(f"--set {path}: there is no item {key}; items are counted from 0, there are {there}")
    return int(key)


def _field(models: Sequence[type[Strict]], key: str, place: Any) -> FieldInfo | None:
    """The field of that name in the models that a part of a document may be of, first in the one of its kind."""
    if not isinstance(place, dict):
        return None
    alike = sorted(models, key=lambda model: not is_kind(model, place))
    return next((model.model_fields[key] for model in alike if key in model.model_fields), None)


def _left_out(field: FieldInfo | None) -> Any:
    """What stands for a field that is left out: its list by default, written out, or an empty list or mapping."""
    if field is None:
        return {}
    needs_others = field.default_factory_takes_validated_data
    default = None if needs_others else field.get_default(call_default_factory=True)
    if not isinstance(default, list):
        return [] if _may_be_list(field.annotation) else {}
    return [item.model_dump(mode="json") if isinstance(item, Strict) else item for item in default]


def _may_be_list(annotation: Any) -> bool:
    form, parts = get_origin(annotation), get_args(annotation)
    return form is list or (form in (Annotated, Union, UnionType) and any(map(_may_be_list, parts)))
