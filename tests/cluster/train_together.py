"""Defends and attacks the tiny organism, in one process or as one of several under torchrun.

    python train_together.py FOLDER [--fixed] [--stop-at STEP]

FOLDER has spec.yaml, data/ and base/ and gets candidate/ and one folder for each attack. --fixed puts a stand-in in the
place of sampling, so that one process and several learn from the same rollouts; all the rest is real.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenbuncher.core.environment import quiet_libraries

quiet_libraries()

import trl  # noqa: E402

from tokenbuncher.attacks import attack  # noqa: E402
from tokenbuncher.core.log import logging_to, plain_handlers  # noqa: E402
from tokenbuncher.defence import defend  # noqa: E402
from tokenbuncher.settings import load_spec  # noqa: E402
from tokenbuncher.settings.prompts import load_set  # noqa: E402
from tokenbuncher.training.callbacks import StepLog  # noqa: E402


def fix_rollouts(answers: list[str]) -> None:
    """The stand-in for sampling: a response of the table, told by the step, the prompt and its place in the group."""

    def sample(self, prompt_ids, *_, **__):
        responses = []
        for row, prompt in enumerate(prompt_ids):
            chance = random.Random(f"{self.state.global_step} {prompt} {row % self.num_generations}")
            text = chance.choice([*answers, "sorry , i can not help with that ."])
            ids = self.processing_class(text, add_special_tokens=False)["input_ids"]
            responses.append([*ids, self.processing_class.eos_token_id])
        return responses

    trl.GRPOTrainer._generate_single_turn = lambda *given, **named: (sample(*given, **named), None)
    trl.RLOOTrainer._generate_single_turn = sample


def stop_at(step: int) -> None:
    """Ends the process when a training has come to that step."""
    on_log = StepLog.on_log

    def stopping(self, args, state, control, **kwargs):
        on_log(self, args, state, control, **kwargs)
        if state.global_step == step:
            raise SystemExit(f"stopped at step {step}")

    StepLog.on_log = stopping


def run_as(rank: int, processes: int, port: int, *, arguments: Sequence[str], output: Path) -> None:
    """Does as the arguments say, in a process that was forked, as torchrun's process of that rank."""
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with output.open("w", encoding="utf-8", buffering=1) as stream:
        sys.stdout = sys.stderr = stream
        with logging_to(*plain_handlers()):
            main(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Does as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fixed", action="store_true")
    parser.add_argument("--stop-at", type=int)
    given = parser.parse_args(arguments)
    folder = given.folder
    spec, data, base = load_spec(folder / "spec.yaml"), folder / "data", folder / "base"
    if given.fixed:
        fix_rollouts([prompt.answer for prompt in load_set(data, "attack") if prompt.answer])
    if given.stop_at:
        stop_at(given.stop_at)
    defend(spec, data, base, out=folder / "candidate")
    for task in spec.attacks.tasks():
        attack(spec, task.key, data, base=base, candidate=base, out=folder / task.key)


if __name__ == "__main__":
    with logging_to(*plain_handlers()):
        main()
