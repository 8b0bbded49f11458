"""Runs a pipeline by the parts of kfp.local, its tasks side by side as far as the machine has capacity for them.

kfp.local runs the tasks of a pipeline one after the other, except those of a loop. Here each task begins as soon as
those it waits for have ended; what a task is given, and what is made of its outputs, stays kfp.local's own.

No other module touches what is private to kfp.local. tests/pipelines/test_kfp_local.py names each of these parts with
its signature, so an upgrade of kfp that changes one fails there, and is mended here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from kfp import dsl, local
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.executor import create_artifact_instance
from kfp.local import cache, executor_input_utils, graph_utils, io, placeholder_utils, utils
from kfp.local.orchestrator import enhanced_dag_orchestrator, task_executor, task_spec_utils
from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils
from kfp.local.status import Status
from kfp.local.subprocess_task_handler import SubprocessTaskHandler
from kfp.pipeline_spec.pipeline_spec_pb2 import ComponentSpec, PipelineTaskSpec

from pipelines.local.capacity import Capacity, Need

Outputs = dict[str, Any]
ALWAYS = PipelineTaskSpec.TriggerPolicy.TriggerStrategy.ALL_UPSTREAM_TASKS_COMPLETED


class Cache(Protocol):
    """What kfp.local asks for outputs before it runs a task, and shows those of a task that it has run."""

    def compute_key(self, component_name: str, arguments: Mapping[str, Any], **others: Any) -> str:
        """A digest of all that the outputs of a task depend on."""

    def get(self, key: str) -> dict[str, dsl.Artifact] | None:
        """The outputs of a task with that key; None if it has to be run."""

    def put(self, key: str, outputs: Mapping[str, dsl.Artifact]) -> None:
        """Records the outputs of a task that has been run."""


def replace_runner(run: Callable[[Sequence[str], Mapping[str, str]], bool], outputs: Cache) -> None:
    """Has kfp.local run its tasks, and look for their outputs, by something of ours, in all of this process.

    Args:
        run: Runs the command of a task with environment variables of its own. Returns whether it succeeded.
        outputs: Takes the place of kfp.local's cache, which asks where the inputs lie and not what is in them.
    """
    SubprocessTaskHandler.run = lambda task: _status(run(task.full_command, task.env_vars))
    cache.get_local_cache = lambda: outputs


def artifact_at(path: Path, name: str, schema_title: str) -> dsl.Artifact:
    """An output of a task that lies at a path."""
    artifact: dsl.Artifact = create_artifact_instance(
        {"name": name, "uri": str(path), "metadata": {}, "type": {"schemaTitle": schema_title}}
    )
    return artifact


def run_side_by_side(
    pipeline: BaseComponent,
    arguments: Mapping[str, Any],
    root: str,
    *,
    capacity: Capacity,
    need: Callable[[str, Mapping[str, Any]], Need],
) -> None:
    """Runs a pipeline without conditions, each task in a process of its own.

    Args:
        pipeline: The pipeline.
        arguments: Its arguments by name.
        root: Folder for the outputs of the tasks.
        capacity: The capacity of this machine, which the tasks share.
        need: Estimates what a task takes, from the name of its component and its arguments.

    Raises:
        RuntimeError: If a task fails. Those that do not wait for it run to their end.
    """
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root)
    run = _Run(pipeline, root, capacity, need=need)
    if run.dag(run.pipeline.root, dict(arguments), run.name, above=None)[1] is Status.FAILURE:
        raise RuntimeError("a task failed")


class _Run:
    """One run; also what kfp.local asks to run the tasks of a loop."""

    def __init__(
        self, pipeline: BaseComponent, root: str, capacity: Capacity, *, need: Callable[[str, Mapping[str, Any]], Need]
    ) -> None:
        self.pipeline, self.capacity, self.need = pipeline.pipeline_spec, capacity, need
        self.name = executor_input_utils.get_local_pipeline_resource_name(self.pipeline.pipeline_info.name)
        executors = self.pipeline.deployment_spec["executors"].items()
        self.parts = {
            "components": dict(self.pipeline.components),
            "executors": {label: utils.struct_to_executor_spec(executor) for label, executor in executors},
            "pipeline_root": root,
            "runner": local.SubprocessRunner(use_venv=False),
            "unique_pipeline_id": placeholder_utils.make_random_id(),
        }

    def dag(
        self, component: ComponentSpec, arguments: Outputs, name: str, *, above: io.IOStore | None
    ) -> tuple[Outputs, Status]:
        """Runs the tasks of a pipeline, or of one within; returns its outputs."""
        tasks, store = component.dag.tasks, io.IOStore(parent=above)
        given = OrchestratorUtils.join_user_inputs_and_defaults(arguments, component.input_definitions)
        for key, value in given.items():
            store.put_parent_input(key, value)
        ended: dict[str, Future[Status]] = {}
        with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
            for task in reversed(graph_utils.topological_sort_tasks(tasks)):
                before = [ended[other] for other in tasks[task].dependent_tasks]
                ended[task] = pool.submit(self._task, task, tasks[task], before, pipeline=name, store=store)
        if any(status.result() is Status.FAILURE for status in ended.values()):
            return {}, Status.FAILURE
        return OrchestratorUtils.get_dag_outputs(component.dag.outputs, store), Status.SUCCESS

    def _task(
        self, name: str, task: PipelineTaskSpec, before: Sequence[Future[Status]], *, pipeline: str, store: io.IOStore
    ) -> Status:
        """Runs a task once those before it have ended; one that has to wait for a failed task fails."""
        failed = [other for other in before if other.result() is Status.FAILURE]
        if failed and task.trigger_policy.strategy != ALWAYS:
            status = Status.FAILURE
        elif task.trigger_policy.condition:
            raise NotImplementedError(f"task {name} has a condition; here all tasks of a pipeline run")
        elif task.WhichOneof("iterator"):
            failed_loop = enhanced_dag_orchestrator._run_parallel_for_task(
                name, task, pipeline, io_store=store, fail_stack=[], parallel_executor=self, **self.parts
            )
            status = _status(not failed_loop)
        else:
            outputs, status = self._run(name, task, pipeline, store=store)
            for key, output in outputs.items():
                store.put_task_output(name, key, output)
        store.put_task_status(name, "SUCCEEDED" if status is Status.SUCCESS else "FAILED")
        return status

    def execute_parallel_tasks(
        self,
        tasks: Sequence[tuple[str, PipelineTaskSpec]],
        pipeline_resource_name: str,
        io_store: io.IOStore,
        **_: Any,
    ) -> tuple[dict[str, Outputs], Status]:
        """Runs the tasks of a loop; returns the outputs of each."""
        with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
            ran = {
                name: pool.submit(self._run, name, task, pipeline_resource_name, store=io_store) for name, task in tasks
            }
        if any(one.result()[1] is Status.FAILURE for one in ran.values()):
            return {}, Status.FAILURE
        return {name: one.result()[0] for name, one in ran.items()}, Status.SUCCESS

    def _run(self, name: str, task: PipelineTaskSpec, pipeline: str, *, store: io.IOStore) -> tuple[Outputs, Status]:
        component = self.parts["components"][task.component_ref.name]
        if component.WhichOneof("implementation") == "dag":
            arguments = task_spec_utils.build_nested_dag_arguments(name, task, component, store)
            within = task_spec_utils.get_nested_pipeline_resource_name(name, pipeline)
            return self.dag(component, arguments, within, above=store)
        stage = executor_input_utils.get_local_task_resource_name(task.component_ref.name)
        arguments = OrchestratorUtils.make_task_arguments(task.inputs, store)
        with self.capacity.taken(self.need(stage, arguments)):
            return task_executor.execute_single_task(name, task, pipeline, io_store=store, fail_stack=[], **self.parts)


def _status(succeeded: bool) -> Status:
    return Status.SUCCESS if succeeded else Status.FAILURE
