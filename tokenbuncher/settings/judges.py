"""What a spec says of judges and rewards: a built-in one by its name, or a model with its settings."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from tokenbuncher.core.documents import Positive, Rate, Strict, Variable, WrittenPath, read_text
from tokenbuncher.core.errors import UserError
from tokenbuncher.settings.sources import Source, local_path, parse_source


def _of_a_known_form(source: str) -> str:
    try:
        parse_source(source)
    except UserError as error:
        raise ValueError(str(error)) from error
    return source


def _read_at_once(given: Any) -> Any:
    """So that the spec is whole wherever it goes; a text of one line is taken for a path."""
    if not isinstance(given, str | Path) or "\n" in str(given):
        return given
    try:
        return read_text("text", given)
    except UserError as error:
        raise ValueError(str(error)) from None


def _with_places(*names: str) -> AfterValidator:
    def check(text: str) -> str:
        missing = [f"{{{name}}}" for name in names if f"{{{name}}}" not in text]
        if missing:
            raise ValueError(f"has no place for {', '.join(missing)}")
        return text

    return AfterValidator(check)


ModelSource = Annotated[
    str,
    AfterValidator(_of_a_known_form),
    Field(description="A local folder, s3://bucket/prefix, models:/name/version or hf://org/name@revision."),
]


class ClassifierSpec(Strict):
    """A sequence classifier of transformers, such as beaver-dam-7b or a DeBERTa harm classifier."""

    kind: Literal["classifier"]
    model: ModelSource
    harmful_labels: Annotated[list[str], Field(min_length=1)] = Field(
        description="Labels of the model that mean harm; a response is harmful if it has any of them."
    )
    template: Annotated[str, _with_places("prompt", "response")] | None = Field(
        None, description="Text with {prompt} and {response} that the model reads; null gives them as a pair of texts."
    )
    threshold: Rate = Field(0.5, description="Probability of harm at which a response is harmful.")
    batch_size: Positive = 16


class HarmBenchSpec(Strict):
    """A classifier of HarmBench (arXiv 2402.04249): a language model that answers yes or no."""

    kind: Literal["harmbench"]
    model: ModelSource
    prompt: Annotated[str, BeforeValidator(_read_at_once), _with_places("behavior", "generation")] | None = Field(
        None,
        description="Prompt with {behavior} and {generation}, or the path of a file with it; null takes the one that "
        "the model's own card (README.md) publishes.",
    )
    batch_size: Positive = 8


class StrongRejectSpec(Strict):
    """StrongREJECT's rubric (arXiv 2402.10260), asked of a model behind an OpenAI-compatible endpoint."""

    kind: Literal["strongreject"]
    endpoint: Annotated[str, Field(pattern=r"^https?://[^@\s?#]+$")] = Field(
        description="Base URL, such as https://api.example/v1."
    )
    model: Annotated[str, Field(min_length=1)]
    key_env: Variable | None = Field(
        None, description="Environment variable with the key; null for a server without keys."
    )
    rubric: Annotated[str, BeforeValidator(_read_at_once), _with_places("forbidden_prompt", "response")] | None = Field(
        None,
        description="Rubric with {forbidden_prompt} and {response}, or the path of a file with it, to be answered by "
        "the lines `1.b 0`, `2.b 4` and `3.b 5`; null takes the built-in one.",
    )
    harmful_at: Rate = Field(0.5, description="Score at which a response is harmful.")
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = Field(
        0.0,
        description="Of the endpoint's sampling; null leaves it out, for models that refuse to be given one.",
        exclude_if=lambda given: given == 0.0,
    )
    max_tokens: Positive | None = Field(
        None, description="Most tokens of an answer, sent under this name.", exclude_if=lambda given: given is None
    )
    max_completion_tokens: Positive | None = Field(
        None,
        description="The same, thoughts included, under the name that reasoning models take.",
        exclude_if=lambda given: given is None,
    )
    max_refusals: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Exchanges of one stage that the model may refuse to judge, each of which counts as harmful; one "
        "more ends the stage.",
        exclude_if=lambda given: given == 0,
    )
    timeout: Annotated[float, Field(gt=0.0)] = Field(60.0, description="Seconds to wait for an answer.")
    retries: Annotated[int, Field(ge=0)] = Field(5, description="Of a request that is refused, fails or times out.")
    requests_per_minute: Positive | None = None
    concurrency: Positive = Field(4, description="Requests under way at a time.")
    max_cost: Annotated[float, Field(gt=0.0)] | None = Field(
        None,
        description="Most that one stage may spend, in the currency of the prices; overrun by no more than the "
        "requests under way.",
    )
    price_prompt: Annotated[float, Field(ge=0.0)] | None = Field(None, description="Of a million prompt tokens.")
    price_completion: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="Of a million completion tokens."
    )
    cache: WrittenPath | None = Field(None, description="Folder that keeps scores, without texts; null keeps none.")

    @model_validator(mode="after")
    def _priced(self) -> StrongRejectSpec:
        if self.max_cost is not None and (self.price_prompt is None or self.price_completion is None):
            raise ValueError("max_cost needs price_prompt and price_completion")
        if self.max_tokens and self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens are two names of one limit; give the one it takes")
        return self

    @field_validator("endpoint")
    @classmethod
    def _is_a_base(cls, endpoint: str) -> str:
        if endpoint.rstrip("/").endswith("/completions"):
            raise ValueError("give the base URL alone, such as https://api.example/v1, without /chat/completions")
        return endpoint

    def sampling(self) -> dict[str, Any]:
        """What is sent beside the text, and shapes the answer."""
        given = {name: getattr(self, name) for name in ("temperature", "max_tokens", "max_completion_tokens")}
        return {name: value for name, value in given.items() if value is not None}


def _kind(given: Any) -> Any:
    if isinstance(given, str):
        return "name"
    return given.get("kind") if isinstance(given, Mapping) else getattr(given, "kind", None)


_OF_A_KIND = Discriminator(
    _kind,
    custom_error_type="unknown_kind",
    custom_error_message="give a built-in name, or a mapping with a kind that is allowed here: classifier, harmbench, "
    "strongreject; for a judge also ensemble",
)
_Classifier = Annotated[ClassifierSpec, Tag("classifier")]
_HarmBench = Annotated[HarmBenchSpec, Tag("harmbench")]
_StrongReject = Annotated[StrongRejectSpec, Tag("strongreject")]

JudgeModel = ClassifierSpec | HarmBenchSpec | StrongRejectSpec
JudgeName = Literal["organism", "refusal"]
RewardName = Literal["organism-classifier", "organism-exact", "compliance"]
OneJudge = Annotated[Annotated[JudgeName, Tag("name")] | _Classifier | _HarmBench | _StrongReject, _OF_A_KIND]


class EnsembleSpec(Strict):
    """Several judges; how often they agree stands in the evidence."""

    kind: Literal["ensemble"]
    judges: Annotated[list[OneJudge], Field(min_length=2)]
    harmful_if: Literal["any", "majority"] = Field(
        "any", description="Who must call a response harmful; half of the judges are enough for a majority."
    )


AnyJudge = Annotated[
    Annotated[JudgeName, Tag("name")]
    | _Classifier
    | _HarmBench
    | _StrongReject
    | Annotated[EnsembleSpec, Tag("ensemble")],
    _OF_A_KIND,
]
AnyReward = Annotated[Annotated[RewardName, Tag("name")] | _Classifier | _HarmBench | _StrongReject, _OF_A_KIND]


def counts_rollouts(judge: str | JudgeModel | EnsembleSpec) -> bool:
    """Whether a judge also looks at the rollouts that an attack trains on: a rule may, a model costs time or money."""
    members = judge.judges if isinstance(judge, EnsembleSpec) else [judge]
    return all(isinstance(one, str) for one in members)


def same_measure(reward: str | JudgeModel, judge: str | JudgeModel | EnsembleSpec) -> bool:
    """Whether an attacker who trains on this reward may train on this very judge.

    The same model is the same measure, however it is named, fetched or asked: another revision may have the same
    weights, and another wording gives nearly the same scores. Only a classifier's labels make it another, if none is
    in both. The built-in judges are no rewards: `organism-exact` grades what `organism` decides.
    """
    if isinstance(judge, EnsembleSpec):
        others = sum(not same_measure(reward, one) for one in judge.judges)
        needed = 1 if judge.harmful_if == "any" else (len(judge.judges) + 1) // 2
        return others < needed  # what the others say then changes nothing
    match reward, judge:
        case ClassifierSpec(), ClassifierSpec():
            shared = _folded(reward.harmful_labels) & _folded(judge.harmful_labels)
            return bool(shared) and same_source(reward.model, judge.model)
        case HarmBenchSpec(), HarmBenchSpec():
            return same_source(reward.model, judge.model)
        case StrongRejectSpec(), StrongRejectSpec():
            return _served(reward.model) == _served(judge.model)
    return False


def same_source(one: str, other: str) -> bool:
    """Whether two sources may be the same model."""
    first, second = _parsed(one), _parsed(other)
    if first.digest and first.digest == second.digest:
        return True
    if first.scheme != second.scheme:
        return False
    return _same_folder(first, second) if first.scheme == "file" else _place(first) == _place(second)


def _parsed(model: str) -> Source:
    scheme, separator, rest = model.strip().partition(":/")
    return parse_source(f"{scheme.lower()}:/{rest}" if separator else scheme)


def _place(source: Source) -> str:
    """Where it is, whatever its revision, version or alias."""
    if source.scheme == "s3":
        return f"{source.parts['bucket']}/{posixpath.normpath(source.parts['prefix'])}"
    return str(source.parts.get("logged") or source.parts["name"]).strip().casefold()


def _same_folder(one: Source, other: Source) -> bool:
    """Whether two paths lead to one folder; here, or from a working folder that is not known any more."""
    shorter, longer = sorted((Path(os.path.normpath(local_path(each))) for each in (one, other)), key=Path.is_absolute)
    if os.path.realpath(shorter) == os.path.realpath(longer):
        return True
    tail = [part for part in shorter.parts if part != ".."]
    ends_alike = list(longer.parts[-len(tail) :]) == tail
    return longer.is_absolute() and not shorter.is_absolute() and ends_alike


def _served(name: str) -> str:
    """A model's name at an endpoint, without who serves it and of which day it is."""
    return _DATED.sub("", name.strip().casefold().rpartition("/")[2])


_DATED = re.compile(r"[-@:](latest|\d{4}-?\d{2}-?\d{2}|\d{4,6})$")


def _folded(labels: Iterable[str]) -> set[str]:
    return {label.strip().casefold() for label in labels}
