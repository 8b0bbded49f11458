"""A step of each defence recipe, and of an attack, against one of TRL's plain GRPO: same model, prompts, rollouts.

    .venv/bin/python benchmarks/step.py [--times 5] [--steps 10]

The trainers take turns in one process. A step is sampling, rewards, loss and update; set-up is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenbuncher.core.environment import quiet_libraries

RECIPES = ["log-entropy", "direct", "polished", "paper", "entropy-reward"]
ATTACKS = ["TRL GRPO, rewards alike", "attack GRPO, rewards alike"]
"""Against a model that holds, all rollouts of a prompt have the same reward."""


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    quiet_libraries()
    seconds: dict[str, list[float]] = {name: [] for name in ["TRL GRPO", *RECIPES, "log-entropy, no anchor", *ATTACKS]}
    with tempfile.TemporaryDirectory() as scratch:
        makers = trainers(Path(scratch), given.steps)
        for _ in range(given.times):
            for name, make in makers.items():
                seconds[name].append(seconds_of_a_step(make))
    plain = seconds["TRL GRPO"]
    print("| step | ms, median | ratio, median (lowest to highest) |\n|---|---|---|")
    for name, own in seconds.items():
        ratios = [one / other for one, other in zip(own, plain, strict=True)]
        print(
            f"| {name} | {1000 * statistics.median(own):.0f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


def trainers(folder: Path, steps: int) -> dict[str, Callable[[], Any]]:
    """Makes each trainer, by its name."""
    from trl import GRPOConfig, GRPOTrainer

    from tokenbuncher.attacks.grpo import GRPOAttackTrainer
    from tokenbuncher.defence.anchors import own_responses
    from tokenbuncher.defence.trainer import TokenBuncherTrainer
    from tokenbuncher.inputs import prepare_data
    from tokenbuncher.inputs.fetch import fetch_model
    from tokenbuncher.models.load import load_model
    from tokenbuncher.models.tokenizer import load_tokenizer
    from tokenbuncher.settings import DefenceSpec, parse_spec
    from tokenbuncher.settings.prompts import load_set
    from tokenbuncher.training.arguments import sampling_arguments, trainer_arguments
    from tokenbuncher.training.examples import prompt_dataset

    spec = parse_spec("")
    fetch_model(spec, folder / "base")
    prepare_data(spec, folder / "data")
    tokenizer, reference = load_tokenizer(folder / "base"), load_model(folder / "base", spec.model)
    harmful, benign = load_set(folder / "data", "defence"), load_set(folder / "data", "benign")
    anchors = own_responses(reference, tokenizer, benign, spec=spec)

    def arguments(**more: Any) -> GRPOConfig:
        sampling = sampling_arguments(spec.defence.rollouts, spec.model.max_new_tokens)
        return GRPOConfig(**trainer_arguments(0, steps, 64, learning_rate=1e-6), **sampling, **more)

    def plain(trainer: type[GRPOTrainer] = GRPOTrainer, alike: bool = False) -> GRPOTrainer:
        return trainer(
            model=load_model(folder / "base", spec.model),
            reward_funcs=lambda completion_ids, **_: [0.0 if alike else float(len(ids)) for ids in completion_ids],
            args=arguments(beta=0.0 if alike else 1e-3),
            train_dataset=prompt_dataset(harmful),
            processing_class=tokenizer,
        )

    def ours(recipe: str, **changes: Any) -> TokenBuncherTrainer:
        defence = DefenceSpec.model_validate({"recipe": recipe, "steps": steps, **changes})
        return TokenBuncherTrainer(
            model=load_model(folder / "base", spec.model),
            args=arguments(beta=0.0, loss_type="dapo"),
            train_dataset=prompt_dataset(harmful, harmful=[True] * len(harmful)),
            processing_class=tokenizer,
            defence=defence,
            reference=reference,
            anchors=anchors,
        )

    made = {recipe: (lambda recipe=recipe: ours(recipe)) for recipe in RECIPES}
    attacks = (lambda: plain(alike=True), lambda: plain(GRPOAttackTrainer, alike=True))
    return {
        "TRL GRPO": plain,
        **made,
        "log-entropy, no anchor": lambda: ours("log-entropy", anchor=None),
        **dict(zip(ATTACKS, attacks, strict=True)),
    }


def seconds_of_a_step(make: Callable[[], Any]) -> float:
    """Of the steps after the first, the mean."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ticks: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ticks.append(time.monotonic())

    clock, trainer = Clock(), make()
    trainer.add_callback(clock)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return (clock.ticks[-1] - clock.ticks[0]) / (len(clock.ticks) - 1)


if __name__ == "__main__":
    main()
