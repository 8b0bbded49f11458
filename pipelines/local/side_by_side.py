"""Runs a pipeline on this machine, its tasks side by side as far as there is room for them.

kfp.local works off the tasks of a pipeline in turn, but for those of a loop. Here each one begins as soon as those
that it waits for have ended; how a task is run, and what it is given, stays kfp.local's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from kfp import local
from kfp.dsl.base_component import BaseComponent
from kfp.local import executor_input_utils, graph_utils, io, placeholder_utils, utils
from kfp.local.orchestrator import enhanced_dag_orchestrator, task_executor, task_spec_utils
from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils
from kfp.local.status import Status
from kfp.pipeline_spec.pipeline_spec_pb2 import ComponentSpec, PipelineTaskSpec

from pipelines.local.room import Need, Room

Outputs = dict[str, Any]
ALWAYS = PipelineTaskSpec.TriggerPolicy.TriggerStrategy.ALL_UPSTREAM_TASKS_COMPLETED


def run_side_by_side(
    pipeline: BaseComponent,
    arguments: Mapping[str, Any],
    root: str,
    *,
    room: Room,
    need: Callable[[str, Mapping[str, Any]], Need],
) -> None:
    """Runs a pipeline without conditions, each task in a process of its own.

    Args:
        pipeline: The pipeline.
        arguments: Its arguments by name.
        root: Folder for the outputs of the tasks.
        room: Where the tasks find room.
        need: Tells what a task takes, from the name of its component and its arguments.

    Raises:
        RuntimeError: If a task fails; those that do not wait for it run to their end.
    """
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root)
    run = _Run(pipeline, root, room, need=need)
    if run.dag(run.pipeline.root, dict(arguments), run.name, above=None)[1] is Status.FAILURE:
        raise RuntimeError("a task failed")


class _Run:
    """One run; also what kfp.local asks to run the tasks of a loop."""

    def __init__(
        self, pipeline: BaseComponent, root: str, room: Room, *, need: Callable[[str, Mapping[str, Any]], Need]
    ) -> None:
        self.pipeline, self.room, self.need = pipeline.pipeline_spec, room, need
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
            status = Status.FAILURE if failed_loop else Status.SUCCESS
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
        with self.room.taken(self.need(stage, arguments)):
            return task_executor.execute_single_task(name, task, pipeline, io_store=store, fail_stack=[], **self.parts)
