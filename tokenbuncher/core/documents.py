"""YAML documents that people write: strict, and refused with the path of every field that is wrong."""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.passwords import masked


def refuse_tilde(path: str | Path) -> None:
    """Refuses a path that begins with ~: only shells expand it, and documents are read by other programs too.

    Raises:
        UserError: If it begins with ~.
    """
    if str(path).startswith("~"):
        raise UserError(f"{path} begins with ~, which only a shell expands; write the whole path")


LONGEST = 200_000
"""Characters of a document."""
LARGEST, DEEPEST = 20_000, 50
"""Values of a document with its aliases written out, and levels of them; few bytes can stand for endless ones."""
WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # begins as that of UTF-16 does
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""How texts begin that are not UTF-8, but that editors offer to save."""


def digest_of(value: Any) -> str:
    """sha256 of a JSON value, independent of the order of its keys."""
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
    r"""The text of a file in UTF-8, without a byte order mark and with \n as line ends.

    Raises:
        ValueError: If it is not UTF-8. The message says what it is instead, or in which line it is not.
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
    document = parse_value(text, origin)
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise UserError(f"{origin} must be a mapping of fields, not {type(document).__name__}")
    return document


def parse_value(text: str, what: str) -> Any:
    """The value of a YAML text.

    Raises:
        UserError: If it is not YAML, repeats a key, or is too large or too deep.
    """
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
    """PyYAML's problem and its place, without the lines that PyYAML shows, which may hold a password."""
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
    """YAML of bounded size without broken characters or repeated keys, of which PyYAML would take the last.

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
    """YAML that YAML 1.1 and `_Loader` read alike: texts that either takes for something else are quoted."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: tuple[bool, bool]) -> str:
        tag = str(super().resolve(kind, value, implicit))
        if kind is yaml.ScalarNode and implicit[0] and tag == f"{PREFIX}str":
            return PREFIX + _plain_kind(value)
        return tag


def to_yaml(document: dict[str, Any]) -> str:
    """A mapping as YAML text, in its order."""
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False))


def refuse_repeated_keys(text: str | bytes) -> None:
    """Refuses a JSON text that repeats a key in one object: readers differ in which of the two they take.

    Raises:
        ValueError: If there is one, or it is not JSON.
        RecursionError: If it is too deep.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs):
            (repeated, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"key {repeated[:40]!a} stands twice")

    json.loads(text, object_pairs_hook=distinct)


class Origin(NamedTuple):
    """Where a document comes from, which gives the places of its values."""

    text: str
    """YAML."""
    options: Mapping[str, str] = {}
    """By path of a value: the option that set it."""


def position(text: str, path: Sequence[str | int]) -> str:
    """Line and column of a value in a YAML text, or of the nearest part around it."""
    mark = _marks(text, path)[-1]
    return f"line {mark.line + 1}, column {mark.column + 1}"


def stands_in(text: str, path: Sequence[str | int]) -> bool:
    """Whether a YAML text has a value at a path."""
    return len(_marks(text, path)) > len(path)


def _marks(text: str, path: Sequence[str | int]) -> list[yaml.Mark]:
    """The beginnings of the parts of a path in a YAML text, from the whole document to the last part there is."""
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


def shortened(value: Any) -> str:
    """A value as Python writes it, of a length that can be read, and without passwords."""
    text = repr(masked(value))
    return text if len(text) <= 80 else text[:77] + "..."
