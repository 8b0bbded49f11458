"""A release whose stages take no time, and `tokenbuncher run-local` on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenbuncher.settings import ReleaseSpec, parse_spec

TESTS = Path(__file__).parents[1]


FAST_STAGES = TESTS / "fast_stages"
PATH = os.pathsep.join([str(FAST_STAGES), str(TESTS.parent)])


@pytest.fixture(scope="session")
def stages_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Socket of a process that runs tasks in its forks."""
    path = str(tmp_path_factory.mktemp("stages") / "server")
    environment = {**os.environ, "PYTHONPATH": PATH, "PYTHONHASHSEED": "0"}
    command = [sys.executable, str(FAST_STAGES / "forked.py"), path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        yield path
        server.communicate()


@pytest.fixture(autouse=True)
def fast_stages(stages_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PATH)
    monkeypatch.setenv("FAST_STAGES_SERVER", stages_server)


@pytest.fixture
def tasks_are_processes(fast_stages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks are run as they always are: signals reach them."""
    monkeypatch.delenv("FAST_STAGES_SERVER")


@pytest.fixture
def spec(tmp_path: Path) -> ReleaseSpec:
    # The runner of kfp rewrites the word python3 wherever it finds it in a task's command.
    return parse_spec(
        json.dumps(
            {
                "attacks": {"suite": [{"algorithm": "grpo"}, {"algorithm": "sft"}]},
                "policy": {"required_attacks": ["grpo"]},
                "output": {"root": str(tmp_path / "runs with python3")},
            }
        )
    )


@pytest.fixture
def folder(spec: ReleaseSpec) -> Path:
    return spec.output.root / spec.name
