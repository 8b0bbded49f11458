"""Prompt sets on disk: JSONL files under a manifest that names them by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import file_digest, listing_digest, write_text

MANIFEST = "manifest.json"


class Prompt(BaseModel):
    """One prompt.

    `answer` is the expected answer (utility, tuning) or the harmful one (attack), where there is one.
    `group` names what the prompt is about, whatever its wording; sets share no group. `options` counts those of a
    multiple-choice question, of which chance gets one right in so many.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[str, Field(min_length=1)]
    answer: str | None = None
    task: str = ""
    group: str = ""
    options: Annotated[int, Field(ge=2)] | None = None

    @property
    def id(self) -> str:
        """sha256 of the text, 16 hex digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as a conversation of one user turn."""
        return [{"role": "user", "content": self.text}]


class SetEntry(BaseModel):
    """A prompt set in the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int
    sha256: str
    source: str
    ids: list[str] = Field(description="Identifiers of its prompts, in order. Evidence refers to no others.")
    tasks: list[str] = Field(description="The task of each prompt.")
    options: list[int | None] = Field(
        description="Number of options of each multiple-choice question; null for a question with a free answer."
    )


class SourceEntry(BaseModel):
    """A file of prompts in the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    location: str
    sha256: str
    rows: int = Field(description="Rows of the file.")
    dropped: int = Field(description="Rows that were dropped as duplicates.")
    kept: int = Field(description="Rows that became prompts; the others were filtered out.")


class Manifest(BaseModel):
    """What prepare-data wrote and checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    sets: dict[Annotated[str, Field(pattern=r"^[a-z][a-z-]*$")], SetEntry]
    near_duplicate: float
    leakage: list[str] = Field(description="Leaks found between sets; empty, or the stage has failed.")
    sources: dict[str, SourceEntry] = Field(description="Files that were read, by the field of data that names each.")
    held_out_categories: list[str] = Field(description="Categories of safety that no other set may have.")

    def text(self) -> str:
        """The file that it is written to."""
        return self.model_dump_json(indent=1) + "\n"

    def folder_digest(self) -> str:
        """sha256 of the folder with this manifest and its sets, as `files.folder_digest` gives it."""
        sets = {f"{name}.jsonl": entry.sha256 for name, entry in self.sets.items()}
        return listing_digest({**sets, MANIFEST: hashlib.sha256(self.text().encode()).hexdigest()})


def write_set(folder: Path, name: str, prompts: Sequence[Prompt], *, source: str) -> SetEntry:
    """Writes NAME.jsonl and returns its manifest entry."""
    path = folder / f"{name}.jsonl"
    write_text(path, "".join(prompt.model_dump_json() + "\n" for prompt in prompts))
    return SetEntry(
        count=len(prompts),
        sha256=file_digest(path),
        source=source,
        ids=[prompt.id for prompt in prompts],
        tasks=[prompt.task for prompt in prompts],
        options=[prompt.options for prompt in prompts],
    )


def load_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a folder of prompt sets.

    Raises:
        UserError: If it is not there or not valid.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise UserError(f"{folder} is not a prepared data folder: {error}; run prepare-data first") from error
    except ValidationError as error:
        raise UserError(f"{folder / MANIFEST} is not valid: {error.errors()[0]['msg']}") from error


def load_set(folder: Path, name: str) -> list[Prompt]:
    """Reads one prompt set and checks it against the manifest.

    Raises:
        UserError: If the set is not there, was changed since prepare-data, or is not valid.
    """
    manifest = load_manifest(folder)
    path = folder / f"{name}.jsonl"
    if name not in manifest.sets or not path.is_file():
        raise UserError(f"{folder} has no prompt set '{name}'; it has {', '.join(manifest.sets)}")
    if file_digest(path) != manifest.sets[name].sha256:
        raise UserError(f"{path} was changed after prepare-data wrote it; run prepare-data again")
    try:
        with path.open(encoding="utf-8") as rows:
            return [Prompt.model_validate_json(row) for row in rows]
    except (UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"{path} holds what is no prompt; run prepare-data again") from error
