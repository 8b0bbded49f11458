"""The order in which tasks begin and end, under the real kfp.local."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = """
import json, sys
from pathlib import Path
from kfp import dsl
from pipelines.local.capacity import Capacity, Need
from pipelines.local.kfp_local import run_side_by_side


@dsl.component(base_image="python", install_kfp_package=False)
def step(name: str, folder: str, seconds: float, made: dsl.Output[dsl.Artifact]) -> str:
    import time
    from pathlib import Path

    with open(Path(folder) / "log", "a") as log:
        print("+" + name, file=log, flush=True)
        time.sleep(seconds)
        if "bad" in name:
            raise SystemExit(1)
        Path(made.path).write_text(name)
        print("-" + name, file=log, flush=True)
    return name


@dsl.component(base_image="python", install_kfp_package=False)
def keys() -> list[str]:
    return ["a", "b", "c"]


@dsl.component(base_image="python", install_kfp_package=False)
def gather(folder: str, parts: dsl.Input[list[dsl.Artifact]]) -> None:
    from pathlib import Path

    (Path(folder) / "gathered").write_text(" ".join(Path(part.path).read_text() for part in parts))


@dsl.component(base_image="python", install_kfp_package=False)
def last(folder: str, status: dsl.PipelineTaskFinalStatus) -> None:
    from pathlib import Path

    (Path(folder) / "last").write_text(status.state)


@dsl.pipeline
def loop(names: list[str], folder: str) -> list[dsl.Artifact]:
    with dsl.ParallelFor(names) as name:
        part = step(name=name, folder=folder, seconds=0.5)
    return dsl.Collected(part.outputs["made"])


@dsl.pipeline
def whole(folder: str, second: str):
    with dsl.ExitHandler(last(folder=folder)):
        first = step(name="first", folder=folder, seconds=0.0)
        looped = loop(names=keys().output, folder=folder)
        beside = step(name=second, folder=folder, seconds=1.0).after(first)
        after = step(name="after", folder=folder, seconds=0.0).after(beside)
        gather(folder=folder, parts=looped.output).after(after)


folder, tasks, second = sys.argv[1], int(sys.argv[2]), sys.argv[3]
run_side_by_side(
    whole,
    {"folder": folder, "second": second},
    folder + "/out",
    capacity=Capacity(tasks, lambda: 1e12),
    need=lambda stage, given: Need(given.get("seconds", 0), 1),
)
"""


def run(folder: Path, tasks: int = 2, second: str = "beside") -> tuple[int, list[str]]:
    """The exit status, and in which order the steps began (+) and ended (-)."""
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, str(folder / "program.py"), str(folder), str(tasks), second]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=_environment(root), capture_output=True, encoding="utf-8", check=False)
    log = folder / "log"
    assert log.exists(), done.stderr[-2000:]
    return done.returncode, log.read_text(encoding="utf-8").split()


def _environment(root: Path) -> dict[str, Any]:
    import os

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PYTHONPATH": str(root), "PATH": path}


def most_at_once(log: list[str]) -> int:
    running = most = 0
    for mark in log:
        running += 1 if mark[0] == "+" else -1
        most = max(most, running)
    return most


def test_tasks_run_side_by_side_in_and_beside_a_loop(tmp_path: Path) -> None:
    status, log = run(tmp_path)

    assert status == 0
    assert most_at_once(log) == 2
    assert log.index("+beside") < max(map(log.index, ["-a", "-b", "-c"]))  # beside the loop, not after it
    assert log.index("-first") < log.index("+beside")
    assert log.index("-beside") < log.index("+after")
    assert (tmp_path / "gathered").read_text(encoding="utf-8") == "a b c"
    assert (tmp_path / "last").read_text(encoding="utf-8") == "SUCCEEDED"


def test_with_capacity_for_one_they_run_in_turn(tmp_path: Path) -> None:
    status, log = run(tmp_path, tasks=1)

    assert status == 0
    assert most_at_once(log) == 1
    assert (tmp_path / "gathered").read_text(encoding="utf-8") == "a b c"


def test_what_waits_for_a_failed_task_is_not_run_but_the_exit_task_is(tmp_path: Path) -> None:
    status, log = run(tmp_path, second="bad")

    assert status != 0
    assert "+after" not in log
    assert {"-a", "-b", "-c"} <= set(log)
    assert not (tmp_path / "gathered").exists()
    assert (tmp_path / "last").read_text(encoding="utf-8") == "FAILED"
