"""The graph of a compiled pipeline: that every reference leads somewhere, and to something of the right type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from google.protobuf import json_format  # type: ignore[import-untyped]
from kfp.pipeline_spec.pipeline_spec_pb2 import (
    ComponentSpec,
    DagOutputsSpec,
    ParameterType,
    PipelineSpec,
    PipelineTaskSpec,
    TaskInputsSpec,
)

ANY_ARTIFACT = "system.Artifact"
_TYPES = {number: name for name, number in ParameterType.ParameterTypeEnum.items() if number}


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


def type_name(kind: int) -> str:
    """Name of a parameter type."""
    return _TYPES.get(kind, f"type {kind}")


def value_fits(value: Any, kind: int) -> bool:
    """Whether a JSON value is of a parameter type."""
    match type_name(kind):
        case "STRING":
            return isinstance(value, str)
        case "BOOLEAN":
            return isinstance(value, bool)
        case "NUMBER_INTEGER":
            return isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
        case "NUMBER_DOUBLE":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "LIST":
            return isinstance(value, list)
        case "STRUCT":
            return isinstance(value, dict)
    return False


def check_graph(pipeline: PipelineSpec, executors: set[str]) -> Iterator[Problem]:
    """What is wrong with the references of a pipeline.

    Args:
        pipeline: The pipeline.
        executors: Labels of its executors.
    """
    for where, component in components_of(pipeline).items():
        yield from _check_definitions(component, where)
        if component.WhichOneof("implementation") == "dag":
            yield from _Dag(pipeline, component, where).check()
        elif where != "root" and component.executor_label not in executors:
            label = component.executor_label
            yield Problem(f"{where}.executorLabel", f"'{label}' is no executor of deploymentSpec; name one")
    contained = {
        name: {task.component_ref.name for task in component.dag.tasks.values()}
        for name, component in pipeline.components.items()
    }
    yield from _check_cycles(contained, "components")


def _check_definitions(component: ComponentSpec, where: str) -> Iterator[Problem]:
    inputs, outputs = component.input_definitions, component.output_definitions
    for side, definitions in (("inputDefinitions", inputs), ("outputDefinitions", outputs)):
        for name, parameter in definitions.parameters.items():
            if parameter.parameter_type not in _TYPES:
                yield Problem(f"{where}.{side}.parameters.{name}.parameterType", "is no type; give the parameter one")
        for name, artifact in definitions.artifacts.items():
            if not artifact.artifact_type.schema_title:
                yield Problem(f"{where}.{side}.artifacts.{name}.artifactType", "is no type; give the artifact one")
    for name, parameter in inputs.parameters.items():
        default, kind = json_format.MessageToDict(parameter.default_value), parameter.parameter_type
        if parameter.HasField("default_value") and not value_fits(default, kind):
            at = f"{where}.inputDefinitions.parameters.{name}.defaultValue"
            yield Problem(at, f"is no {type_name(kind)}; give one, or another type")


def _check_cycles(graph: Mapping[str, set[str]], where: str) -> Iterator[Problem]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield Problem(where, f"{' -> '.join(error.args[1])} is a cycle; nothing in it could ever start")


class _Dag:
    """The tasks of one component, and what is around them."""

    def __init__(self, pipeline: PipelineSpec, component: ComponentSpec, where: str) -> None:
        self._components = pipeline.components
        self._tasks = component.dag.tasks
        self._inputs = component.input_definitions
        self._outputs = component.output_definitions
        self._results = component.dag.outputs
        self._where = where

    def check(self) -> Iterator[Problem]:
        for name, task in self._tasks.items():
            yield from self._check_task(task, f"{self._where}.dag.tasks.{name}")
        waits = {name: {*task.dependent_tasks, *_producers(task)} for name, task in self._tasks.items()}
        yield from _check_cycles(waits, f"{self._where}.dag.tasks")
        yield from self._check_results(self._results, f"{self._where}.dag.outputs")

    def _check_task(self, task: PipelineTaskSpec, where: str) -> Iterator[Problem]:
        for other in task.dependent_tasks:
            if other not in self._tasks:
                yield Problem(f"{where}.dependentTasks", f"'{other}' is no task beside it; name one that is")
        for other in _producers(task):
            if other in self._tasks and other not in task.dependent_tasks:
                yield Problem(f"{where}.dependentTasks", f"lacks {other}, whose output it takes; it would not wait")
        name = task.component_ref.name
        if name not in self._components:
            yield Problem(f"{where}.componentRef.name", f"'{name}' is no component of the pipeline; name one")
            return
        wanted = self._components[name].input_definitions
        for key, given in task.inputs.parameters.items():
            yield from self._check_parameter(given, wanted.parameters.get(key), f"{where}.inputs.parameters.{key}")
        for key, source in task.inputs.artifacts.items():
            yield from self._check_artifact(source, wanted.artifacts.get(key), f"{where}.inputs.artifacts.{key}")
        items = {task.parameter_iterator.item_input, task.artifact_iterator.item_input}
        for key, parameter in wanted.parameters.items():
            optional = parameter.is_optional or parameter.HasField("default_value")
            if key not in task.inputs.parameters and key not in items and not optional:
                yield Problem(f"{where}.inputs.parameters", f"lacks {key}, which {name} needs; give it")
        for key, artifact in wanted.artifacts.items():
            if key not in task.inputs.artifacts and key not in items and not artifact.is_optional:
                yield Problem(f"{where}.inputs.artifacts", f"lacks {key}, which {name} needs; give it")
        yield from _check_iterator(task, wanted, where)

    def _check_parameter(self, given: TaskInputsSpec.InputParameterSpec, wanted: Any, where: str) -> Iterator[Problem]:
        if wanted is None:
            yield Problem(where, "is no input of the component; remove it")
            return
        source = None
        match given.WhichOneof("kind"):
            case "task_output_parameter":
                made = given.task_output_parameter
                source = self._output(made.producer_task, "parameters", made.output_parameter_key)
                if source is None:
                    at = f"{where}.taskOutputParameter"
                    yield self._no_output(made.producer_task, made.output_parameter_key, at)
            case "component_input_parameter":
                source = self._inputs.parameters.get(given.component_input_parameter)
                if source is None:
                    yield self._no_input(given.component_input_parameter, f"{where}.componentInputParameter")
            case "task_final_status":
                producer = given.task_final_status.producer_task
                if producer not in self._tasks:
                    at = f"{where}.taskFinalStatus.producerTask"
                    yield Problem(at, f"'{producer}' is no task beside it; name one that is")
            case "runtime_value":
                constant, kind = json_format.MessageToDict(given.runtime_value.constant), wanted.parameter_type
                if not value_fits(constant, kind):
                    yield Problem(f"{where}.runtimeValue.constant", f"is no {type_name(kind)}; give one")
            case _:
                yield Problem(where, "has no source; give it a value, an input or an output of a task")
        if source and not given.parameter_expression_selector and source.parameter_type != wanted.parameter_type:
            types = type_name(source.parameter_type), type_name(wanted.parameter_type)
            yield Problem(where, f"gets a {types[0]}, but takes a {types[1]}; give it one")

    def _check_artifact(self, given: TaskInputsSpec.InputArtifactSpec, wanted: Any, where: str) -> Iterator[Problem]:
        if wanted is None:
            yield Problem(where, "is no input of the component; remove it")
            return
        source = None
        match given.WhichOneof("kind"):
            case "task_output_artifact":
                made = given.task_output_artifact
                source = self._output(made.producer_task, "artifacts", made.output_artifact_key)
                if source is None:
                    at = f"{where}.taskOutputArtifact"
                    yield self._no_output(made.producer_task, made.output_artifact_key, at)
            case "component_input_artifact":
                source = self._inputs.artifacts.get(given.component_input_artifact)
                if source is None:
                    yield self._no_input(given.component_input_artifact, f"{where}.componentInputArtifact")
            case _:
                yield Problem(where, "has no source; give it an input or an output of a task")
        if source is None:
            return
        titles = source.artifact_type.schema_title, wanted.artifact_type.schema_title
        if titles[0] != titles[1] and ANY_ARTIFACT not in titles:
            yield Problem(where, f"gets a {titles[0]}, but takes a {titles[1]}; give it one")
        if source.is_artifact_list != wanted.is_artifact_list:
            yield Problem(
                where, f"must {'not ' if source.is_artifact_list else ''}be given a list; give it what it takes"
            )

    def _check_results(self, results: DagOutputsSpec, where: str) -> Iterator[Problem]:
        for side in ("parameters", "artifacts"):
            defined, made = getattr(self._outputs, side), getattr(results, side)
            for name in defined:
                if name not in made:
                    yield Problem(
                        f"{where}.{side}", f"lacks {name}, an output of the component; say which task makes it"
                    )
            for name in made:
                if name not in defined:
                    yield Problem(f"{where}.{side}.{name}", "is no output of the component; remove it")
        for name, artifact in results.artifacts.items():
            for selector in artifact.artifact_selectors:
                if self._output(selector.producer_subtask, "artifacts", selector.output_artifact_key) is None:
                    at = f"{where}.artifacts.{name}.artifactSelectors"
                    yield self._no_output(selector.producer_subtask, selector.output_artifact_key, at)
        for name, parameter in results.parameters.items():
            for selector in (parameter.value_from_parameter, *parameter.value_from_oneof.parameter_selectors):
                task, key = selector.producer_subtask, selector.output_parameter_key
                if (task or key) and self._output(task, "parameters", key) is None:
                    yield self._no_output(task, key, f"{where}.parameters.{name}")

    def _output(self, task: str, side: str, key: str) -> Any:
        """The definition of a task's output; None if there is none."""
        if task not in self._tasks or self._tasks[task].component_ref.name not in self._components:
            return None
        return getattr(self._components[self._tasks[task].component_ref.name].output_definitions, side).get(key)

    def _no_output(self, task: str, key: str, where: str) -> Problem:
        return Problem(where, f"no task beside it is called '{task}' and has an output '{key}'; name one that has")

    def _no_input(self, key: str, where: str) -> Problem:
        return Problem(where, f"'{key}' is no input of {self._where}; name one that is")


def _check_iterator(task: PipelineTaskSpec, wanted: Any, where: str) -> Iterator[Problem]:
    kind = task.WhichOneof("iterator")
    if kind is None:
        return
    iterator = getattr(task, kind)
    side = "parameters" if kind == "parameter_iterator" else "artifacts"
    over = iterator.items.input_parameter if side == "parameters" else iterator.items.input_artifact
    if over not in getattr(task.inputs, side) and not (side == "parameters" and iterator.items.raw):
        yield Problem(f"{where}.{side[:-1]}Iterator.items", f"'{over}' is no input of the task; loop over one that is")
    if iterator.item_input not in getattr(wanted, side):
        yield Problem(
            f"{where}.{side[:-1]}Iterator.itemInput",
            f"'{iterator.item_input}' is no input of the component; name one that is",
        )


def _producers(task: PipelineTaskSpec) -> set[str]:
    """The tasks whose outputs or status a task takes."""
    inputs = task.inputs
    return {
        producer
        for producer in (
            *(given.task_output_parameter.producer_task for given in inputs.parameters.values()),
            *(given.task_final_status.producer_task for given in inputs.parameters.values()),
            *(given.task_output_artifact.producer_task for given in inputs.artifacts.values()),
        )
        if producer
    }
