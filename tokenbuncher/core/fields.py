"""What the models of documents are made of: their base class, and the types of fields that several share."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Self, TypeAlias, get_args

import pydantic
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from tokenbuncher.core.documents import refuse_tilde
from tokenbuncher.core.errors import UserError

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


def _without_tilde(path: pathlib.Path) -> pathlib.Path:
    try:
        refuse_tilde(path)
    except UserError as error:
        raise ValueError(str(error)) from None
    return path


WrittenPath = Annotated[pathlib.Path, pydantic.Strict(False), AfterValidator(_without_tilde)]
"""A path; documents have it as text."""


def _written_out(given: Any) -> Any:
    """A number would be taken for the seconds since 1970."""
    if isinstance(given, datetime) or (isinstance(given, str) and re.match(r"\d{4}-\d\d-\d\d", given)):
        return given
    raise ValueError("write it out, such as 2027-01-31T00:00:00Z")


WrittenMoment = Annotated[AwareDatetime, pydantic.Strict(False), BeforeValidator(_written_out)]
"""A date and time with its zone; documents have it as text."""


Path = tuple[str | int, ...]
"""The keys and numbers that lead from a document or a model to one of its values."""
Contradiction: TypeAlias = tuple[Path, str]
"""The field that is to be changed, by its path from the model, and why it does not go with the others."""
FIELDS_ALONE = object()
"""Context of a validation that leaves contradictions out."""


class Strict(BaseModel):
    """Base of every part of a document: immutable, no unknown keys, no NaN or infinity.

    Numbers are numbers: a truth value or a text in the place of one is refused, not converted. Fields that contradict
    each other are all refused at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    def checks(self) -> Iterable[Iterator[Contradiction]]:
        """What is compared across fields. Each check yields the contradictions that it finds."""
        return ()

    @model_validator(mode="after")
    def _without_contradictions(self, info: ValidationInfo) -> Self:
        checks = () if info.context is FIELDS_ALONE else self.checks()
        errors = [
            InitErrorDetails(
                type=PydanticCustomError("contradiction", "{message}", {"message": message}), loc=path, input=self
            )
            for check in checks
            for path, message in check
        ]
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self


def is_kind(model: type[Strict], value: Any) -> bool:
    """Whether a value has the `kind` of a model."""
    field = model.model_fields.get("kind")
    return field is not None and isinstance(value, Mapping) and value.get("kind") in get_args(field.annotation)


def models_of(annotation: Any) -> list[type[Strict]]:
    """The models that a field may hold, also in a union, list or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_of(part)]
