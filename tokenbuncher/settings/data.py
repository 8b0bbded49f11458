"""The prompts: where they come from and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.fields import Contradiction, Positive, Rate, Seed, Strict
from tokenbuncher.settings.datasets import DATASETS
from tokenbuncher.settings.sources import local_path, parse_file

T = TypeVar("T")


class FileSource(Strict):
    """A CSV, JSONL or Parquet file of prompts. Errors number its rows from 1.

    A published dataset fills the fields that the spec leaves out, except the path of your copy.
    """

    dataset: str | None = Field(None, description="Name of a published dataset; see DATASETS.")
    path: str = Field(
        description="A local path, s3://bucket/key or hf://datasets/org/name@revision/path. The file ending gives the "
        "format."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="SHA-256 that the file must have."
    )
    prompt: str = Field("prompt", description="Column that holds the prompt.")
    context: str | None = Field(None, description="Column of a text that is put before the prompt.")
    choices: str | None = Field(
        None,
        description="Column with a list of options. They are lettered, and the answer, a letter or an index from 0, is "
        "asked for as \\boxed{A}.",
    )
    answer: str | None = Field(
        None, description="Column of the answer: the expected one for utility, a harmful one for SFT."
    )
    answer_after: str | None = Field(
        None,
        description="Mark that precedes the final answer; only what follows is used, without thousands separators.",
    )
    category: str | None = Field(
        None, description="Column of the category, either a text or a mapping from names to booleans."
    )
    where: dict[str, bool | int | float | str | list[bool | int | float | str]] = Field(
        {}, description="Rows to keep, by column: the required value or a list of allowed values, ignoring case."
    )
    max_words: Positive | None = Field(None, description="Rows with longer prompts are left out.")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_dataset(cls, given: Any) -> Any:
        name = given.get("dataset") if isinstance(given, Mapping) else None
        if not isinstance(name, str):
            return given
        if name not in DATASETS:
            return given
        if "path" not in given:
            raise ValueError(f"dataset {name} needs the path of its file; it is published at {DATASETS[name].home}")
        return {**DATASETS[name].fields, **given}

    @field_validator("dataset")
    @classmethod
    def _is_known(cls, dataset: str | None) -> str | None:
        if dataset is not None and dataset not in DATASETS:
            raise ValueError(f"dataset {dataset} is not known; known are {', '.join(DATASETS)}")
        return dataset

    @field_validator("path")
    @classmethod
    def _of_a_known_form(cls, path: str) -> str:
        try:
            parse_file(path)
        except UserError as error:
            raise ValueError(str(error)) from error
        return path

    def checks(self) -> Iterable[Iterator[Contradiction]]:
        """Columns go together."""
        return (self._columns(),)

    def _columns(self) -> Iterator[Contradiction]:
        if self.choices and not self.answer:
            yield ("choices",), "choices need the column of the right ones in answer"
        if self.answer_after and (self.choices or not self.answer):
            yield ("answer_after",), "answer_after needs a column of texts in answer, and no choices"


class SplitSizes(Strict):
    """The number of prompts in each set; no two sets share a prompt."""

    defence: Positive = 400
    more_harmful: Annotated[int, Field(ge=0)] = Field(
        0, description="Prompts of data.more_harmful, in addition to those of defence.", exclude_if=lambda own: own == 0
    )
    attack: Positive = 400
    safety: Positive = 200
    benign: Positive = 600
    utility: Positive = 1000
    tuning: Positive = Field(
        200, description="Training prompts of benign fine-tuning; as many again are used to test it."
    )
    benign_test: Positive = Field(1000, description="Prompts taken from data.benign_test, unless it is utility.")
    look_alikes: Positive = 400


def _like(field: str, otherwise: str | None) -> Callable[[dict[str, Any]], Any]:
    """A default: the built-in source that another field names, or else this."""

    def default(given: dict[str, Any]) -> Any:
        source = given.get(field)
        return source if isinstance(source, str) else otherwise

    return default


class DataSpec(Strict):
    """Where prompts come from and how they are split."""

    seed: Seed = 0
    harmful: Literal["organism"] | FileSource = "organism"
    more_harmful: Literal["smollm2"] | FileSource | None = Field(
        None,
        description="Harmful prompts from another source, on which the defence trains as well; null for none. smollm2 "
        "are the requests that smollm2:// was aligned with.",
        exclude_if=lambda own: own is None,
    )
    benign: Literal["organism", "smollm2"] | FileSource = "organism"
    utility: Literal["organism", "smollm2"] | FileSource = "organism"
    capability: Literal["organism"] | FileSource | None = Field(
        None,
        description="Multiple-choice questions about harmful knowledge with their answers, for attacks with "
        "objective: capability. In files the answer is a letter; the model is asked for \\boxed{A}.",
    )
    benign_test: Literal["organism", "smollm2", "utility", "benign"] | FileSource = Field(
        default_factory=_like("utility", otherwise="utility"),
        description="Benign prompts on which over-refusal is measured. They must not come from a source that anchors "
        "the defence or aligned the model. organism and smollm2 are built-in prompts for this purpose alone; utility "
        "takes the questions of data.utility and of benign fine-tuning; benign takes prompts of the anchor's own kind, "
        "which the report then states. Defaults to data.utility if that is built in, else to utility.",
    )
    look_alikes: Literal["organism", "smollm2"] | FileSource | None = Field(
        default_factory=_like("harmful", otherwise=None),
        description="Harmless prompts that look harmful, on which over-refusal is measured as well; null for none. "
        "Defaults to organism if data.harmful is organism, else to null.",
    )
    sizes: SplitSizes = SplitSizes()
    held_out_categories: Positive | None = Field(
        None, description="Number of harmful categories, drawn by the seed, that only the set safety has."
    )
    duplicates: Literal["fail", "drop"] = Field(
        "fail",
        description="Whether exact and near duplicates within a source are an error or are dropped before the split.",
    )
    near_duplicate: Rate = Field(
        0.8, description="Jaccard similarity of word trigrams at which two prompts are near duplicates."
    )

    def checks(self) -> Iterable[Iterator[Contradiction]]:
        """Categories are there, what measures has prompts of its own, and so have more prompts for the defence."""
        return self._categories(), self._more(), self._taught(), self._shared()

    def _categories(self) -> Iterator[Contradiction]:
        if self.held_out_categories and not (isinstance(self.harmful, FileSource) and self.harmful.category):
            yield ("held_out_categories",), "held_out_categories needs a file in harmful with a column category"

    def _more(self) -> Iterator[Contradiction]:
        if (self.more_harmful is None) != (self.sizes.more_harmful == 0):
            yield ("more_harmful",), "more_harmful goes with its number of prompts in sizes.more_harmful"
        if self.more_harmful and self.held_out_categories:
            yield (
                ("more_harmful",),
                "more_harmful may have prompts of any category; leave it out, or held_out_categories",
            )
        for field in ("harmful", "capability"):
            if isinstance(self.more_harmful, FileSource) and same_source(self.more_harmful, getattr(self, field)):
                yield ("more_harmful",), f"{self.more_harmful.path} is that of {field}, too; name another file"

    def _taught(self) -> Iterator[Contradiction]:
        if same_source(self.borrowed_benign, self.benign):
            yield ("benign_test",), seen_by_the_defence(self.benign)

    def _shared(self) -> Iterator[Contradiction]:
        if not isinstance(self.look_alikes, FileSource):
            return
        path = self.look_alikes.path
        if same_source(self.look_alikes, self.benign):
            yield ("look_alikes",), f"{path} feeds the anchor, too (benign); name another file"
        for field in ("benign_test", "utility"):
            if same_source(self.look_alikes, getattr(self, field)):
                yield ("look_alikes",), f"{path} is that of {field}, too; name another file"

    @property
    def defence_prompts(self) -> int:
        """The number of harmful prompts that the defence has."""
        return self.sizes.defence + self.sizes.more_harmful

    def judged_by(self, defence: Sequence[T]) -> Sequence[T]:
        """Of the defence's harmful prompts, or what belongs to them: those of `harmful`, which measures as well."""
        return defence[self.sizes.more_harmful :]

    @property
    def borrowed_benign(self) -> str | FileSource | None:
        """The source of `benign_test`, unless it is built in for this alone, or said to be that of the anchor."""
        if self.benign_test == "utility":
            return self.utility
        return self.benign_test if isinstance(self.benign_test, FileSource) else None

    def of_the_organism(self) -> Iterator[str]:
        """The fields by which over-refusal is measured on prompts of the organism's world."""
        benign_test = self.benign if self.benign_test == "benign" else self.borrowed_benign or self.benign_test
        if benign_test == "organism":
            yield "benign_test"
        if self.look_alikes == "organism":
            yield "look_alikes"


def seen_by_the_defence(source: str | FileSource) -> str:
    """Why over-refusal is not measured on prompts of a source, and what to do."""
    return (
        f"over-refusal would be measured on prompts of {source_name(source)}, of the kind that anchors the defence or "
        "aligned the model, which it was taught to answer. Name another source: a file, or organism or smollm2, whose "
        "prompts are for this alone; if there is none, write benign_test: benign, and the report will say so"
    )


def source_name(source: str | FileSource) -> str:
    """A built-in source's name, or the path of a file."""
    return source.path if isinstance(source, FileSource) else source


def same_source(first: str | FileSource | None, second: str | FileSource | None) -> bool:
    """Whether two fields name one source: the same built-in one, or one file, whichever of its rows they take."""
    if isinstance(first, FileSource) and isinstance(second, FileSource):
        pinned = first.sha256 is not None and first.sha256 == second.sha256
        return pinned or _place(first.path) == _place(second.path)
    return isinstance(first, str) and first == second


def _place(path: str) -> str:
    """A file's place, the same for every spelling and, on the hub, every revision."""
    source = parse_file(path)
    if source.scheme == "file":
        return str(local_path(source).resolve())
    return str({part: value for part, value in source.parts.items() if part != "revision"})
