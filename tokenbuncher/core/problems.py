"""Documents as models; what is wrong with one is told in words: where each wrong value stands, and what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tokenbuncher.core.documents import Origin, position, shortened, stands_in, written_key
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.fields import FIELDS_ALONE, Path, Strict, is_kind, models_of
from tokenbuncher.core.passwords import HIDDEN, has_password, is_secret, masked

NO_PASSWORDS = (
    "holds a password or token in an address, which would be written down and shown; leave it out, and give it by an "
    "environment variable: those of AWS for s3://, HF_TOKEN for hf://, that of key_env for a judge, "
    "MLFLOW_TRACKING_TOKEN for MLflow"
)
KINDS: dict[str, tuple[str, str]] = {
    "a release spec": (
        "model|data|defence|attacks|evaluation|policy|tracking|output|compute",
        "it belongs to --spec; a policy is its part `policy`, in a file of its own with apiVersion: tokenbuncher/v1",
    ),
    "a policy": (
        "(min|max)_.*|confidence|required_attacks|attack_limits|named_attacks|valid_days|waivers",
        "give it by --policy, or as the part `policy` of a release spec",
    ),
    "the settings of a guard": (
        "aliases|revoked|revoked_attestations|not_before|hash_below_mb|max_checks|artifact_roots",
        "give it by --guard, or name it in TOKENBUNCHER_GUARD",
    ),
    "a placement": ("images|all|quarantine|parallelism", "give it by --placement"),
    "a configuration of accelerate": (
        "compute_environment|distributed_type|fsdp_config|deepspeed_config|num_processes|num_machines|machine_rank|"
        "mixed_precision|main_training_function|rdzv_backend|same_network|use_cpu|downcast_bf16|debug",
        "name it in compute.accelerate of a release spec",
    ),
    "a compiled pipeline": (
        "pipelineInfo|deploymentSpec|sdkVersion|schemaVersion|components|root|platforms",
        "it is for Kubeflow; give the document that it was made for",
    ),
    "a registration": ("name|version|digest|files|tracking_uri|tries", "give it by --registration"),
    "a verdict": ("outcome|findings|reasons|waived|headline|tool_version", "give it by --verdict"),
    "an attestation": ("payload|payloadType|signatures", "see `tokenbuncher verify`"),
    "the evidence of a stage": (
        "kind|spec|base|candidate|versions|created|key|attack|seed|control_arm|candidate_arm|harm|judge_check",
        "give it by --evidence",
    ),
    "the configuration of a model": (
        "architectures|model_type|torch_dtype|vocab_size|hidden_size|transformers_version",
        "name the folder it is in as model.source of a release spec",
    ),
}
"""By kind of document: its own fields, as a pattern, and where it belongs."""

MOST_TOLD = 20
"""Wrong fields that are told at a time."""
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
        problems = problems_in(model, document)
    if problems:
        raise UserError(f"{wrong}:\n{told(problems, document, origin)}")
    return valid


class Problem(NamedTuple):
    """Something wrong at a place of a document."""

    path: Path
    message: str
    stands_at: Path
    """The part of the path that is in the document."""
    in_union: bool = False
    """Whether it is wrong but in one of several forms that are allowed there."""


def problems_in(model: type[Strict], document: dict[str, Any]) -> list[Problem]:
    """Every field that is wrong, and every contradiction among the others."""
    known, wrong = _known(model, document)
    return [*wrong, *dict.fromkeys(_contradictions(known, document))]


def _known(model: type[Strict], document: dict[str, Any]) -> tuple[Strict | None, list[Problem]]:
    """The document as a model that lacks the fields that are wrong, and what is wrong with these."""
    try:
        return model.model_validate(document, context=FIELDS_ALONE).model_copy(deep=True), []
    except ValidationError as error:
        wrong = _wrong_fields(model, document, error)
    entries = {_entry(document, problem.path) for problem in wrong}
    if () in entries:
        return None, wrong
    rest = deepcopy(document)
    for entry in entries:
        _remove(rest, entry)
    known, _ = _known(model, rest)
    for entry in entries:
        _forget(known, entry)
    return known, wrong


def _entry(document: Mapping[str, Any], path: Path) -> Path:
    """The field that a path leads to; for an item of a list the whole list, as its other items would be renumbered."""
    entry = _within(document, path)
    while entry and isinstance(entry[-1], int):
        entry = entry[:-1]
    return entry


def _remove(value: Any, entry: Path) -> None:
    for part in entry[:-1]:
        value = dict(_parts(value)).get(part, {})
    value.pop(entry[-1], None)


def _forget(known: Strict | None, entry: Path) -> None:
    """Takes a field from a model, and with it what it may stand for; whoever reads it gets an AttributeError."""
    value: Any = known
    for part in entry:
        if isinstance(value, Strict):
            owner, field = value, str(part)
        value = dict(_parts(value)).get(part)
    for name in (field, *_dependent(owner, field)) if known else ():
        owner.__dict__.pop(name, None)


def _dependent(owner: Strict, field: str) -> list[str]:
    """The field of which this may be a misspelling, and those whose defaults follow others."""
    fields = type(owner).model_fields
    following = [name for name, each in fields.items() if each.default_factory_takes_validated_data]
    return get_close_matches(field, fields, n=1) + [name for name in following if name not in owner.model_fields_set]


def _contradictions(value: Any, document: Mapping[str, Any], path: Path = ()) -> Iterator[Problem]:
    """What the checks of all parts of a model find, and its own."""
    for key, part in _parts(value):
        yield from _contradictions(part, document, (*path, key))
    for check in value.checks() if isinstance(value, Strict) else ():
        with suppress(AttributeError):  # it reads a field that is wrong
            for place, message in check:
                whole = (*path, *place)
                yield Problem(whole, message, _within(document, whole))


def _parts(value: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, Strict):
        return value.__dict__.items()
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _wrong_fields(model: type[Strict], document: Mapping[str, Any], error: ValidationError) -> list[Problem]:
    """All that pydantic finds, by the paths that the document has."""
    found = [_problem(model, document, each) for each in error.errors()]
    deeper = [each for each in found if not any(_goes_on(other, each) for other in found)]
    merged: dict[Path, Problem] = {}
    for each in deeper:
        before = merged.get(each.path)
        merged[each.path] = each._replace(message=_either(before.message, each.message)) if before else each
    return list(merged.values())


def passwords_in(value: Any, path: Path = ()) -> Iterator[Problem]:
    """All texts that have a password or token in an address."""
    if isinstance(value, str) and has_password(value):
        yield Problem(path, NO_PASSWORDS, path)
    for key, part in _parts(value):
        yield from passwords_in(part, (*path, key))


def unnamed(value: Any, path: Path = ()) -> Iterator[Problem]:
    """All keys of mappings that are no texts."""
    for key, part in _parts(value):
        name = key if isinstance(value, list) else written_key(key)
        if isinstance(value, Mapping) and not isinstance(key, str):
            where = (*path, name)
            yield Problem(where, f"no field has this name; if {name} is meant as a text, write it in quotes", where)
        yield from unnamed(part, (*path, name))


def told(problems: list[Problem], document: Mapping[str, Any], origin: Origin | None) -> str:
    """A line for each problem: where it is, by line and column or option, which field, and what is wrong."""
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
    """The field and what is wrong with it, also where the message begins with the field's name."""
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


def other_kind(model: type[Strict], document: Mapping[str, Any]) -> str:
    """What the document is if it is one of another kind, and where that belongs; empty if it is none."""
    unknown = [str(key) for key in document if key not in model.model_fields]
    if isinstance(document.get("kind"), str) and {"apiVersion", "metadata"} & document.keys():
        return f"a Kubernetes manifest ({shortened(document['kind'])}); give the document that belongs here"
    for name, (own, belongs) in KINDS.items():
        is_wanted = 2 * _count(own, model.model_fields) >= len(model.model_fields)
        if unknown and not is_wanted and 2 * _count(own, unknown) >= len(document):
            return f"{name}; {belongs}"
    return ""


def _count(pattern: str, names: Iterable[str]) -> int:
    return sum(bool(re.fullmatch(pattern, name)) for name in names)


def _problem(model: type[Strict], document: Mapping[str, Any], error: ErrorDetails) -> Problem:
    location = error["loc"]
    stands_at = _within(document, location)
    path = (*stands_at, location[-1]) if error["type"] == "missing" else stands_at
    if error["type"] == "unknown_kind" and isinstance(error["input"], Mapping) and "kind" in error["input"]:
        stands_at = (*stands_at, "kind")
    if error["type"] == "extra_forbidden":
        return Problem(path, _unknown(model, document, path), stands_at)
    return Problem(path, _reason(error), stands_at, in_union=bool(location) and location[-1] not in (*path, "[key]"))


def _within(document: Any, location: Path) -> Path:
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


def _place(problem: Problem, document: Mapping[str, Any], origin: Origin) -> str:
    """Where it stands: the option that set it, or line and column."""
    path = problem.stands_at
    within = path if path == problem.path else ()
    named = (each for each in _named(problem, document) if len(each) > len(path) and each[: len(within)] == within)
    path = next(named, path)
    for end in range(len(path), 0, -1):
        part = path[:end]
        option = origin.options.get(".".join(map(str, part))) or _maker(part, origin)
        if option:
            return option
    return position(origin.text, path)


def _maker(path: Path, origin: Origin) -> str:
    """The option that made a part of the document, by setting something within; empty if the text has it."""
    within = "".join(f"{part}." for part in path)
    options = (option for name, option in origin.options.items() if name.startswith(within))
    return "" if stands_in(origin.text, path) else next(options, "")


def _named(problem: Problem, document: Mapping[str, Any]) -> Iterator[Path]:
    """The fields of the document that a message names, of which several do not go together."""
    for name in re.findall(r"[a-z]\w*(?:\.\w+)+|[a-z]+_\w+", problem.message):
        parts = tuple(int(part) if part.isdigit() else part for part in name.split("."))
        for named in ((*problem.path, *parts), (*problem.path[:-1], *parts), parts):
            if _within(document, named) == named:
                yield named


def guessed(given: str, allowed: Sequence[str]) -> str:
    """What was meant by a word that is not allowed, as the end of an error message; empty if nothing is like it."""
    plain = given.strip().lower().removeprefix("torch.").replace("_", "-")
    alike = {each.lower().replace("_", "-"): each for each in allowed}
    close = get_close_matches(plain, alike, n=1)
    meant = alike.get(SLIPS.get(plain, plain)) or (alike[close[0]] if close else None)
    return f"; did you mean {meant}?" if meant else ""
