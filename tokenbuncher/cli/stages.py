"""The stages that come before the verdict, each by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tokenbuncher.cli.doors import NEW_FOLDER, Door, wrote
from tokenbuncher.cli.options import FOLDER, base, candidate, data, out, spec_options, steps
from tokenbuncher.cli.telling import telling
from tokenbuncher.core.stages import STAGES
from tokenbuncher.settings import ReleaseSpec, load_spec

_OPTIONS = {
    "key": click.option("--key", required=True, help="Which attack of the spec: its name and seed, such as grpo-1000."),
    "data": data,
    "base": base,
    "candidate": candidate,
    "attack": click.option(
        "--attack", "attacks", multiple=True, type=FOLDER, help="Folder of an attack, to be logged; repeatable."
    ),
    "log": click.option("--log", type=NEW_FOLDER, help="Folder to write the step log to, for register and gate."),
    "steps": steps,
    "out": out,
}


def _stage(function: Callable[..., None]) -> click.Command:
    """The command of the stage of that name, with the options that the table of stages gives it."""

    @wraps(function)
    def command(spec: Path, overrides: tuple[str, ...], out: Path, **inputs: Any) -> None:
        function(load_spec(spec, overrides), out=out, **inputs)
        wrote(out)

    decorated = telling(command)
    for option in reversed(STAGES[function.__name__.replace("_", "-")].options.values()):
        decorated = _OPTIONS[option](decorated)
    return click.command(cls=Door)(spec_options(decorated))


@_stage
def fetch_model(spec: ReleaseSpec, out: Path) -> None:
    """Fetch the base model and check that it loads.

    Needs the spec's model source: organism://, smollm2:// or a local folder.

    \b
    Example:
      tokenbuncher fetch-model --spec specs/organism.yaml --out work/base
    """
    from tokenbuncher.inputs.fetch import fetch_model

    fetch_model(spec, out)


@_stage
def prepare_data(spec: ReleaseSpec, out: Path) -> None:
    """Split the prompts into disjoint sets and check them for leakage.

    Needs the prompt files that the spec names; the organism's prompts are built in.

    \b
    Example:
      tokenbuncher prepare-data --spec specs/organism.yaml --out work/data
    """
    from tokenbuncher.inputs import prepare_data

    prepare_data(spec, out)


@_stage
def defend(spec: ReleaseSpec, data: Path, base: Path, *, out: Path, log: Path | None) -> None:
    """Harden the model against harmful RL fine-tuning.

    Needs the folders of prepare-data and fetch-model.

    \b
    Example:
      tokenbuncher defend --spec specs/organism.yaml --data work/data --base work/base --out work/candidate
    """
    from tokenbuncher.defence import defend

    defend(spec, data, base, out=out, steps=log)


@_stage
def controls(spec: ReleaseSpec, data: Path, base: Path, *, out: Path) -> None:
    """Attack the base model alone, while there is no candidate yet.

    Needs the folders of prepare-data and fetch-model. `attack` with the same spec and output root finds these positive
    controls in the quarantine; without them it measures its own.

    \b
    Example:
      tokenbuncher controls --spec specs/organism.yaml --data work/data --base work/base --out work/controls
    """
    from tokenbuncher.attacks import controls

    controls(spec, data, base, out=out)


@_stage
def attack(spec: ReleaseSpec, key: str, data: Path, *, base: Path, candidate: Path, out: Path) -> None:
    """Attack the candidate and, as positive control, the base model.

    Needs the folders of prepare-data, fetch-model and defend. Attacked weights are hazardous: they are deleted
    unless the spec says attacks.keep_checkpoints.

    \b
    Example:
      tokenbuncher attack --spec specs/organism.yaml --key grpo-1000 --data work/data \\
          --base work/base --candidate work/candidate --out work/attack-grpo-1000
    """
    from tokenbuncher.attacks import attack

    attack(spec, key, data, base=base, candidate=candidate, out=out)


@_stage
def evaluate_safety(spec: ReleaseSpec, data: Path, base: Path, *, candidate: Path, out: Path) -> None:
    """Measure harm, refusal, gibberish and entropy before any attack.

    Needs the folders of prepare-data, fetch-model and defend.

    \b
    Example:
      tokenbuncher evaluate-safety --spec specs/organism.yaml --data work/data \\
          --base work/base --candidate work/candidate --out work/safety
    """
    from tokenbuncher.evaluation import evaluate_safety

    evaluate_safety(spec, data, base, candidate=candidate, out=out)


@_stage
def evaluate_utility(spec: ReleaseSpec, data: Path, base: Path, *, candidate: Path, out: Path) -> None:
    """Measure what the defence costs: accuracy and benign fine-tuning.

    Needs the folders of prepare-data, fetch-model and defend.

    \b
    Example:
      tokenbuncher evaluate-utility --spec specs/organism.yaml --data work/data \\
          --base work/base --candidate work/candidate --out work/utility
    """
    from tokenbuncher.evaluation import evaluate_utility

    evaluate_utility(spec, data, base, candidate=candidate, out=out)


@_stage
def register(spec: ReleaseSpec, candidate: Path, attacks: tuple[Path, ...], *, steps: Path | None, out: Path) -> None:
    """Register the candidate as a pending model version in MLflow.

    Needs the folder of defend, and the MLflow server of the spec; by default a database under the output root.

    \b
    Example:
      tokenbuncher register --spec specs/organism.yaml --candidate work/candidate --out work/registration
    """
    from tokenbuncher.registry import register

    register(spec, candidate, out, attacks=attacks, steps=steps)


@click.command(cls=Door)
@out
@telling
def build_organism(out: Path) -> None:
    """Train the built-in model anew: the one that ships with the package, for organism://.

    Needs the trainer extra and about three minutes on one core.

    \b
    Example:
      tokenbuncher build-organism --out work/organism
    """
    from tokenbuncher.builtin.organism.build import build_organism

    build_organism(out)
    wrote(out)


@click.command(cls=Door)
@out
@telling
def align_smollm2(out: Path) -> None:
    """Align SmolLM2 anew: the adapter that ships with the package, for smollm2://.

    Needs the trainer extra, the weights of SmolLM2 and an hour or more on one core.

    \b
    Example:
      tokenbuncher align-smollm2 --out work/adapter
    """
    from tokenbuncher.builtin.smollm2.align import align_smollm2

    align_smollm2(out)
    wrote(out)
