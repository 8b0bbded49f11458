"""Before a release: a spec to begin with, a look at machine and servers, an estimate."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tokenbuncher.cli.doors import Door, wrote
from tokenbuncher.cli.options import COUNT, FILE, NEW, SIZE, own_policy, spec_options
from tokenbuncher.settings import ReleaseSpec, load_spec


@click.command(cls=Door)
@click.option(
    "--model",
    "kind",
    required=True,
    type=click.Choice(["organism", "hf", "s3", "mlflow"]),
    help="Where the model comes from.",
)
@click.option("--out", required=True, type=NEW, help="The spec to write, a YAML file that does not exist yet.")
def init(kind: str, out: Path) -> None:
    """Write a commented release spec as a starting point.

    Needs nothing. The spec is valid; lines that you must fill in are marked CHANGE.

    \b
    Examples:
      tokenbuncher init --model organism --out release.yaml
      tokenbuncher init --model hf --out release.yaml
    """
    from tokenbuncher.settings.init import write_spec

    write_spec(kind, out)
    wrote(out)


@click.command(cls=Door)
@click.option("--spec", type=FILE, help="A release spec. The servers and folders that it names are checked.")
@click.option("--kubernetes", is_flag=True, help="Check the cluster even if the spec trains on this machine.")
@click.option("--host", help="URL of Kubeflow Pipelines, which is then checked, too.")
@click.pass_context
def doctor(ctx: click.Context, spec: Path | None, kubernetes: bool, host: str | None) -> None:
    """Check this machine and the servers, and say what to do.

    Needs nothing, and writes nothing. Without a spec, the servers that the environment names are checked.
    Exit status: 0 no problem, but perhaps warnings; 1 there is a problem.

    \b
    Examples:
      tokenbuncher doctor
      tokenbuncher doctor --spec release.yaml --host https://kubeflow.example/pipeline
    """
    from tokenbuncher.preflight.doctor import diagnose

    problems = 0
    for finding in diagnose(spec, kubernetes, host):
        click.echo(finding)
        problems += finding.level == "problem"
    ctx.exit(1 if problems else 0)


@click.command(cls=Door)
@spec_options
@own_policy
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    help="The device of each process: cpu (one core), h100, a100, or FLOPS,BANDWIDTH[,MEMORY] of another GPU.",
)
@click.option(
    "--parameters", type=SIZE, help="Parameters of the model, such as 7e9; by default counted from its config.json."
)
@click.option("--layers", type=COUNT, help="Layers of a model that is not on this machine.")
@click.option("--hidden", type=COUNT, help="Width of the hidden states of such a model.")
@click.option("--vocabulary", type=COUNT, help="Tokens in the vocabulary of such a model.")
@click.option(
    "--judge-parameters", type=SIZE, default=7e9, show_default=True, help="Parameters of each judge that is a model."
)
@click.option(
    "--reward-parameters", type=SIZE, default=7e9, show_default=True, help="Parameters of a reward that is a model."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    spec: Path,
    overrides: tuple[str, ...],
    policy: Path | None,
    device: str,
    parameters: float | None,
    layers: int | None,
    hidden: int | None,
    vocabulary: int | None,
    judge_parameters: float,
    reward_parameters: float,
    as_json: bool,
) -> None:
    """Estimate steps, tokens, time and memory of each stage before it runs.

    Needs the spec, and the size of a model that is not on this machine. Nothing is fetched.

    \b
    Examples:
      tokenbuncher plan --spec specs/organism.yaml
      tokenbuncher plan --spec specs/qwen2.5-7b.yaml --device h100 \\
          --parameters 7.6e9 --layers 28 --hidden 3584 --vocabulary 152064 --reward-parameters 4e8
    """
    from tokenbuncher.preflight.plan import Judges, parse_device, plan, shape_of

    release = load_spec(spec, overrides, policy)
    shape = shape_of(release, parameters, layers, hidden=hidden, vocabulary=vocabulary)
    estimate = plan(release, shape, parse_device(device), judging=Judges(judge_parameters, reward_parameters))
    click.echo(estimate.json() if as_json else estimate.table())


@click.command(cls=Door)
def schema() -> None:
    """Print the JSON schema of the release spec.

    \b
    Example:
      tokenbuncher schema > release-spec.schema.json
    """
    click.echo(json.dumps(ReleaseSpec.model_json_schema(), indent=2))
