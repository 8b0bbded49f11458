"""Runs the release pipeline on this machine, each task in a process of its own.

    python -m pipelines.local spec.yaml artifacts/ logs/ interrupted/

For a readable view, and to stop it cleanly, use `tokenbuncher run-local`, which runs this as a child process and ends
its process group. When stdin ends, that caller is gone, and the group ends too.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from kfp.dsl import PipelineTask

from pipelines.local.capacity import Capacity, free_memory
from pipelines.local.completed import Completed
from pipelines.local.kfp_local import replace_runner, run_side_by_side
from pipelines.local.needs import needs
from pipelines.local.tasks import Tasks
from pipelines.release import release_pipeline
from tokenbuncher.core.environment import lenient_output
from tokenbuncher.core.exits import exiting
from tokenbuncher.core.log import LineHandler, channel_handlers, logging_to, stage_formatter
from tokenbuncher.core.stages import STAGES
from tokenbuncher.settings import parse_spec

TASKS = 2
"""At a time, if there are as many cores; each trains with one thread."""
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
        interrupted: Folder with the outputs of an interrupted run, which may be reused.

    Raises:
        RuntimeError: If a task fails.
    """
    channel = channel_handlers()
    tasks = Tasks(spec, logs, channel)
    signal.signal(signal.SIGTERM, tasks.stop)
    replace_runner(tasks.run, Completed(artifacts, interrupted))
    # The commands of tasks begin with python3, which is to be this one.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ.update({name: os.environ.get(name, value) for name, value in ALLOCATOR.items()})
    text = spec.read_text(encoding="utf-8")
    with logging_to(LineHandler(sys.stdout, stage_formatter("")), *channel):
        run_side_by_side(
            release_pipeline(place=_place, shared_quarantine=True),
            {"spec": text},
            str(artifacts),
            capacity=Capacity(min(TASKS, len(os.sched_getaffinity(0))), free_memory),
            need=needs(parse_spec(text)),
        )


def _place(task: PipelineTask) -> PipelineTask:
    return task.set_caching_options(STAGES[task.component_spec.name].resumable)


def _end_with_caller() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    lenient_output()
    threading.Thread(target=_end_with_caller, daemon=True).start()
    with exiting():
        spec, artifacts, logs, interrupted = map(Path, sys.argv[1:])
        main(spec, artifacts, logs, interrupted=interrupted)
