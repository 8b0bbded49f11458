"""The command line: one command for each stage, and the whole pipeline on this machine.

Imports nothing heavy: each command loads what it needs when it runs.
"""

from __future__ import annotations

import click

from tokenbuncher.cli import begin, registry, release, runs, stages
from tokenbuncher.cli.doors import EXIT_CODES, Doors
from tokenbuncher.cli.options import RecordedRelease
from tokenbuncher.core.environment import quiet_libraries
from tokenbuncher.core.exits import FAILED, INTERRUPTED

__all__ = ["EXIT_CODES", "FAILED", "INTERRUPTED", "RecordedRelease", "main"]


@click.group(cls=Doors, context_settings={"max_content_width": 110})
def main() -> None:
    """Release gate against harmful RL fine-tuning of language models.

    A model gets the registry's alias only if it withstood the attacks of an attacker who has its weights, the attacks
    were shown to be strong, and the model is still useful.

    Exit status: 0 done or PASS, 1 BLOCK, 2 INCONCLUSIVE or an error that you can mend, 3 any other error, 130
    interrupted.

    \b
    Examples:
      tokenbuncher run-local --spec specs/organism.yaml     # the whole pipeline on the built-in model
      tokenbuncher init --model hf --out release.yaml       # a spec for your own model, and then:
      tokenbuncher doctor --spec release.yaml
      tokenbuncher run-local --spec release.yaml --dry-run

    \b
    Completion by the Tab key, in ~/.bashrc (or zsh_source in ~/.zshrc, fish_source in fish):
      eval "$(_TOKENBUNCHER_COMPLETE=bash_source tokenbuncher)"
    """
    quiet_libraries()


main.add_section("Getting started", [begin.init, begin.doctor, begin.plan, begin.schema])
main.add_section("The whole pipeline", [runs.run_local, runs.submit, runs.compile])
main.add_section(
    "The stages",
    [
        stages.fetch_model,
        stages.prepare_data,
        stages.defend,
        stages.controls,
        stages.attack,
        stages.evaluate_safety,
        stages.evaluate_utility,
        stages.register,
        release.gate,
        release.promote,
    ],
)
main.add_section("Recorded releases", [release.explain, release.compare, release.sign, registry.verify])
main.add_section("The registry", [registry.status, registry.rollback, registry.watch, registry.keygen])
main.add_section("For developers", [stages.build_organism, stages.align_smollm2])
