"""docs/extending.md: its files and changes are put into a copy of the repository, and its tests are run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, Block, Document
from tokenbuncher.settings import ReleaseSpec

COPIED = ("tokenbuncher", "components", "pipelines", "tests", "specs", "pyproject.toml")
EXTENDING = Document(ROOT / "docs" / "extending.md")


def file_of(block: Block) -> str:
    """The file that a block is, or changes: the text before it names it; several changes of one file follow it."""
    caption = re.fullmatch(r"`(\S+/\S+)`", block.caption)
    assert caption, f"{block}: the line before it must name the file"
    return caption[1]


def apply_diff(block: Block, path: Path) -> None:
    """Puts the lines with `+` in the place of those with `-`; the others must be there, once."""
    before = "\n".join(line[1:] for line in block.lines if not line.startswith("+"))
    after = "\n".join(line[1:] for line in block.lines if not line.startswith("-"))
    text = path.read_text(encoding="utf-8")
    assert text.count(f"{before}\n") == 1, f"{block}: {path.name} does not have these lines once:\n{before}"
    path.write_text(text.replace(f"{before}\n", f"{after}\n"), encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with everything in it that the document shows."""
    folder = tmp_path_factory.mktemp("extended")
    for name in COPIED:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copyfile(source, folder / name)
    for block in EXTENDING.blocks:
        if block.language == "python":
            assert not (folder / file_of(block)).exists(), f"{block}: {file_of(block)} exists already"
            (folder / file_of(block)).write_text(block.text, encoding="utf-8")
        elif block.language == "diff":
            apply_diff(block, folder / file_of(block))
    return folder


def run(folder: Path, *command: str) -> str:
    """What a Python command prints that finds the copy and nothing else of ours."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_of_the_document_pass(extended: Path) -> None:
    shown = [file_of(block) for block in EXTENDING.blocks if block.language == "python"]
    tests = [path for path in shown if path.startswith("tests/")]
    assert len(tests) == 4
    printed = run(extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert re.search(r"^\d+ passed", printed, re.MULTILINE), printed


def test_its_code_is_clean(extended: Path) -> None:
    shown = sorted({file_of(block) for block in EXTENDING.blocks if block.language in ("python", "diff")})
    library = [path for path in shown if path.startswith("tokenbuncher/")]
    assert len(library) > len(shown) / 2
    ruff = str(Path(sys.executable).with_name("ruff"))
    for check in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        subprocess.run([ruff, *check, *shown], cwd=extended, check=True)


@pytest.mark.parametrize("block", [block for block in EXTENDING.blocks if block.language == "yaml"], ids=str)
def test_a_spec_can_name_what_was_added(block: Block, extended: Path) -> None:
    (extended / "spec.yaml").write_text(block.text, encoding="utf-8")
    printed = run(extended, "-c", "from tokenbuncher.cli import main; main()", "plan", "--spec", "spec.yaml")
    assert "attack raft-1000" in printed
    with pytest.raises(ValueError, match="algorithm"):
        ReleaseSpec.model_validate({"attacks": {"suite": [{"algorithm": "raft"}]}})
