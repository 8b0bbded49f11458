"""The whole pipeline: on this machine, or on Kubeflow."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from tokenbuncher.cli.doors import EXIT_CODES, Door, fail, wrote
from tokenbuncher.cli.options import FILE, NEW, dry_run, own_policy, placement, spec_options
from tokenbuncher.cli.telling import telling
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.exits import INTERRUPTED
from tokenbuncher.core.log import RESULT, event
from tokenbuncher.settings import ReleaseSpec, load_spec

logger = logging.getLogger(__name__)


@click.command(cls=Door)
@spec_options
@own_policy
@click.option("--resume", is_flag=True, help="Take over what an interrupted run has completed under this very spec.")
@dry_run
@click.pass_context
@telling
def run_local(
    ctx: click.Context, spec: Path, overrides: tuple[str, ...], policy: Path | None, resume: bool, dry_run: bool
) -> None:
    """Run the whole pipeline on this machine.

    Needs the extras registry, pipelines and trainer. Leaves everything in the folder of the spec's name under
    its output root, and ends with the verdict. Exit status: 0 PASS, 1 BLOCK, 2 INCONCLUSIVE or a failed stage, 130
    interrupted.

    Ctrl-C lets the stages that train finish their step and save, and ends the run; pressed again, it ends it at once.

    \b
    Examples:
      tokenbuncher run-local --spec specs/organism.yaml --dry-run
      tokenbuncher run-local --spec specs/organism.yaml --set name=try --set defence.recipe=none
      tokenbuncher run-local --spec runs/try/spec.yaml --resume
    """
    from pipelines.local import check_run_folder, outline, run_local
    from tokenbuncher.settings.init import marked_lines

    release = load_spec(spec, overrides, policy)
    if marked := marked_lines(spec):
        click.echo(f"{spec} has lines marked CHANGE, which are taken as they stand: {marked}")
    if dry_run:
        check_run_folder(release.output.root / release.name)
        click.echo("\n".join(outline(release, resume)))
        ctx.exit(_told_obstacles(release))
    ctx.exit(EXIT_CODES[run_local(release, resume).outcome])


def _told_obstacles(release: ReleaseSpec) -> int:
    """Tells what speaks against a run; returns the exit status of a dry one."""
    from tokenbuncher.preflight.doctor import obstacles

    found = list(obstacles(release))
    for finding in found:
        click.echo(finding)
    click.echo("nothing was run or written")
    return 2 if any(finding.level == "problem" for finding in found) else 0


@click.command(cls=Door)
@click.option("--out", type=NEW, help="The release pipeline alone, to this .yaml file.")
@placement
def compile(out: Path | None, placement: Path | None) -> None:
    """Compile the pipelines for Kubeflow, and lint them.

    Needs the extra pipelines. Writes build/release.yaml, build/gate-only.yaml and build/red-team.yaml. Tasks run in
    the images of the placement; else in those that $TOKENBUNCHER_TRAINER_IMAGE and $TOKENBUNCHER_GATE_IMAGE name; else
    in tokenbuncher/trainer and tokenbuncher/gate with the tag of this version.

    \b
    Examples:
      tokenbuncher compile
      tokenbuncher compile --out build/release.yaml --placement placement.yaml
    """
    from pipelines.compile import PIPELINES, compile_pipeline
    from pipelines.placement import load_placement

    placed = load_placement(placement)
    wanted = {"release": out} if out else {name: Path("build", f"{name}.yaml") for name in PIPELINES}
    for name, path in wanted.items():
        compile_pipeline(name, path, placed)
        wrote(path)


@click.command(cls=Door)
@spec_options
@own_policy
@click.option("--host", required=True, help="URL of Kubeflow Pipelines.")
@click.option("--token-file", type=FILE, help="File with the token that the server asks for.")
@click.option("--namespace", help="Whose run it is, on a server of several users.")
@click.option("--experiment", default="tokenbuncher", show_default=True, help="The experiment it belongs to.")
@click.option("--name", help="Name of the run; the spec's unless given.")
@placement
@click.option("--recurring", "cron", metavar="CRON", help="Run it again and again: six fields, seconds first.")
@click.option("--wait", is_flag=True, help="Show the tasks' progress and wait for the end.")
@dry_run
@click.pass_context
@telling
def submit(
    ctx: click.Context,
    spec: Path,
    overrides: tuple[str, ...],
    policy: Path | None,
    host: str,
    token_file: Path | None,
    namespace: str | None,
    experiment: str,
    name: str | None,
    placement: Path | None,
    cron: str | None,
    wait: bool,
    dry_run: bool,
) -> None:
    """Submit the release pipeline to Kubeflow Pipelines.

    Needs the extra pipelines, the server, and an MLflow server that its tasks reach. Spec, compiled pipeline and
    arguments are checked before the first request. Exit status: 0 submitted or, with --wait, succeeded; 1 the run
    failed or was cancelled; 2 refused.

    \b
    Examples:
      tokenbuncher submit --spec specs/organism.yaml --set tracking.uri=http://mlflow:5000 \\
          --host http://localhost:8080 --wait
      tokenbuncher submit --spec specs/organism.yaml --host https://kubeflow.example/pipeline \\
          --token-file token --namespace safety --placement placement.yaml --recurring '0 0 3 * * 1'
    """
    if cron and wait:
        raise UserError("--wait waits for a run's end, and a recurring one has none; give --wait or --recurring")
    from pipelines.placement import load_placement
    from pipelines.submit import SUCCEEDED, Server, check, read_token
    from pipelines.submit import submit as submit_pipeline
    from pipelines.submit import wait as wait_for

    release = load_spec(spec, overrides, policy)
    server = Server(host, read_token(token_file), namespace)
    placed, name = load_placement(placement), name or release.name
    if dry_run:
        check(release, placed, server, cron=cron)
        click.echo(f"would run the release pipeline as {name} in experiment {experiment} at {host}; nothing was sent")
        return
    submitted = submit_pipeline(release, placed, server, experiment=experiment, name=name, cron=cron)
    logger.info(submitted.url, extra=event(RESULT, url=submitted.url, run=submitted.id))
    if not wait:
        return
    try:
        ctx.exit(0 if wait_for(server, submitted.id) == SUCCEEDED else 1)
    except KeyboardInterrupt:
        fail(ctx, f"interrupted; the run goes on: {submitted.url}", INTERRUPTED)
