"""A release whose stages take no time, and `tokenbuncher run-local` on it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tokenbuncher.settings import ReleaseSpec, parse_spec

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def fast_stages(stages_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS / "fast_stages"), str(TESTS.parent)]))
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
