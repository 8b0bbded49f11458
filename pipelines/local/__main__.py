"""Runs the release pipeline on this machine, each task in a process of its own.

    python -m pipelines.local spec.yaml artifacts/ logs/ interrupted/

For a readable view, and to stop it cleanly, use `tokenbuncher run-local`, which runs this as a child process and ends
its process group. When stdin ends, that caller is gone, and the group ends too.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kfp.dsl import PipelineTask
from kfp.local import cache
from kfp.local.subprocess_task_handler import SubprocessTaskHandler

from pipelines.local.completed import STAGES, Completed
from pipelines.local.room import Need, Room, free_memory
from pipelines.local.side_by_side import run_side_by_side
from pipelines.local.tasks import Tasks
from pipelines.release import release_pipeline
from tokenbuncher.core.environment import lenient_output
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.exits import exiting
from tokenbuncher.core.log import LineHandler, channel_handlers, logging_to, stage_formatter
from tokenbuncher.preflight.plan import parse_device, plan, shape_of
from tokenbuncher.preflight.plan.estimate import SPARE
from tokenbuncher.settings import ReleaseSpec, parse_spec

TASKS = 2
"""At a time, if there are so many cores; each trains with one thread."""
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(16 * 2**20),
}
"""Has glibc keep memory for a task's next step: giving it back and asking for it again took a tenth of its time."""


def main(spec: Path, artifacts: Path, logs: Path, *, interrupted: Path) -> None:
    """Runs the pipeline; on SIGTERM no further task is started.

    Args:
        spec: The release spec, a YAML file.
        artifacts: Folder for the outputs of the tasks.
        logs: Folder for a log of each stage.
        interrupted: Folder with the outputs of an interrupted run, which may be taken over.

    Raises:
        RuntimeError: If a task fails.
    """
    channel = channel_handlers()
    tasks, completed = Tasks(spec, logs, channel), Completed(artifacts, interrupted)
    signal.signal(signal.SIGTERM, tasks.stop)
    SubprocessTaskHandler.run = lambda task: tasks.run(task.full_command, task.env_vars)
    cache.get_local_cache = lambda: completed
    # The commands of tasks begin with python3, which is to be this one.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ.update({name: os.environ.get(name, value) for name, value in ALLOCATOR.items()})
    text = spec.read_text(encoding="utf-8")
    with logging_to(LineHandler(sys.stdout, stage_formatter("")), *channel):
        run_side_by_side(
            release_pipeline(place=_place, shared_quarantine=True),
            {"spec": text},
            str(artifacts),
            room=Room(min(TASKS, len(os.sched_getaffinity(0))), free_memory),
            need=needs(parse_spec(text)),
        )


def _place(task: PipelineTask) -> PipelineTask:
    return task.set_caching_options(task.component_spec.name in STAGES)


def _end_with_caller() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def needs(spec: ReleaseSpec) -> Callable[[str, Mapping[str, Any]], Need]:
    """What each task of a release takes, as `tokenbuncher plan` estimates it.

    Returns:
        Takes the stage and the arguments of the task. The estimate is made when the model has been fetched, if it
        cannot be made before; until then, and of a model of no known form, a task has the machine to itself.
    """
    known: dict[str, Need] = {}

    def need(stage: str, arguments: Mapping[str, Any]) -> Need:
        if not known:
            known.update(_estimated(spec, arguments))
        task = f"{stage} {arguments['key']}" if "key" in arguments else stage
        return known.get(task, UNKNOWN)

    return need


UNKNOWN = Need(seconds=0.0, memory=float("inf"))


def _estimated(spec: ReleaseSpec, arguments: Mapping[str, Any]) -> dict[str, Need]:
    """The needs of all tasks, by stage and key; none if the model's configuration is not at hand yet."""
    if "base" in arguments:
        fetched = spec.model.model_copy(update={"source": arguments["base"].path})
        spec = spec.model_copy(update={"model": fetched})
    try:
        stages = plan(spec, shape_of(spec), parse_device("cpu")).stages
    except UserError:
        return {}
    return {stage.name: Need(stage.seconds, (1 + SPARE) * stage.memory) for stage in stages}


if __name__ == "__main__":
    lenient_output()
    threading.Thread(target=_end_with_caller, daemon=True).start()
    with exiting():
        spec, artifacts, logs, interrupted = map(Path, sys.argv[1:])
        main(spec, artifacts, logs, interrupted=interrupted)
