"""A run of the pipeline in its folder, from the spec to the verdict."""

from __future__ import annotations

import fcntl
import io
import logging
import shlex
import shutil
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipelines.local.process import pipeline
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import write_text
from tokenbuncher.core.log import MANY, MESSAGE, RESULT, event
from tokenbuncher.core.stage import ENDS, Event, log_name
from tokenbuncher.evidence import REGISTRATION_NAME, read_registration
from tokenbuncher.gate import unfinished_figures
from tokenbuncher.preflight.doctor import require_files
from tokenbuncher.registry.history import FILE_NAME as HISTORY
from tokenbuncher.registry.history import remember
from tokenbuncher.report import documents, failures
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import FILE_NAME, Outcome, Verdict, headline, read_verdict

LOG = "run.log"
LOGS = "logs"
ARTIFACTS = "artifacts"
INTERRUPTED = ".interrupted"
"""What an interrupted run has left and this one may still take over; removed with the verdict."""
SPEC = "spec.yaml"
REPORT = "report.html"
VERDICT_FILES = ("report.md", "report.json", "card.md", "junit.xml", "attestation.json")
LOCK = ".lock"
LEFT = {LOG, LOGS, ARTIFACTS, INTERRUPTED, SPEC, LOCK, HISTORY, FILE_NAME, REPORT, *VERDICT_FILES}
"""All that a run leaves in its folder."""
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
        UserError: If the folder holds something else, a file that the spec names is missing, a stage fails, or another
            run uses the folder; of a stage names its log and the command that repeats it.
        OSError: If the folder cannot be written.
        KeyboardInterrupt: If interrupted; no process of the run is left by then.
    """
    require_files(spec)
    folder = spec.output.root / spec.name
    check_run_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _in_use(folder):
        _clear(folder, resume)
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


def check_run_folder(folder: Path) -> None:
    """Checks that a folder is that of an earlier run, or none is there yet.

    Raises:
        UserError: If it holds something else, so that what is called like a run's files may be the user's.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is there and is no folder; change the spec's name or output.root")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    foreign = sorted(there - LEFT)
    if foreign and not {LOCK, SPEC} <= there:
        raise UserError(
            f"{folder} holds {foreign[0]!r} and is no folder of an earlier run, and files in it would be replaced; "
            "change the spec's name or output.root, or move that folder away"
        )


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    with (folder / LOCK).open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is in use by another run; wait for it, or change the spec's name") from None
        yield


def _clear(folder: Path, resume: bool) -> None:
    """Removes what an earlier run of the name left, its verdict first; to resume, its artifacts are put aside.

    That there was a verdict stays in the history, even if the run was ended before it could say so.
    """
    _remember(folder)
    for name in (FILE_NAME, REPORT, *VERDICT_FILES):
        (folder / name).unlink(missing_ok=True)
    artifacts, interrupted = folder / ARTIFACTS, folder / INTERRUPTED
    if resume:
        interrupted.mkdir(exist_ok=True)
        for path in artifacts.iterdir() if artifacts.exists() else ():
            path.rename(interrupted / path.name)
        return
    (folder / LOG).unlink(missing_ok=True)
    for path in (artifacts, folder / LOGS, interrupted):
        if path.exists():
            shutil.rmtree(path)


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
    judged = _judged(folder)
    verdict = read_verdict(judged) if judged else None
    if judged:
        _remember(folder)
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


def _judged(folder: Path) -> Path | None:
    """The verdict among the artifacts of a run."""
    return next((folder / ARTIFACTS).glob(f"*/gate/verdict/{FILE_NAME}"), None)


def _remember(folder: Path) -> None:
    """Appends the verdict among the artifacts to the history of the name, unless it stands there already."""
    judged = _judged(folder)
    registered = next((folder / ARTIFACTS).glob(f"*/register/registration/{REGISTRATION_NAME}"), None)
    if judged and registered:
        with suppress(UserError):  # a verdict that cannot be read is none
            remember(folder, read_verdict(judged), read_registration(registered))


def _report_broken(folder: Path, spec: ReleaseSpec, failure: str) -> None:
    """The report on what a run without a verdict has left: INCONCLUSIVE, and what is missing."""
    for name, text in documents(unfinished_figures(spec, [folder / ARTIFACTS], failure)).items():
        write_text(folder / name, text)


def _failure(folder: Path, run: PipelineRun) -> str:
    """What failed, where more is told about it, and how to go on."""
    by_state = {stage.state: stage for stage in reversed(run.stages.values())}
    stage = by_state.get("failed") or by_state.get("killed") or by_state.get("stopped")
    if stage is None:
        last = next(reversed(run.stages), None)
        lines = [f"the pipeline failed {f'after {last}' if last else 'to start'}: {run.error or 'see the log'}"]
    else:
        failed = f"failed: {stage.result}" if stage.state == "failed" else "was killed; out of memory?"
        lines = [
            f"stage {stage.name} {failed}",
            f"log of {stage.name}: {folder / LOGS / log_name(stage.name)}",
            f"that stage alone: {stage.command}",
        ]
    return "\n".join([*lines, f"log of the run: {folder / LOG}", f"the rest of the run: {_going_on(folder)}"])
