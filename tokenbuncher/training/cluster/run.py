"""Runs a stage elsewhere: publishes its inputs, creates a TrainJob and fetches the output."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenbuncher.core.files import check_output, folder_digest, whole_folder
from tokenbuncher.core.interrupts import terminations_interrupt
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.storage import publish, resolve
from tokenbuncher.training.cluster.follow import follow
from tokenbuncher.training.cluster.jobs import TrainJobs
from tokenbuncher.training.cluster.node import RESULT, SPEC
from tokenbuncher.training.cluster.trainjob import OUTPUT, build_trainjob, job_name


def run_stage(
    spec: ReleaseSpec, stage: str, inputs: Mapping[str, Path], *, out: Path, identity: Sequence[str], key: str = ""
) -> None:
    """Runs a stage as a TrainJob and waits for its output.

    The TrainJob is deleted when it has ended, and when the caller is interrupted. If the caller dies, it goes on, and
    the next caller with the same work takes it over.

    Args:
        spec: The release spec; `spec.compute` says where to run.
        stage: The stage to run: defend or attack.
        inputs: The stage's input folders, by the option of its command.
        out: The output folder. Files beside it that begin with its name are written too.
        identity: Words that identify the work. The same words mean the same TrainJob.
        key: Key of the task, if the stage has several.

    Raises:
        UserError: If the output would replace something else, the storage or the cluster cannot be used, or the
            TrainJob fails; tells why.
    """
    check_output(out)
    jobs = TrainJobs(spec.compute.namespace)
    job = jobs.adopt(job_name(stage, identity), identity)
    with terminations_interrupt():  # the TrainJob must not outlive its caller
        try:
            if job is None:
                name = job_name(stage, identity)
                arguments = _published(spec, inputs) | ({"key": key} if key else {})
                output = f"{spec.compute.storage}/outputs/{name}-{uuid.uuid4().hex[:8]}"
                job = jobs.create(build_trainjob(spec.compute, stage, identity, arguments=arguments, output=output))
            follow(jobs, job)
            _collect(job["metadata"]["annotations"][OUTPUT], out)
        finally:
            jobs.delete(job_name(stage, identity))


def _published(spec: ReleaseSpec, inputs: Mapping[str, Path]) -> dict[str, str]:
    """Pinned URIs of the spec and the inputs, named by content so that attacks share them."""
    there = spec.model_copy(
        update={
            "compute": spec.compute.model_copy(update={"kind": "local"}),
            "output": spec.output.model_copy(update={"root": Path("runs")}),
            "tracking": type(spec.tracking)(),  # none of the nodes' business, and it may hold a password
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / SPEC).write_text(there.to_yaml(), encoding="utf-8")
        folders = {"spec": Path(scratch), **inputs}
        return {
            option: publish(folder, f"{spec.compute.storage}/inputs/{folder_digest(folder)}")
            for option, folder in folders.items()
        }


def _collect(uri: str, out: Path) -> None:
    """Fetches the published output to where the stage would have written it."""
    with tempfile.TemporaryDirectory() as scratch:
        output = resolve(uri, Path(scratch))
        with whole_folder(out) as folder:
            shutil.copytree(output / RESULT, folder, dirs_exist_ok=True)
        for path in output.glob(f"{RESULT}.*"):
            shutil.copyfile(path, out.with_name(out.name + path.name.removeprefix(RESULT)))
