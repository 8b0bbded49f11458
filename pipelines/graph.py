"""The graph of a compiled pipeline: nothing in it waits for itself, which kfp's compiler lets pass.

References that lead nowhere and types that do not fit are refused by the compiler (tests/pipelines/test_compiler.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from kfp.pipeline_spec.pipeline_spec_pb2 import ComponentSpec, PipelineSpec, PipelineTaskSpec


class Problem(NamedTuple):
    """Something wrong with a compiled pipeline or the arguments of a run."""

    where: str
    """Path in the document."""
    what: str
    """What is wrong there, and what to do about it."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def components_of(pipeline: PipelineSpec) -> dict[str, ComponentSpec]:
    """Every component and the root, by path."""
    named = {f"components.{name}": component for name, component in pipeline.components.items()}
    return {"root": pipeline.root, **named}


def check_cycles(pipeline: PipelineSpec) -> Iterator[Problem]:
    """Tasks that wait for themselves, and components that contain themselves."""
    for where, component in components_of(pipeline).items():
        waiting = {name: _before(task) for name, task in component.dag.tasks.items()}
        yield from _cycles(waiting, f"{where}.dag.tasks")
    contained = {
        name: {task.component_ref.name for task in component.dag.tasks.values()}
        for name, component in pipeline.components.items()
    }
    yield from _cycles(contained, "components")


def _before(task: PipelineTaskSpec) -> set[str]:
    """The tasks that a task waits for, or takes something from."""
    outputs = [given.task_output_artifact for given in task.inputs.artifacts.values()]
    outputs += [given.task_output_parameter for given in task.inputs.parameters.values()]
    return {*task.dependent_tasks, *(output.producer_task for output in outputs if output.producer_task)}


def _cycles(graph: Mapping[str, set[str]], where: str) -> Iterator[Problem]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield Problem(where, f"{' -> '.join(error.args[1])} is a cycle; nothing in it could ever start")
