"""What is taken of kfp.local that it keeps to itself, and the order in which tasks begin and end under it."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from kfp.local.task_handler_interface import ITaskHandler

from pipelines.local import kfp_local

ROOT = Path(__file__).parents[2]
SHARED = ["task_name", "task_spec", "pipeline_resource_name", "components", "executors", "io_store"]
SHARED += ["pipeline_root", "runner", "unique_pipeline_id", "fail_stack"]
PRIVATE = {
    "kfp.dsl.executor:create_artifact_instance": ["runtime_artifact", "fallback_artifact_cls"],
    "kfp.local.cache:get_local_cache": [],
    "kfp.local.executor_input_utils:get_local_pipeline_resource_name": ["pipeline_name"],
    "kfp.local.executor_input_utils:get_local_task_resource_name": ["component_name"],
    "kfp.local.graph_utils:topological_sort_tasks": ["tasks"],
    "kfp.local.io:IOStore": ["parent"],
    "kfp.local.orchestrator.enhanced_dag_orchestrator:_run_parallel_for_task": [*SHARED, "parallel_executor"],
    "kfp.local.orchestrator.orchestrator_utils:OrchestratorUtils.get_dag_outputs": ["dag_outputs_spec", "io_store"],
    "kfp.local.orchestrator.orchestrator_utils:OrchestratorUtils.join_user_inputs_and_defaults": [
        "dag_arguments",
        "dag_inputs_spec",
    ],
    "kfp.local.orchestrator.orchestrator_utils:OrchestratorUtils.make_task_arguments": ["task_inputs_spec", "io_store"],
    "kfp.local.orchestrator.task_executor:execute_single_task": SHARED,
    "kfp.local.orchestrator.task_spec_utils:build_nested_dag_arguments": [
        "task_name",
        "task_spec",
        "component_spec",
        "io_store",
    ],
    "kfp.local.orchestrator.task_spec_utils:get_nested_pipeline_resource_name": ["task_name", "pipeline_resource_name"],
    "kfp.local.placeholder_utils:make_random_id": [],
    "kfp.local.subprocess_task_handler:SubprocessTaskHandler.run": ["self"],
    "kfp.local.utils:struct_to_executor_spec": ["struct"],
}
"""What kfp_local calls or replaces, with its parameters."""
CALLED = {
    "kfp.local.cache:LocalCache.compute_key": [
        "self",
        "component_name",
        "image",
        "full_command",
        "arguments",
        "env_vars",
        "custom_cache_key",
    ],
    "kfp.local.cache:LocalCache.get": ["self", "key"],
    "kfp.local.cache:LocalCache.put": ["self", "key", "outputs"],
    "kfp.local.io:IOStore.put_parent_input": ["self", "key", "value"],
    "kfp.local.io:IOStore.put_task_output": ["self", "task_name", "key", "value"],
    "kfp.local.io:IOStore.put_task_status": ["self", "task_name", "task_status"],
    "kfp.local.orchestrator.enhanced_dag_orchestrator:ParallelExecutor.execute_parallel_tasks": [
        "self",
        "tasks",
        *SHARED[2:],
        "parallelism_limit",
    ],
}
"""Methods of what kfp_local is given or made, and of what it puts something of ours in the place of."""
PUBLIC = {
    "kfp.local:SubprocessRunner",
    "kfp.local:init",
    "kfp.local.status:Status.SUCCESS",
    "kfp.local.status:Status.FAILURE",
}


def parts_of_kfp_local(source: str) -> set[str]:
    """Every name that a module takes from kfp.local, or by a module of it, as `module:name`."""
    tree, found, modules = ast.parse(source), set(), {}
    for node in ast.walk(tree):
        names = node.names if isinstance(node, ast.Import | ast.ImportFrom) else []
        for name in names:
            origin = f"{node.module}.{name.name}" if isinstance(node, ast.ImportFrom) else name.name
            if origin == "kfp" or origin.startswith(("kfp.local", "kfp.dsl.executor")):
                modules[name.asname or name.name] = origin
    for node in ast.walk(tree):
        words = list(reversed(list(_words(node))))
        if words and words[0] in modules:
            found.add(".".join([modules[words[0]], *words[1:]]))
    return found


def _words(node: ast.AST) -> Iterator[str]:
    while isinstance(node, ast.Attribute):
        yield node.attr
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def named(parts: Any) -> set[str]:
    return {part.replace(":", ".") for part in parts}


@pytest.mark.parametrize("part", PRIVATE | CALLED)
def test_what_is_private_to_kfp_is_as_it_was(part: str) -> None:
    """If kfp was upgraded: see what changed, mend pipelines/local/kfp_local.py, and note the new signature here."""
    assert list(inspect.signature(resolve_name(part)).parameters) == (PRIVATE | CALLED)[part]


def test_a_handler_of_tasks_knows_command_and_environment() -> None:
    assert {"full_command", "env_vars"} <= set(inspect.signature(ITaskHandler.__init__).parameters)


def test_every_private_part_is_named_here() -> None:
    source = Path(kfp_local.__file__).read_text(encoding="utf-8")
    taken = parts_of_kfp_local(source)

    # Of a chain of names the modules on the way are found too.
    assert taken <= {prefix for name in named(PRIVATE | CALLED) | named(PUBLIC) for prefix in prefixes(name)}
    assert named(PRIVATE) <= taken


def prefixes(name: str) -> set[str]:
    words = name.split(".")
    return {".".join(words[: number + 1]) for number in range(len(words))}


def test_nothing_else_takes_parts_of_kfp_local() -> None:
    files = [path for folder in ("tokenbuncher", "components", "pipelines", "benchmarks") for path in modules(folder)]
    taking = {path.name for path in files if parts_of_kfp_local(path.read_text(encoding="utf-8")) - {"kfp"}}

    assert len(files) > 100
    assert taking - {"kfp_local.py"} == set()


def modules(folder: str) -> Iterator[Path]:
    return (ROOT / folder).rglob("*.py")


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
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, encoding="utf-8", check=False)
    log = folder / "log"
    assert log.exists(), done.stderr[-2000:]
    return done.returncode, log.read_text(encoding="utf-8").split()


def _environment() -> dict[str, Any]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}


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
