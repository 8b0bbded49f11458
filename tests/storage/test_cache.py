"""What lies in the cache: found whole, or not at all."""

from __future__ import annotations

from pathlib import Path

from tokenbuncher.storage import cached, forget, in_cache


def made(folder: Path) -> None:
    folder.mkdir()
    (folder / "file").write_text("content", encoding="utf-8")


def test_a_folder_is_found_until_it_is_forgotten(tmp_path: Path) -> None:
    assert in_cache(tmp_path / "cache", "one") is None
    folder = cached(tmp_path / "cache", "one", made)
    cached(tmp_path / "cache", "other", made)

    assert in_cache(tmp_path / "cache", "one") == folder
    assert (folder / "file").read_text(encoding="utf-8") == "content"
    forget(tmp_path / "cache", "one")
    assert in_cache(tmp_path / "cache", "one") is None
    assert in_cache(tmp_path / "cache", "other") is not None


def test_a_folder_that_was_changed_is_not_found_and_made_anew(tmp_path: Path) -> None:
    folder = cached(tmp_path, "one", made)
    (folder / "file").write_text("Content", encoding="utf-8")

    assert in_cache(tmp_path, "one") is None
    assert (cached(tmp_path, "one", made) / "file").read_text(encoding="utf-8") == "content"


def test_what_is_not_there_can_be_forgotten(tmp_path: Path) -> None:
    forget(tmp_path / "cache", "one")
