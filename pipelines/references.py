"""The graph of a compiled pipeline: every name in it leads somewhere, and nothing waits for itself.

Types, defaults and results are not looked at: kfp's compiler refuses what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from kfp.pipeline_spec.pipeline_spec_pb2 import (
    ComponentOutputsSpec,
    ComponentSpec,
    PipelineSpec,
    PipelineTaskSpec,
)


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


def check_graph(pipeline: PipelineSpec, executors: set[str]) -> Iterator[Problem]:
    """What is wrong with the references of a pipeline.

    Args:
        pipeline: The pipeline.
        executors: Labels of its executors.
    """
    for where, component in components_of(pipeline).items():
        tasks = component.dag.tasks
        if where != "root" and component.WhichOneof("implementation") != "dag":
            if component.executor_label not in executors:
                what = f"'{component.executor_label}' is no executor of deploymentSpec; name one"
                yield Problem(f"{where}.executorLabel", what)
            continue
        for name, task in tasks.items():
            yield from _check_task(pipeline, component, task, where=f"{where}.dag.tasks.{name}")
        yield from _check_cycles(
            {name: {*task.dependent_tasks, *_producers(task)} for name, task in tasks.items()}, f"{where}.dag.tasks"
        )
    contained = {
        name: {task.component_ref.name for task in component.dag.tasks.values()}
        for name, component in pipeline.components.items()
    }
    yield from _check_cycles(contained, "components")


def _check_cycles(graph: Mapping[str, set[str]], where: str) -> Iterator[Problem]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield Problem(where, f"{' -> '.join(error.args[1])} is a cycle; nothing in it could ever start")


def _check_task(pipeline: PipelineSpec, dag: ComponentSpec, task: PipelineTaskSpec, *, where: str) -> Iterator[Problem]:
    beside, name = {*dag.dag.tasks}, task.component_ref.name
    for other in sorted(({*task.dependent_tasks} | _producers(task)) - beside):
        yield Problem(where, f"waits for '{other}', which is no task beside it; name one that is")
    for other in sorted(_producers(task) & beside - {*task.dependent_tasks}):
        yield Problem(f"{where}.dependentTasks", f"lacks {other}, whose output it takes; it would not wait")
    if name not in pipeline.components:
        yield Problem(f"{where}.componentRef.name", f"'{name}' is no component of the pipeline; name one")
        return
    items = {task.parameter_iterator.item_input, task.artifact_iterator.item_input}
    for side in ("parameters", "artifacts"):
        given, wanted = getattr(task.inputs, side), getattr(pipeline.components[name].input_definitions, side)
        for key, source in given.items():
            if key not in wanted:
                yield Problem(f"{where}.inputs.{side}.{key}", "is no input of the component; remove it")
            elif missing := _missing(pipeline, dag, source):
                yield Problem(f"{where}.inputs.{side}.{key}", f"takes {missing}, which is not there; name one that is")
        for key, definition in wanted.items():
            optional = definition.is_optional or (side == "parameters" and definition.HasField("default_value"))
            if key not in given and key not in items and not optional:
                yield Problem(f"{where}.inputs.{side}", f"lacks {key}, which {name} needs; give it")


def _missing(pipeline: PipelineSpec, dag: ComponentSpec, source: Any) -> str:
    """What an input of a task is to be taken from, if there is no such thing; else nothing."""
    match source.WhichOneof("kind"):
        case "task_output_parameter":
            made = source.task_output_parameter
            outputs = _outputs(pipeline, dag, made.producer_task).parameters
            return "" if made.output_parameter_key in outputs else f"output '{made.output_parameter_key}' of a task"
        case "task_output_artifact":
            made = source.task_output_artifact
            outputs = _outputs(pipeline, dag, made.producer_task).artifacts
            return "" if made.output_artifact_key in outputs else f"output '{made.output_artifact_key}' of a task"
        case "component_input_parameter":
            given = source.component_input_parameter
            return "" if given in dag.input_definitions.parameters else f"input '{given}' of its pipeline"
        case "component_input_artifact":
            given = source.component_input_artifact
            return "" if given in dag.input_definitions.artifacts else f"input '{given}' of its pipeline"
        case None:
            return "a value, an input or an output"
    return ""


def _outputs(pipeline: PipelineSpec, dag: ComponentSpec, task: str) -> ComponentOutputsSpec:
    producer = dag.dag.tasks.get(task) or PipelineTaskSpec()
    return (pipeline.components.get(producer.component_ref.name) or ComponentSpec()).output_definitions


def _producers(task: PipelineTaskSpec) -> set[str]:
    """The tasks whose outputs or status a task takes."""
    inputs = task.inputs
    return {
        *(given.task_output_parameter.producer_task for given in inputs.parameters.values()),
        *(given.task_final_status.producer_task for given in inputs.parameters.values()),
        *(given.task_output_artifact.producer_task for given in inputs.artifacts.values()),
    } - {""}
