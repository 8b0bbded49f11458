"""The command line: one command for each stage, and the whole pipeline on this machine.

Imports nothing heavy: each command loads what it needs when it runs.
"""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from tokenbuncher.environment import quiet_libraries
from tokenbuncher.errors import UserError
from tokenbuncher.settings import ReleaseSpec, load_spec

EXIT_CODES = {"PASS": 0, "BLOCK": 1, "INCONCLUSIVE": 2}
INTERRUPTED = 130


class Doors(click.Group):
    """Commands whose errors are told in a line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; 2 on the user's error, 130 on an interrupt."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            _fail(ctx, f"error: {error}", 2)
        except KeyboardInterrupt:
            _fail(ctx, "interrupted; nothing is left running, the same command starts afresh", INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            _fail(ctx, f"error: {error}", 2)


def _fail(ctx: click.Context, message: str, status: int) -> NoReturn:
    click.echo(message, err=True)
    ctx.exit(status)


def _spec_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="FIELD.PATH=VALUE",
        help="Change a field of the spec; may be given again.",
    )(command)
    return click.option("--spec", required=True, type=_FILE, help="The release spec, a YAML file.")(command)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_EXISTING = click.Path(exists=True, path_type=Path)
_NEW = click.Path(path_type=Path)

_data = click.option("--data", required=True, type=_FOLDER, help="Folder written by prepare-data.")
_base = click.option("--base", required=True, type=_FOLDER, help="Model folder written by fetch-model.")
_candidate = click.option("--candidate", required=True, type=_FOLDER, help="Model folder written by defend.")
_out = click.option("--out", required=True, type=_NEW, help="Folder to be written; replaced if it exists.")
_evidence = click.option(
    "--evidence",
    required=True,
    multiple=True,
    type=_EXISTING,
    help="Folder written by attack, evaluate-safety or evaluate-utility, or its evidence.json; give all of them.",
)
_registration = click.option(
    "--registration",
    required=True,
    type=_EXISTING,
    help="Folder written by register, or its registration.json.",
)


@click.group(cls=Doors)
def main() -> None:
    """Release gate against harmful RL fine-tuning of language models.

    A model gets the registry's alias only if it was attacked as an attacker would, the attacks were shown to be
    strong, it held, and it is still useful.

    Exit status: 0 done or PASS, 1 BLOCK, 2 INCONCLUSIVE or an error, 130 interrupted.
    """
    quiet_libraries()


@main.command()
@_spec_options
@_out
def fetch_model(spec: Path, overrides: tuple[str, ...], out: Path) -> None:
    """Fetch the undefended model and check that it loads.

    Needs the spec's model source: organism://, smollm2:// or a local folder.

    \b
    Example:
      tokenbuncher fetch-model --spec specs/organism.yaml --out work/base
    """
    from tokenbuncher.models import fetch_model

    fetch_model(load_spec(spec, overrides), out)
    _wrote(out)


@main.command()
@_spec_options
@_out
def prepare_data(spec: Path, overrides: tuple[str, ...], out: Path) -> None:
    """Split the prompts into disjoint sets and check them for leakage.

    Needs the prompt files that the spec names; the organism's prompts are built in.

    \b
    Example:
      tokenbuncher prepare-data --spec specs/organism.yaml --out work/data
    """
    from tokenbuncher.data import prepare_data

    prepare_data(load_spec(spec, overrides), out)
    _wrote(out)


@main.command()
@_spec_options
@_data
@_base
@_out
def defend(spec: Path, overrides: tuple[str, ...], data: Path, base: Path, out: Path) -> None:
    """Harden the model against harmful RL fine-tuning.

    Needs the folders of prepare-data and fetch-model.

    \b
    Example:
      tokenbuncher defend --spec specs/organism.yaml --data work/data --base work/base --out work/candidate
    """
    from tokenbuncher.defence import defend

    defend(load_spec(spec, overrides), data, base, out)
    _wrote(out)


@main.command()
@_spec_options
@click.option("--key", required=True, help="Which attack of the spec: its name and seed, such as grpo-1000.")
@_data
@_base
@_candidate
@_out
def attack(
    spec: Path, overrides: tuple[str, ...], key: str, data: Path, base: Path, candidate: Path, out: Path
) -> None:
    """Attack the candidate and, as positive control, the undefended model.

    Needs the folders of prepare-data, fetch-model and defend. Attacked weights are hazardous: they are deleted
    unless the spec says attacks.keep_checkpoints.

    \b
    Example:
      tokenbuncher attack --spec specs/organism.yaml --key grpo-1000 --data work/data \\
          --base work/base --candidate work/candidate --out work/attack-grpo-1000
    """
    from tokenbuncher.attacks import attack

    attack(load_spec(spec, overrides), key, data, base, candidate, out)
    _wrote(out)


@main.command()
@_spec_options
@_data
@_base
@_candidate
@_out
def evaluate_safety(spec: Path, overrides: tuple[str, ...], data: Path, base: Path, candidate: Path, out: Path) -> None:
    """Measure harm, refusal, gibberish and entropy before any attack.

    Needs the folders of prepare-data, fetch-model and defend.

    \b
    Example:
      tokenbuncher evaluate-safety --spec specs/organism.yaml --data work/data \\
          --base work/base --candidate work/candidate --out work/safety
    """
    from tokenbuncher.evaluation import evaluate_safety

    evaluate_safety(load_spec(spec, overrides), data, base, candidate, out)
    _wrote(out)


@main.command()
@_spec_options
@_data
@_base
@_candidate
@_out
def evaluate_utility(
    spec: Path, overrides: tuple[str, ...], data: Path, base: Path, candidate: Path, out: Path
) -> None:
    """Measure what the defence costs: accuracy and benign fine-tuning.

    Needs the folders of prepare-data, fetch-model and defend.

    \b
    Example:
      tokenbuncher evaluate-utility --spec specs/organism.yaml --data work/data \\
          --base work/base --candidate work/candidate --out work/utility
    """
    from tokenbuncher.evaluation import evaluate_utility

    evaluate_utility(load_spec(spec, overrides), data, base, candidate, out)
    _wrote(out)


@main.command()
@_spec_options
@_candidate
@click.option("--attack", "attacks", multiple=True, type=_FOLDER, help="Folder of an attack, to be logged; repeatable.")
@_out
def register(spec: Path, overrides: tuple[str, ...], candidate: Path, attacks: tuple[Path, ...], out: Path) -> None:
    """Register the candidate as a pending model version in MLflow.

    Needs the folder of defend, and the MLflow server of the spec; by default a database under the output root.

    \b
    Example:
      tokenbuncher register --spec specs/organism.yaml --candidate work/candidate --out work/registration
    """
    from tokenbuncher.registry import register

    register(load_spec(spec, overrides), candidate, out, attacks)
    _wrote(out)


@main.command()
@_spec_options
@_evidence
@_registration
@_out
@click.pass_context
def gate(
    ctx: click.Context,
    spec: Path,
    overrides: tuple[str, ...],
    evidence: tuple[Path, ...],
    registration: Path,
    out: Path,
) -> None:
    """Judge the release by the policy of the spec.

    Needs the evidence of every attack and both evaluations, and the folder of register. Writes verdict.json and
    report.html. Exit status: 0 PASS, 1 BLOCK, 2 INCONCLUSIVE.

    \b
    Example:
      tokenbuncher gate --spec specs/organism.yaml --evidence work/attack-grpo-1000 --evidence work/safety \\
          --evidence work/utility --registration work/registration --out work/verdict
    """
    from tokenbuncher.gate import gate

    verdict = gate(load_spec(spec, overrides), evidence, registration, out)
    _wrote(out)
    ctx.exit(EXIT_CODES[verdict.outcome])


@main.command()
@_spec_options
@_evidence
@_registration
@click.option("--verdict", required=True, type=_EXISTING, help="Folder written by gate, or its verdict.json.")
@click.pass_context
def promote(
    ctx: click.Context,
    spec: Path,
    overrides: tuple[str, ...],
    evidence: tuple[Path, ...],
    registration: Path,
    verdict: Path,
) -> None:
    """Move the alias to the registered version, on a PASS that holds.

    Needs what gate needed, and its verdict: the release is judged again and the registered files are hashed.
    Exit status: 0 promoted, 1 BLOCK, 2 INCONCLUSIVE; refused, the alias stays where it was.

    \b
    Example:
      tokenbuncher promote --spec specs/organism.yaml --evidence work/attack-grpo-1000 --evidence work/safety \\
          --evidence work/utility --registration work/registration --verdict work/verdict
    """
    from tokenbuncher.registry import Refused, promote

    try:
        promote(load_spec(spec, overrides), evidence, registration, verdict)
    except Refused as refused:
        _fail(ctx, f"refused: {refused}", EXIT_CODES[refused.outcome])


@main.command()
@_spec_options
@click.pass_context
def run_local(ctx: click.Context, spec: Path, overrides: tuple[str, ...]) -> None:
    """Run the whole pipeline on this machine.

    Needs the extras registry, pipelines and trainer. Leaves everything in the folder of the spec's name under
    its output root, and ends with the verdict. Exit status: 0 PASS, 1 BLOCK, 2 INCONCLUSIVE.

    \b
    Example:
      tokenbuncher run-local --spec specs/organism.yaml --set name=try --set defence.recipe=none
    """
    from tokenbuncher.local import run_local

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # under nohup it stays ignored
            signal.signal(number, signal.default_int_handler)
    ctx.exit(EXIT_CODES[run_local(load_spec(spec, overrides)).outcome])


@main.command()
@click.option("--output", required=True, type=_NEW, help="The YAML file to be written.")
def compile(output: Path) -> None:
    """Compile the pipeline for Kubeflow Pipelines.

    Needs the extra pipelines. Tasks run in the image that the environment variable TOKENBUNCHER_IMAGE names, by
    default tokenbuncher with the tag of this version.

    \b
    Example:
      tokenbuncher compile --output build/release.yaml
    """
    from pipelines.release import compile_release

    compile_release(output)
    _wrote(output)


@main.command()
@_out
def build_organism(out: Path) -> None:
    """Train the built-in model anew: the one that ships with the package, for organism://.

    Needs the trainer extra and about three minutes on one core.

    \b
    Example:
      tokenbuncher build-organism --out work/organism
    """
    from tokenbuncher.organism.build import build_organism

    build_organism(out)
    _wrote(out)


@main.command()
def schema() -> None:
    """Print the JSON schema of the release spec.

    \b
    Example:
      tokenbuncher schema > release-spec.schema.json
    """
    click.echo(json.dumps(ReleaseSpec.model_json_schema(), indent=2))


def _wrote(path: Path) -> None:
    click.echo(f"wrote {path}")
