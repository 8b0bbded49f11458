"""A workshop: a folder that looks like the repository after a run, in which commands of the documents are run."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, Document
from tests.evidence_factory import passing_release
from tokenbuncher.attestation import generate_key, load_private_key
from tokenbuncher.gate import gate
from tokenbuncher.registry import promote, register
from tokenbuncher.settings import load_spec

LINKED = (
    *("Makefile", "README.md", "pyproject.toml", "constraints.txt"),
    *("benchmarks", "components", "docs", "examples", "images", "manifests", "pipelines", "specs", "tests"),
    "tokenbuncher",
)
# Files that a reader has and the repository does not; by name, what is in them.
OWN = {"token": "a-token\n"}
BEFORE, RECORDED = "runs/before", "runs/organism"
KEPT = (RECORDED, "keys")
"""What each test finds as it was. The registry's database stays: it is in use."""
WRITTEN = ("verdict", "build", "work", "candidate", "model", "my-model")


@pytest.fixture(scope="session")
def built_workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workshop, with two versions of the organism promoted one after the other."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "policies").symlink_to(ROOT / "specs" / "policies")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, text in OWN.items():
            Path(name).write_text(text, encoding="utf-8")
        Path("guard.yaml").write_text(guard_settings(), encoding="utf-8")
        generate_key(Path("keys/release.pem"))
        for run in (BEFORE, RECORDED):
            record_release(Path(run))
        for name in KEPT:
            shutil.copytree(name, f"kept/{name}")
    return folder


def record_release(run: Path) -> None:
    """A release that passes, as `run-local` leaves it: the evidence is made up, all that follows from it is real."""
    spec = load_spec("specs/organism.yaml")
    candidate, artifacts = Path("candidate"), run / "artifacts"
    for folder in (candidate, artifacts):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    (candidate / "model.safetensors").write_text(f"the weights of {run}", encoding="utf-8")
    registration = register(spec, candidate, artifacts / "registration")
    release = replace(passing_release(spec).about(registration.digest), registration=registration)
    release.write(artifacts)
    (run / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    gate(spec, [artifacts], artifacts, out=Path("verdict"), signer=load_private_key(Path("keys/release.pem")))
    promote(spec, [artifacts], artifacts, verdict=Path("verdict"))
    for path in Path("verdict").iterdir():
        shutil.move(path, run / path.name)


def guard_settings() -> str:
    """The guard's settings as docs/guard.md shows them."""
    [block] = [b for b in Document(ROOT / "docs" / "guard.md").blocks if b.language == "yaml" and "aliases:" in b.text]
    return block.text


@pytest.fixture
def workshop(built_workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workshop as it was built, as the working folder, with the commands of this environment."""
    for name in (*KEPT, *WRITTEN):
        shutil.rmtree(built_workshop / name, ignore_errors=True)
    (built_workshop / "release.yaml").unlink(missing_ok=True)
    for name in KEPT:
        shutil.copytree(built_workshop / "kept" / name, built_workshop / name)
    monkeypatch.chdir(built_workshop)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith(("TOKENBUNCHER_", "MLFLOW_", "AWS_"))]:
        monkeypatch.delenv(name)
    return built_workshop
