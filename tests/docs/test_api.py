"""docs/api.md and the package: its examples run, its names resolve, and importing it loads nothing large."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import tokenbuncher
from tests.docs.markdown import ROOT
from tests.docs.test_tables import named
from tokenbuncher.settings import ReleaseSpec

LARGE = {"torch", "transformers", "trl", "mlflow", "kfp", "scipy", "pydantic"}
JUDGE, VERIFY, STAGES = (
    dedent(block)
    for block in re.findall(r"(?:^(?:    .*)?\n)+", tokenbuncher.__doc__ or "", re.MULTILINE)
    if block.strip()
)


def printed(code: str) -> list[str]:
    """The lines that Python prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_example_that_judges_a_release(workshop: Path) -> None:
    loaded = "\nimport sys; print(sorted({'torch', 'mlflow', 'kfp'} & sys.modules.keys()))"
    assert printed(JUDGE + loaded) == ["PASS", "[]"]


def test_the_example_that_verifies_a_model(workshop: Path) -> None:
    assert printed(VERIFY)[-1] == "verified"
    assert (workshop / "model" / "model.safetensors").is_file()


def test_the_example_that_runs_stages(
    tiny_spec: ReleaseSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "release.yaml").write_text(tiny_spec.to_yaml(), encoding="utf-8")
    exec(STAGES, {})
    assert re.fullmatch(r"harmful: \d+", capsys.readouterr().out.splitlines()[-1])


def test_importing_the_package_loads_nothing_large() -> None:
    assert printed(f"import sys, tokenbuncher; print({LARGE} & sys.modules.keys())") == ["set()"]


def test_every_name_is_listed_and_can_be_imported() -> None:
    assert set(named("api.md", "name")) == {*tokenbuncher.__all__}
    [text] = printed("from tokenbuncher import *; print(run_gate.__module__, Outcome.BLOCK)")
    assert text == "tokenbuncher.gate.gate BLOCK"
    for name in tokenbuncher.__all__:
        assert getattr(tokenbuncher, name)
    assert set(tokenbuncher.__all__) <= set(dir(tokenbuncher))


def test_type_checkers_see_what_is_loaded() -> None:
    tree = ast.parse(Path(tokenbuncher.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    seen = {alias.asname or alias.name: f"{node.module}:{alias.name}" for node in imports for alias in node.names}
    assert tokenbuncher._HOMES.items() <= seen.items()
    assert {*tokenbuncher._HOMES, "__version__"} == set(tokenbuncher.__all__)


def test_no_name_is_also_that_of_a_package() -> None:
    """What such a name gave would depend on what was imported before."""
    packages = {path.parent.name for path in ROOT.glob("tokenbuncher/*/__init__.py")}
    assert not packages & set(tokenbuncher.__all__)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'tokenbuncher' has no attribute 'defand'"):
        _ = tokenbuncher.defand
