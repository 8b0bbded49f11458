"""The sdist and the wheel, built as `python -m build` does, install and run in environments with nothing else.

An environment has what the package requires and no more: no torch, MLflow or kfp.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from tests.evidence_factory import passing_release
from tokenbuncher import __version__

ROOT = Path(__file__).parents[1]
SOURCES = ("tokenbuncher", "components", "pipelines", "docs", "specs", "tests")
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
BACKEND = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


class Built(NamedTuple):
    """What was built."""

    sdist: Path
    wheel: Path


class Environment(NamedTuple):
    """An environment with the package."""

    bin: Path
    packages: Path
    home: Path

    def run(self, *command: str | Path, status: int = 0) -> str:
        """What a command prints; it must end with that status."""
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.home)}
        done = subprocess.run(
            command, cwd=self.home, env=environment, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist of a copy of the sources, and the wheel of what is in the sdist."""
    if int(metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77 in this environment, to build without the network")
    folder = tmp_path_factory.mktemp("build")
    source, dist = folder / "source", folder / "dist"
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*FILES, "constraints.txt"):
        shutil.copy(ROOT / name, source)
    sdist = dist / _build("build_sdist", source, dist)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    wheel = dist / _build("build_wheel", folder / "unpacked" / sdist.name.removesuffix(".tar.gz"), dist)
    return Built(sdist, wheel)


def _build(what: str, source: Path, dist: Path) -> str:
    command = [sys.executable, "-c", BACKEND, what, str(dist)]
    done = subprocess.run(command, cwd=source, env=_plain(), capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="session", params=["wheel", "sdist"])
def installed(request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A new environment, with links to what the package requires."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    packages = folder / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    build_needs = ["setuptools"] if request.param == "sdist" else []
    for name in {*_required("tokenbuncher"), *build_needs}:
        _link(name, packages)
    (folder / "home").mkdir()
    environment = Environment(folder / "venv" / "bin", packages, folder / "home")
    pip = [sys.executable, "-m", "pip", "--python", environment.bin / "python", "--disable-pip-version-check"]
    install = ["install", "-q", "--no-index", "--no-deps", "--no-build-isolation", getattr(built, request.param)]
    subprocess.run([*pip, *install], check=True, cwd=folder, env={**_plain(), "PIP_NO_CACHE_DIR": "1"})
    return environment


def _plain() -> dict[str, str]:
    """The environment, in which Python finds what is installed and nothing else."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _required(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """Packages that a package needs, and those need."""
    found = set()
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            found |= {requirement.name, *_required(requirement.name, frozenset(requirement.extras))}
    return found


def _link(name: str, packages: Path) -> None:
    distribution = metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
        (packages / top).symlink_to(str(distribution.locate_file(top)))


def test_the_command_answers(installed: Environment) -> None:
    assert "run-local" in installed.run("tokenbuncher", "--help")
    assert json.loads(installed.run("tokenbuncher", "schema"))["title"] == "ReleaseSpec"


def test_all_files_came_along(installed: Environment) -> None:
    """Weights, tokenizer, templates and JSON lines too; READMEs and metadata of components."""
    for room in ("tokenbuncher", "components", "pipelines"):
        files = [path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        for path in files:
            copy = installed.packages / path.relative_to(ROOT)
            assert _sha256(copy) == _sha256(path), copy


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_metadata_has_version_licence_and_entry_points(installed: Environment) -> None:
    probe = (
        "import json; from importlib import metadata; m = metadata.distribution('tokenbuncher'); "
        "points = metadata.entry_points(group='mlflow.model_registry_store'); "
        "print(json.dumps([m.version, m.metadata['License-Expression'], sorted(p.name for p in points)]))"
    )
    found = json.loads(installed.run("python", "-c", probe))

    assert found[:2] == [__version__, "Apache-2.0"]
    assert found[2] == [
        "guarded-mysql",
        "guarded-mysql+mysqldb",
        "guarded-mysql+pymysql",
        "guarded-postgresql",
        "guarded-postgresql+psycopg",
        "guarded-postgresql+psycopg2",
        "guarded-sqlite",
    ]
    assert (installed.packages / f"tokenbuncher-{__version__}.dist-info" / "licenses" / "LICENSE").is_file()


def test_the_gate_judges_a_recorded_release(installed: Environment, tmp_path: Path) -> None:
    release = passing_release()
    release.write(tmp_path / "run")
    (tmp_path / "run" / "spec.yaml").write_text(release.spec.to_yaml(), encoding="utf-8")

    told = installed.run("tokenbuncher", "gate", "--evidence", tmp_path / "run", "--out", tmp_path / "verdict")

    assert "PASS" in told
    assert (tmp_path / "verdict" / "report.html").read_text(encoding="utf-8").lower().startswith("<!doctype html>")


def test_init_and_doctor_say_what_is_missing(installed: Environment) -> None:
    (installed.home / "release.yaml").unlink(missing_ok=True)
    installed.run("tokenbuncher", "init", "--model", "organism", "--out", "release.yaml")
    told = installed.run("tokenbuncher", "doctor", "--spec", "release.yaml")

    assert "ok       release.yaml is a valid release spec" in told
    assert "warning  tokenbuncher[trainer] lacks torch, " in told
    assert "pip install 'tokenbuncher[trainer]'" in told


def test_a_server_that_cannot_be_asked_for_want_of_a_package(installed: Environment) -> None:
    told = installed.run("tokenbuncher", "doctor", "--kubernetes", "--host", "http://127.0.0.1:9", status=1)
    problems = [line for line in told.splitlines() if line.startswith("problem")]

    assert [line.split()[1] for line in problems] == ["Kubernetes", "Kubeflow"]
    assert all("pip install" in line for line in problems)


def test_the_sdist_has_sources_and_documents_but_no_tests(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {*FILES, "constraints.txt", "docs/guard.md", "docs/images/report.png", "specs/organism.yaml"} <= names
    assert not [name for name in names if name.startswith("tests") or "__pycache__" in name]
