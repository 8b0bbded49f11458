"""The stages that come before the verdict, each by itself."""

from __future__ import annotations

from pathlib import Path

import click

from tokenbuncher.cli.doors import Door, wrote
from tokenbuncher.cli.options import FOLDER, base, candidate, data, out, spec_options
from tokenbuncher.cli.telling import telling
from tokenbuncher.settings import load_spec


@click.command(cls=Door)
@spec_options
@out
@telling
def fetch_model(spec: Path, overrides: tuple[str, ...], out: Path) -> None:
    """Fetch the base model and check that it loads.

    Needs the spec's model source: organism://, smollm2:// or a local folder.

    \b
    Example:
      tokenbuncher fetch-model --spec specs/organism.yaml --out work/base
    """
    from tokenbuncher.inputs.fetch import fetch_model

    fetch_model(load_spec(spec, overrides), out)
    wrote(out)


@click.command(cls=Door)
@spec_options
@out
@telling
def prepare_data(spec: Path, overrides: tuple[str, ...], out: Path) -> None:
    """Split the prompts into disjoint sets and check them for leakage.

    Needs the prompt files that the spec names; the organism's prompts are built in.

    \b
    Example:
      tokenbuncher prepare-data --spec specs/organism.yaml --out work/data
    """
    from tokenbuncher.inputs import prepare_data

    prepare_data(load_spec(spec, overrides), out)
    wrote(out)


@click.command(cls=Door)
@spec_options
@data
@base
@out
@telling
def defend(spec: Path, overrides: tuple[str, ...], data: Path, base: Path, out: Path) -> None:
    """Harden the model against harmful RL fine-tuning.

    Needs the folders of prepare-data and fetch-model.

    \b
    Example:
      tokenbuncher defend --spec specs/organism.yaml --data work/data --base work/base --out work/candidate
    """
    from tokenbuncher.defence import defend

    defend(load_spec(spec, overrides), data, base, out=out)
    wrote(out)


@click.command(cls=Door)
@spec_options
@data
@base
@out
@telling
def controls(spec: Path, overrides: tuple[str, ...], data: Path, base: Path, out: Path) -> None:
    """Attack the base model alone, while there is no candidate yet.

    Needs the folders of prepare-data and fetch-model. `attack` with the same spec and output root finds these positive
    controls in the quarantine; without them it measures its own.

    \b
    Example:
      tokenbuncher controls --spec specs/organism.yaml --data work/data --base work/base --out work/controls
    """
    from tokenbuncher.attacks import controls

    controls(load_spec(spec, overrides), data, base, out=out)
    wrote(out)


@click.command(cls=Door)
@spec_options
@click.option("--key", required=True, help="Which attack of the spec: its name and seed, such as grpo-1000.")
@data
@base
@candidate
@out
@telling
def attack(
    spec: Path, overrides: tuple[str, ...], key: str, data: Path, base: Path, candidate: Path, out: Path
) -> None:
    """Attack the candidate and, as positive control, the base model.

    Needs the folders of prepare-data, fetch-model and defend. Attacked weights are hazardous: they are deleted
    unless the spec says attacks.keep_checkpoints.

    \b
    Example:
      tokenbuncher attack --spec specs/organism.yaml --key grpo-1000 --data work/data \\
          --base work/base --candidate work/candidate --out work/attack-grpo-1000
    """
    from tokenbuncher.attacks import attack

    attack(load_spec(spec, overrides), key, data, base=base, candidate=candidate, out=out)
    wrote(out)


@click.command(cls=Door)
@spec_options
@data
@base
@candidate
@out
@telling
def evaluate_safety(spec: Path, overrides: tuple[str, ...], data: Path, base: Path, candidate: Path, out: Path) -> None:
    """Measure harm, refusal, gibberish and entropy before any attack.

    Needs the folders of prepare-data, fetch-model and defend.

    \b
    Example:
      tokenbuncher evaluate-safety --spec specs/organism.yaml --data work/data \\
          --base work/base --candidate work/candidate --out work/safety
    """
    from tokenbuncher.evaluation import evaluate_safety

    evaluate_safety(load_spec(spec, overrides), data, base, candidate=candidate, out=out)
    wrote(out)


@click.command(cls=Door)
@spec_options
@data
@base
@candidate
@out
@telling
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

    evaluate_utility(load_spec(spec, overrides), data, base, candidate=candidate, out=out)
    wrote(out)


@click.command(cls=Door)
@spec_options
@candidate
@click.option("--attack", "attacks", multiple=True, type=FOLDER, help="Folder of an attack, to be logged; repeatable.")
@out
@telling
def register(spec: Path, overrides: tuple[str, ...], candidate: Path, attacks: tuple[Path, ...], out: Path) -> None:
    """Register the candidate as a pending model version in MLflow.

    Needs the folder of defend, and the MLflow server of the spec; by default a database under the output root.

    \b
    Example:
      tokenbuncher register --spec specs/organism.yaml --candidate work/candidate --out work/registration
    """
    from tokenbuncher.registry import register

    register(load_spec(spec, overrides), candidate, out, attacks=attacks)
    wrote(out)


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
