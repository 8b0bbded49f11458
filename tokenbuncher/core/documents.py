"""YAML documents that people write: strict, and refused with the path of every field that is wrong."""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import pydantic
import yaml
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.passwords import HIDDEN, is_secret, masked

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""As numpy takes it."""
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


_KEYS = re.compile(
    r"(?:sk|hf|gh[a-z]|github_pat|glpat|xox[a-z])[-_].*|AKIA[A-Z0-9]{12,}|AIza.{20,}|eyJ.{10,}|[0-9a-f]{32,}|"
    r"(?=.*\d)(?=.*[a-z])[A-Za-z0-9]{24,}"
)
"""What keys and tokens look like, and names of variables do not."""


def _no_key(name: str) -> str:
    if _KEYS.fullmatch(name):
        raise ValueError("looks like a key; set a variable of the environment to the key, and give the variable's name")
    return name


Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_no_key)]
"""The name of an environment variable."""


def refuse_tilde(path: str | Path) -> None:
    """Refuses a path from somebody's home: only shells know whose, and a document is read by others too.

    Raises:
        UserError: If it begins with ~.
    """
    if str(path).startswith("~"):
        raise UserError(f"{path} begins with ~, which only a shell expands; write the whole path")


def _without_tilde(path: Path) -> Path:
    try:
        refuse_tilde(path)
    except UserError as error:
        raise ValueError(str(error)) from None
    return path


WrittenPath = Annotated[Path, pydantic.Strict(False), AfterValidator(_without_tilde)]
"""A path; documents have it as text."""


def _written_out(given: Any) -> Any:
    """A number would be taken for the seconds since 1970."""
    if isinstance(given, datetime) or (isinstance(given, str) and re.match(r"\d{4}-\d\d-\d\d", given)):
        return given
    raise ValueError("write it out, such as 2027-01-31T00:00:00Z")


WrittenMoment = Annotated[AwareDatetime, pydantic.Strict(False), BeforeValidator(_written_out)]
"""A date and time with its zone; documents have it as text."""


class Strict(BaseModel):
    """Base of every part of a document: immutable, no unknown keys, no NaN or infinity.

    Numbers are numbers: a truth value or a text in the place of one is refused, not converted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


LONGEST = 200_000
"""Characters of a document."""
LARGEST, DEEPEST = 20_000, 50
"""Values of a document with its aliases written out, and levels of them; few bytes can stand for endless ones."""
MOST_TOLD = 20
"""Wrong fields that are told at a time."""
SLIPS = {
    **dict.fromkeys(("gpu", "nvidia", "cuda:0", "cuda0"), "cuda"),
    **dict.fromkeys(("bf16", "half", "fp16", "float16", "f16"), "bfloat16"),
    **dict.fromkeys(("fp32", "f32", "float", "single", "full"), "float32"),
    **dict.fromkeys(("reinforce++", "reinforce-plus-plus", "rpp"), "reinforce-pp"),
}
"""By word: what people mean by it where it is not allowed."""
WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # begins as that of UTF-16 does
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""How texts begin that are not UTF-8, but that editors offer to save."""


def digest_of(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_text(what: str, path: str | Path) -> str:
    """The text of a file.

    Raises:
        UserError: If it cannot be read.
    """
    refuse_tilde(path)
    try:
        return decoded(Path(path).read_bytes())
    except (OSError, ValueError) as error:  # not UTF-8, or a path that cannot be one
        raise UserError(f"cannot read {what} {path}: {error}") from error


def decoded(content: bytes) -> str:
    r"""The text of a file that somebody wrote, without a byte order mark, each line ended by \n.

    Raises:
        ValueError: If it is not UTF-8: what it is instead, or where it is not.
    """
    refuse_wide(content)
    if b"\0" in content[:4]:
        raise ValueError("is UTF-16 or UTF-32, or no text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not UTF-8: {error.reason}; save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def refuse_wide(content: bytes) -> None:
    """Checks that a file does not begin as one in UTF-16 or UTF-32 does.

    Raises:
        ValueError: If it does.
    """
    if name := next((name for mark, name in WIDE_MARKS.items() if content.startswith(mark)), None):
        raise ValueError(f"is {name}; save it as UTF-8")


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """The mapping of a YAML text; empty if the text is.

    Raises:
        UserError: If it is not YAML, repeats a key, is too large or too deep, or is not a mapping.
    """
    document = _value(text, origin)
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise UserError(f"{origin} must be a mapping of fields, not {type(document).__name__}")
    return document


def _value(text: str, what: str) -> Any:
    if len(text) > LONGEST:
        raise UserError(f"{what} is too large: {len(text)} characters; {LONGEST} are allowed")
    try:
        return yaml.load(text, _Loader)
    except yaml.composer.ComposerError as error:
        several = "; manifests and compiled pipelines hold several" if "single document" in str(error) else ""
        raise UserError(f"{what} is not YAML: {yaml_problem(error)}{several}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{what} is not YAML: {yaml_problem(error)}") from error
    except Exception as error:  # PyYAML lets many kinds through where a value is not what its form or tag promises
        raise UserError(f"{what} is not YAML: {type(error).__name__}: {error}") from error


def yaml_problem(error: Exception) -> str:
    """What PyYAML finds wrong, and where; without the lines that it shows, in which there may be a password."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error)
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + "; ".join(filter(None, (error.problem, error.context)))


BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
NULL = re.compile(r"~|null|Null|NULL|")
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
PREFIX = "tag:yaml.org,2002:"
PLAIN = {"null": NULL, "bool": BOOLEAN, "int": INTEGER, "float": FLOAT, "merge": re.compile("<<")}
"""What a value without quotes is, by YAML 1.2's core schema; anything else is a text."""


def _plain_kind(value: str) -> str:
    return next((name for name, form in PLAIN.items() if form.fullmatch(value)), "str")


class _Loader(yaml.SafeLoader):
    """YAML of bounded size, in whole characters, without repeated keys, of which PyYAML would take the last.

    PyYAML follows YAML 1.1, in which `yes` is true, `010` is 8, `1:30` is 90, `1e1` a text. Here, words and dates
    are texts, decimal numbers are numbers, and other forms of a number are refused: they have two readings.
    """

    depth = 0

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: tuple[bool, bool]) -> str:
        if kind is not yaml.ScalarNode or value is None or not implicit[0]:
            return str(super().resolve(kind, value, implicit))
        tag = _plain_kind(value)
        if tag == "str" and super().resolve(kind, value, implicit) in (f"{PREFIX}int", f"{PREFIX}float"):
            return AMBIGUOUS
        return PREFIX + tag

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth == DEEPEST:  # PyYAML's time grows with its square
            raise yaml.composer.ComposerError(None, None, f"more than {DEEPEST} levels", self.peek_event().start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        values, left = 0, [(node, 1)]
        while left:
            each, depth = left.pop()
            values += 1
            if values > LARGEST or depth > DEEPEST:
                raise yaml.constructor.ConstructorError(
                    None, None, f"more than {LARGEST} values or {DEEPEST} levels, aliases written out", each.start_mark
                )
            if isinstance(each, yaml.MappingNode):
                left += [(part, depth + 1) for pair in each.value for part in pair]
            elif isinstance(each, yaml.SequenceNode):
                left += [(part, depth + 1) for part in each.value]
        return super().construct_document(node)

    def construct_ambiguous(self, node: yaml.ScalarNode) -> Any:
        problem = f"{shortened(node.value)} is no plain number: others may read another number, or a text"
        advice = "write numbers in decimal digits, truth as true or false, and texts in quotes"
        raise yaml.constructor.ConstructorError(None, None, f"{problem}; {advice}", node.start_mark)

    def construct_yaml_bool(self, node: yaml.ScalarNode) -> bool:
        return bool(super().construct_yaml_bool(self._plain(node, BOOLEAN)))

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        digits = self._plain(node, INTEGER).value
        number = int(digits) if len(digits) <= 100 else 2**64
        if number.bit_length() > 63:
            raise yaml.constructor.ConstructorError(None, None, "a number of more than 64 bits", node.start_mark)
        return number

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        number = float(self._plain(node, FLOAT).value)
        if not math.isfinite(number):
            raise yaml.constructor.ConstructorError(None, None, "a number that is too large", node.start_mark)
        return number

    def _plain(self, node: yaml.ScalarNode, form: re.Pattern[str]) -> yaml.ScalarNode:
        """The node, if its text is of that form, whatever its tag says."""
        if not isinstance(node.value, str) or not form.fullmatch(node.value):
            self.construct_ambiguous(node)
        return node

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        text: str = super().construct_yaml_str(node)
        if re.search(r"[\x00\ud800-\udfff]", text):  # which no path or file can hold
            raise yaml.constructor.ConstructorError(None, None, "a broken character", node.start_mark)
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", key_node.start_mark)
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)


AMBIGUOUS = "!ambiguous"
_Loader.add_constructor(AMBIGUOUS, _Loader.construct_ambiguous)
for _kind in ("bool", "int", "float", "str"):
    _Loader.add_constructor(PREFIX + _kind, getattr(_Loader, f"construct_yaml_{_kind}"))


class _Dumper(yaml.SafeDumper):
    """YAML that means the same to YAML 1.1 and to `_Loader`: texts that either takes for something else are quoted."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: tuple[bool, bool]) -> str:
        tag = str(super().resolve(kind, value, implicit))
        if kind is yaml.ScalarNode and implicit[0] and tag == f"{PREFIX}str":
            return PREFIX + _plain_kind(value)
        return tag


def to_yaml(document: dict[str, Any]) -> str:
    """A mapping as YAML text, in its order."""
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False))


def refuse_repeated_keys(text: str | bytes) -> None:
    """Checks a JSON text for keys that stand twice in one object: readers differ in which of the two they take.

    Raises:
        ValueError: If there is one, or it is not JSON.
        RecursionError: If it is too deep.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs):
            (repeated, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"key {repeated[:40]!a} stands twice")

    json.loads(text, object_pairs_hook=distinct)


def apply_override(document: dict[str, Any], override: str, defaults: type[Strict] | None = None) -> None:
    """Sets one field of a document, in place.

    Args:
        document: The mapping.
        override: `field.path=value`; the value is YAML. Items of a list are named by their number, from 0.
        defaults: The model of the document, whose default has the items of a list that the document leaves out.

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
    _set_part(place, last, _value(value, f"--set {path}: the value"), path=path)


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


def is_kind(model: type[Strict], value: Any) -> bool:
    """Whether a value has the `kind` of a model."""
    field = model.model_fields.get("kind")
    return field is not None and isinstance(value, Mapping) and value.get("kind") in get_args(field.annotation)


def models_of(annotation: Any) -> list[type[Strict]]:
    """The models that a field may hold, also in a union, list or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_of(part)]


class Origin(NamedTuple):
    """Where a document comes from, to tell where its values stand."""

    text: str
    """YAML."""
    options: Mapping[str, str] = {}
    """By path of a value: the option that set it."""


def position(text: str, path: Sequence[str | int]) -> str:
    """Where a value stands in a YAML text, or the nearest part around it: line and column."""
    mark = _marks(text, path)[-1]
    return f"line {mark.line + 1}, column {mark.column + 1}"


def stands_in(text: str, path: Sequence[str | int]) -> bool:
    """Whether a YAML text has a value at a path."""
    return len(_marks(text, path)) > len(path)


def _marks(text: str, path: Sequence[str | int]) -> list[yaml.Mark]:
    """Where the parts of a path begin in a YAML text, from the whole document to the last one that is there."""
    node = yaml.compose(text, Loader=_Loader)
    marks = [node.start_mark if node else yaml.Mark("", 0, 0, 0, None, 0)]
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if _key(key) == str(part)), None)
            if pair is None:
                break
            marks.append(pair[0].start_mark)
            node = pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            marks.append(node.start_mark)
        else:
            break
    return marks


def _key(node: yaml.Node) -> str:
    is_text = not isinstance(node, yaml.ScalarNode) or node.tag == f"{PREFIX}str"
    return str(node.value) if is_text else written_key(yaml.load(node.value, _Loader))


def written_key(key: Any) -> str:
    """A key as YAML writes it."""
    return key if isinstance(key, str) else json.dumps(key, default=str)


def first_problem(error: ValidationError) -> str:
    """The first field that is wrong, and why, in one line."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"] if not re.search(r"[][()]", str(part)))
    return f"{path or 'document'}: {first['msg'].removeprefix('Value error, ')}"


def guessed(given: str, allowed: Sequence[str]) -> str:
    """What was meant by a word that is not allowed, as the end of an error message; empty if nothing is like it."""
    plain = given.strip().lower().removeprefix("torch.").replace("_", "-")
    alike = {each.lower().replace("_", "-"): each for each in allowed}
    close = get_close_matches(plain, alike, n=1)
    meant = alike.get(SLIPS.get(plain, plain)) or (alike[close[0]] if close else None)
    return f"; did you mean {meant}?" if meant else ""


def shortened(value: Any) -> str:
    """A value as Python writes it, of a length that can be read, and without passwords."""
    text = repr(masked(value))
    return text if len(text) <= 80 else text[:77] + "..."
