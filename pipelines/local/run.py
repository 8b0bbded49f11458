"""A run of the pipeline in its folder, from the spec to the verdict."""

from __future__ import annotations

import io
import logging
import shlex
import shutil
import textwrap
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipelines.local.folder import (
    ARTIFACTS,
    INTERRUPTED,
    LOG,
    LOGS,
    REPORT,
    SPEC,
    check_run_folder,
    clear,
    in_use,
    judged_in,
    remember_verdict,
)
from pipelines.local.process import pipeline
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import write_text
from tokenbuncher.core.log import MANY, MESSAGE, RESULT, event
from tokenbuncher.core.stage import ENDS, Event, log_name
from tokenbuncher.gate import unfinished_figures
from tokenbuncher.preflight.doctor import require_files
from tokenbuncher.report import documents, failures
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import Outcome, Verdict, headline, read_verdict

logger = logging.getLogger(f"tokenbuncher.{__name__}")


@dataclass
class StageRun:
    """A stage of this run."""

    name: str
    began: float
    seconds: float = 0.0
    state: str = "running"
    result: str = ""
    worked: float = 0.0
    """Seconds of training and generating."""
    command: str = ""
    """What runs this stage alone."""

    def note(self, said: Event, now: float) -> str:
        """Takes in an event of the stage; returns what to show of it."""
        if said.kind == "command":
            self.command = said.text
            return ""
        if said.kind in ENDS:
            self.state, self.seconds = said.kind, now - self.began
        if said.kind == "done":
            self.worked = said.fields.get("worked", 0.0)
            return f"done in {self.seconds:.1f} s{f', {said.text}' if said.text else ''}"
        self.result = said.text or self.result
        if said.kind in MANY:
            return said.text
        return f"{said.kind}: {said.text}" if said.text else said.kind


@dataclass
class PipelineRun:
    """What a run of the pipeline came to."""

    stages: dict[str, StageRun] = field(default_factory=dict)
    error: str = ""


def run_local(spec: ReleaseSpec, resume: bool = False) -> Verdict:
    """Runs the release pipeline on this machine and tells its progress, a table of stages and the verdict.

    Leaves in `spec.output.root / spec.name`: spec.yaml, artifacts/, run.log, logs/, verdict.json, report.html; and
    history.jsonl, which has the verdicts of all runs of the name.

    Args:
        spec: The release spec.
        resume: Whether to take over what an interrupted run of that name has completed: defence, attacks and
            evaluations whose tool, spec and inputs are the same as now (see `pipelines.local.completed`).

    Returns:
        The verdict. A PASS has moved the alias.

    Raises:
        UserError: If the folder holds something else or was left by another version of the tool, a file that the spec
            names is missing, a stage fails, or another run uses the folder; of a stage names its log and the command
            that repeats it.
        OSError: If the folder cannot be written.
        KeyboardInterrupt: If interrupted; no process of the run is left by then.
    """
    require_files(spec)
    folder = spec.output.root / spec.name
    check_run_folder(folder, resume)
    folder.mkdir(parents=True, exist_ok=True)
    with in_use(folder) as lock:
        clear(folder, lock, resume)
        write_text(folder / SPEC, spec.to_yaml())
        run = _run_pipeline(folder)
        _tell_table(run)
        verdict = _conclude(folder, spec, run)
        shutil.rmtree(folder / INTERRUPTED, ignore_errors=True)
    report = folder / REPORT
    lines = [f"{headline(spec.policy, verdict.outcome, verdict)}: {verdict.name} version {verdict.version}"]
    lines += [*failures(verdict), f"report: {report}"]
    told = {"outcome": verdict.outcome, "version": verdict.version, "reasons": verdict.reasons, "report": str(report)}
    logger.info("\n".join(lines), extra=event(RESULT, **told))
    return verdict


def _run_pipeline(folder: Path) -> PipelineRun:
    """Runs the pipeline to its end, or to the first stage that fails."""
    run = PipelineRun()
    try:
        _follow_pipeline(folder, run)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"nothing is left running; go on with: {_going_on(folder)}") from None
    return run


def _follow_pipeline(folder: Path, run: PipelineRun) -> None:
    began = time.monotonic()
    with (
        (folder / LOG).open("ab", buffering=0) as log,
        pipeline(
            folder / SPEC,
            folder / ARTIFACTS,
            folder / LOGS,
            interrupted=folder / INTERRUPTED,
            take=partial(_log_line, log),
        ) as process,
        process.stopped_by_signals(),
    ):
        for said in process.child.events():
            _take(run, said, began)
            if said.kind in ("failed", "killed", "interrupted") and not process.stopping:
                break
        run.error = process.child.last
    if process.stopping:
        raise KeyboardInterrupt
    for stage in run.stages.values():
        if stage.state == "running":
            stage.state, stage.seconds = "stopped", time.monotonic() - stage.began


def _log_line(log: io.FileIO, line: str) -> None:
    with suppress(OSError):  # if the disk is full, the stage says so
        log.write(line.encode())


def _going_on(folder: Path) -> str:
    return f"tokenbuncher run-local --resume --spec {shlex.quote(str(folder / SPEC))}"


def _take(run: PipelineRun, said: Event, began: float) -> None:
    """Takes in an event of a stage, and shows it."""
    now = time.monotonic()
    stage = run.stages.setdefault(said.stage, StageRun(said.stage, began=now))
    if shown := stage.note(said, now):
        kind = MESSAGE if said.kind in MANY else said.kind  # a stage's result is not yet that of the run
        logger.info(f"{now - began:6.1f} s  {said.stage:<18}  {shown}", extra=event(kind, **said.fields))


def _tell_table(run: PipelineRun) -> None:
    width = max([18, *map(len, run.stages)])
    lines = [f"\n{'stage':<{width}}  {'time':>8}  result"]
    for stage in run.stages.values():
        result = {"failed": f"failed: {stage.result}", "stopped": "stopped"}.get(stage.state, stage.result)
        lines.append(f"{stage.name:<{width}}  {stage.seconds:6.1f} s  {textwrap.shorten(result or 'done', 80)}")
    stages = {name: {"state": stage.state, "seconds": stage.seconds} for name, stage in run.stages.items()}
    logger.info("\n".join([*lines, ""]), extra=event("table", stages=stages))


def _conclude(folder: Path, spec: ReleaseSpec, run: PipelineRun) -> Verdict:
    """Brings verdict and report up to the run's folder, or tells which stage failed, and reports what there is."""
    judged = judged_in(folder)
    verdict = read_verdict(judged) if judged else None
    if judged:
        remember_verdict(folder)
        for path in judged.parent.iterdir():
            write_text(folder / path.name, path.read_text(encoding="utf-8"))
    promoted = run.stages.get("promote")
    # A version without a PASS is refused by promote; one with a PASS must have been promoted.
    if verdict and promoted and (promoted.state == "done" or verdict.outcome is not Outcome.PASS):
        return verdict
    failure = _failure(folder, run)
    if not verdict:
        with suppress(OSError):  # that the disk is full must not hide why
            _report_broken(folder, spec, failure.splitlines()[0])
    raise UserError(failure)


def _report_broken(folder: Path, spec: ReleaseSpec, failure: str) -> None:
    """The report on what a run without a verdict has left: INCONCLUSIVE, and what is missing."""
    for name, text in documents(unfinished_figures(spec, [folder / ARTIFACTS], failure)).items():
        write_text(folder / name, text)


def _failure(folder: Path, run: PipelineRun) -> str:
    """What failed, where more is told about it, and how to go on."""
    by_state = {stage.state: stage for stage in reversed(run.stages.values())}
    states = ("failed", "killed", "interrupted", "stopped")
    stage = next((by_state[state] for state in states if state in by_state), None)
    if stage is None:
        last = next(reversed(run.stages), None)
        lines = [f"the pipeline failed {f'after {last}' if last else 'to start'}: {run.error or 'see the log'}"]
    else:
        failed = {"failed": f"failed: {stage.result}", "interrupted": "was interrupted"}.get(
            stage.state, "was killed; out of memory?"
        )
        lines = [
            f"stage {stage.name} {failed}",
            f"log of {stage.name}: {folder / LOGS / log_name(stage.name)}",
            f"that stage alone: {stage.command}",
        ]
    return "\n".join([*lines, f"log of the run: {folder / LOG}", f"the rest of the run: {_going_on(folder)}"])
