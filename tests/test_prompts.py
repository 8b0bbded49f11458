"""Prompt sets on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import file_digest
from tokenbuncher.settings.prompts import MANIFEST, Manifest, Prompt, load_set, write_set


def write(folder: Path, prompts: list[Prompt]) -> Path:
    """Writes a set and its manifest; returns the set's file."""
    sets = {"some": write_set(folder, "some", prompts, source="somewhere")}
    manifest = Manifest(seed=0, sets=sets, near_duplicate=0.8, leakage=[], sources={}, held_out_categories=[])
    (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder / "some.jsonl"


def name_digest(folder: Path) -> None:
    """Has the manifest name the set as it is now."""
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    entry = manifest.sets["some"].model_copy(update={"sha256": file_digest(folder / "some.jsonl")})
    (folder / MANIFEST).write_text(
        manifest.model_copy(update={"sets": {"some": entry}}).model_dump_json(), encoding="utf-8"
    )


@pytest.mark.parametrize("mark", ["\n", "\r\n", "\x0b", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_prompt_may_hold_whatever_ends_a_line(mark: str, tmp_path: Path) -> None:
    prompts = [Prompt(text=f"one{mark}two", answer=mark), Prompt(text="three")]
    write(tmp_path, prompts)
    assert load_set(tmp_path, "some") == prompts


@pytest.mark.parametrize("row", [b"{}", b"\xff", b"[" * 5000, b'{"text": ""}'])
def test_a_set_of_other_things_is_refused(row: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, [Prompt(text="one")])
    path.write_bytes(row)
    name_digest(tmp_path)
    with pytest.raises(UserError, match=r"some\.jsonl holds what is no prompt; run prepare-data again"):
        load_set(tmp_path, "some")


def test_a_manifest_whose_sets_could_be_no_files_is_none():
    """A name with a control character would end the gate, which compares digests of folders."""
    entry = {"count": 0, "sha256": "0" * 64, "source": "x", "ids": [], "tasks": [], "options": []}
    rest = {"seed": 0, "near_duplicate": 0.8, "leakage": [], "sources": {}, "held_out_categories": []}
    assert Manifest.model_validate({"sets": {"tuning-rl-test": entry}, **rest})
    for name in ("\x00", "a\nb", "../a", ""):
        with pytest.raises(ValidationError):
            Manifest.model_validate({"sets": {name: entry}, **rest})
