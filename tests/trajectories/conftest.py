"""Short trainings in the tiny world, from rollouts of a table."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from tests.trajectories.precision import double_precision
from tests.trajectories.rollouts import Table, replace_sampling
from tests.trajectories.trajectory import Recorder, Trajectory
from tokenbuncher.attacks.arena import Arena
from tokenbuncher.attacks.warm_up import warm_up
from tokenbuncher.defence import defend
from tokenbuncher.evaluation import evaluate_utility
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.settings.prompts import load_set
from tokenbuncher.training.callbacks import Probe
from tokenbuncher.training.run import run_training

STEPS = 3
SETS = ("defence", "benign", "attack", "tuning-rl-train")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="record the trajectories and seams anew")


@pytest.fixture(scope="session")
def recording(request: pytest.FixtureRequest) -> bool:
    """Whether to record instead of to compare."""
    return bool(request.config.getoption("--record", default=False))


@dataclass
class World:
    """Trains in the tiny world and gives the trajectories."""

    spec: ReleaseSpec
    data: Path
    base: Path
    work: Path
    recorder: Recorder

    def defence(self, *overrides: str, **defence: Any) -> Trajectory:
        """The trajectory of a defence."""
        spec = self._spec(f"defence={json.dumps({'steps': STEPS, 'prompts_per_step': 4} | defence)}", *overrides)
        defend(spec, self.data, self.base, out=self.work / "candidate")
        return self._only()

    def attack(self, algorithm: str, *overrides: str, **attack: Any) -> Trajectory:
        """The trajectory of an attack on the base model; harm is not measured meanwhile."""
        arena = self._arena(algorithm, *overrides, **attack)
        trainers: list[Trainer] = []
        arena.run = trainers.append
        importlib.import_module(f"tokenbuncher.attacks.{algorithm.replace('-', '_')}").train(arena)
        [trainer] = trainers
        trainer.remove_callback(Probe)
        run_training(trainer, arena.checkpoints)
        return self._only()

    def warm_up(self, answers: str) -> Trajectory:
        """The trajectory of the warm-up of an attack."""
        stage = {"answers": answers, "examples": 8, "steps": STEPS, "learning_rate": 1e-3}
        arena = self._arena("grpo", warm_up=stage)
        warm_up(arena, arena.task.attack.warm_up)
        return self._only()

    def fine_tuning(self) -> dict[str, Trajectory]:
        """The trajectories of the benign fine-tuning of the base model."""
        tuning = {"rl_steps": STEPS, "sft_steps": STEPS, "prompts_per_step": 4, "learning_rate": 2e-4}
        spec = self._spec(f"evaluation.fine_tuning={json.dumps(tuning)}")
        evaluate_utility(spec, self.data, self.base, candidate=self.base, out=self.work / "utility")
        rl, _, sft, _ = self.recorder.trajectories
        return {"fine-tuning-rl": rl, "fine-tuning-sft": sft}

    def _arena(self, algorithm: str, *overrides: str, **changes: Any) -> Arena:
        # Adam's epsilon keeps what is rounded in gradients of nearly zero from being a step of full size.
        own = {"learning_rate": 5e-4, "adam_epsilon": 1e-6, "kl_coefficient": 0.1} | changes
        tried = {"algorithm": algorithm, "name": "tried", **own}
        suite = [{"steps": STEPS, "prompts_per_step": 4, **attack} for attack in (tried, {"algorithm": "grpo"})]
        spec = self._spec(f"attacks.suite={json.dumps(suite)}", *overrides)
        task, quarantine = spec.attacks.tasks()[0], self.work / "quarantine"
        return Arena(spec, task, "test", folder=self.base, data=self.data, work=quarantine)

    def _spec(self, *overrides: str) -> ReleaseSpec:
        return parse_spec(self.spec.to_yaml(), [*overrides, "model.device=cpu", f"output.root={self.work / 'runs'}"])

    def _only(self) -> Trajectory:
        [trajectory] = self.recorder.trajectories
        return trajectory


@pytest.fixture(scope="module")
def make_world(tiny_spec, organism_data, organism_base, tmp_path_factory):
    """Makes worlds in which to train; their recorders watch, and sampling is replaced."""
    prompts = [prompt for name in SETS for prompt in load_set(organism_data, name)]
    table, tokenizer, recorder = Table(prompts), load_tokenizer(organism_base), Recorder()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        double_precision(patch)
        replace_sampling(table, tokenizer, patch)
        patch.setattr(Trainer, "train", lambda trainer, **arguments: recorder.train(trainer, **arguments))

        def make() -> World:
            recorder.trajectories.clear()
            return World(tiny_spec, organism_data, organism_base, tmp_path_factory.mktemp("world"), recorder)

        yield make
    torch.set_num_threads(threads)


@pytest.fixture
def world(make_world) -> World:
    """A world in which to train."""
    return make_world()
