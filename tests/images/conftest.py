"""The images, as `make images` builds them, and an engine to run them on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenbuncher import __version__

IMAGES = ["trainer", "gate", "mlflow-guard"]
LOCKED = [
    "--read-only",
    "--tmpfs=/tmp:mode=1777",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
]
"""How the manifests run them, and without a network."""

Finished = subprocess.CompletedProcess[str]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "docker: needs a Docker engine and the images; make test-docker")


def docker(*arguments: str, timeout: int = 300) -> Finished:
    """Runs docker, whatever it returns."""
    return subprocess.run(["docker", *arguments], capture_output=True, encoding="utf-8", timeout=timeout)


def tag(name: str) -> str:
    """The image of that name, at this version."""
    return f"tokenbuncher/{name}:{__version__}"


@pytest.fixture(scope="session")
def engine() -> Callable[..., Finished]:
    """The docker command, if its engine has the images."""
    if os.environ.get("TEST_DOCKER") != "1":
        pytest.skip("needs a Docker engine and the images; make test-docker")
    for name in IMAGES:
        found = docker("image", "inspect", tag(name))
        assert found.returncode == 0, found.stderr
    return docker


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest, engine: Callable[..., Finished]) -> str:
    """The name of each image."""
    return str(request.param)


@pytest.fixture
def inspected(image: str) -> dict[str, Any]:
    """What the engine knows of an image."""
    found: list[dict[str, Any]] = json.loads(docker("image", "inspect", tag(image)).stdout)
    return found[0]


@pytest.fixture
def python(image: str) -> Callable[[str], Finished]:
    """Runs a piece of Python in a locked container of an image."""
    return lambda code: docker("run", "--rm", *LOCKED, "--entrypoint=python", tag(image), "-c", code)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder that a container's user can write to, and whose files can be read afterwards."""
    tmp_path.chmod(0o777)
    yield tmp_path
    docker(
        "run",
        "--rm",
        "--user=0",
        f"--volume={tmp_path}:/work",
        "--entrypoint=chmod",
        tag("gate"),
        "-R",
        "a+rwX",
        "/work",
    )
