"""Arenas of the tiny release, and the trainers that the algorithms make of them."""

import pytest

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.attacks.arms import training
from tokenbuncher.settings import parse_spec

WARM_UP = "{answers: harmful, min_examples: 1, min_steps: 1}"


@pytest.fixture
def make_arena(tiny_spec, organism_data, organism_base, tmp_path):
    """An arena for one algorithm; keywords change the attack."""

    def make(algorithm, overrides=(), **changes):
        attack = {"algorithm": algorithm, "steps": 2, "prompts_per_step": 4, "kl_coefficient": 0.1} | changes
        suite, required = [attack], algorithm
        if "hyperparameters" in changes:  # which is another attack than any that a policy requires
            suite, required = [attack | {"name": "changed"}, {"algorithm": "grpo"}], "grpo"
        allowed = [f"policy.attack_limits.warm_up={WARM_UP}"] if "warm_up" in changes else []
        spec = parse_spec(
            tiny_spec.to_yaml(),
            [f"attacks.suite={suite}", f"policy.required_attacks=[{required}]", *allowed, *overrides],
        )
        return Arena(
            spec, spec.attacks.tasks()[0], "test", folder=organism_base, data=organism_data, work=tmp_path / "work"
        )

    return make


@pytest.fixture
def trainer_of():
    """The trainer that an arena's algorithm would run."""

    def build(arena):
        made = []
        arena.run = made.append
        training(arena.task.attack.algorithm)(arena)
        return made[0]

    return build
