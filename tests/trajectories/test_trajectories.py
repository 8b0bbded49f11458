"""A few steps of each trainer are those that were recorded: loss, reward, gradient and where the weights end.

They fail if TRL or transformers changes under what tokenbuncher overrides, and if tokenbuncher itself trains otherwise.
"""

import pytest

from tests.trajectories.trajectory import Trajectory, file_of

LORA = "model.lora={rank: 4, alpha: 8}"
NOISER = {"weight": 0.1, "start": 0.0, "every": 2}

CERTAIN = {"mixed_prompts": 40, "benign_examples": 4, "held_out": 4}

TRAININGS = {
    "defence-certain-refusal": lambda world: world.defence(recipe="certain-refusal", certain_refusal=CERTAIN),
    "defence-log-entropy": lambda world: world.defence(recipe="log-entropy", anchor={"examples": 8}),
    "defence-direct": lambda world: world.defence(recipe="direct", anchor=None),
    "defence-entropy-reward": lambda world: world.defence(recipe="entropy-reward", benign_prompts=1, anchor=None),
    "defence-paper": lambda world: world.defence(
        recipe="paper", noiser=NOISER | {"weight": 0.01}, anchor={"examples": 8}
    ),
    "defence-published-code": lambda world: world.defence(
        recipe="published-code", noiser=NOISER, anchor={"examples": 8}
    ),
    "defence-polished": lambda world: world.defence(recipe="polished", noiser=NOISER, anchor={"examples": 8}),
    "defence-lora": lambda world: world.defence(LORA, recipe="log-entropy", anchor={"examples": 8}),
    "grpo": lambda world: world.attack("grpo"),
    "grpo-lora": lambda world: world.attack("grpo", LORA),
    "grpo-noise": lambda world: world.attack("grpo", weight_noise=0.05),
    "rloo": lambda world: world.attack("rloo"),
    "reinforce-pp": lambda world: world.attack("reinforce-pp"),
    "ppo": lambda world: world.attack("ppo", learning_rate=2e-3),
    "dpo": lambda world: world.attack("dpo"),
    "dpo-offline": lambda world: world.attack("dpo-offline"),
    "entropy-seeking": lambda world: world.attack("entropy-seeking"),
    "sft": lambda world: world.attack("sft"),
    "warm-up-benign": lambda world: world.warm_up("benign"),
    "warm-up-harmful": lambda world: world.warm_up("harmful"),
}


@pytest.fixture
def check(recording):
    """Compares a trajectory with the recorded one, or records it."""

    def check(name: str, now: Trajectory) -> None:
        path = file_of(name)
        if recording:
            path.write_text(now.model_dump_json(indent=2) + "\n", encoding="utf-8")
            return
        recorded = Trajectory.model_validate_json(path.read_text(encoding="utf-8"))
        if told := recorded.told(name, now):
            pytest.fail(told, pytrace=False)

    return check


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_takes_the_steps_that_were_recorded(name, world, check):
    check(name, TRAININGS[name](world))


def test_offline_dpo_on_tokens_takes_the_steps_that_were_recorded(world, check, monkeypatch):
    """As if the chat template did not give back the prompts that rollouts were sampled from."""
    monkeypatch.setattr("tokenbuncher.attacks.dpo_offline.keeps_prompts", lambda tokenizer: False)
    check("dpo-offline-tokens", world.attack("dpo-offline"))


@pytest.fixture(scope="module")
def fine_tuning(make_world):
    return make_world().fine_tuning()


@pytest.mark.parametrize("name", ["fine-tuning-rl", "fine-tuning-sft"])
def test_benign_fine_tuning_takes_the_steps_that_were_recorded(name, fine_tuning, check):
    check(name, fine_tuning[name])


def test_what_differs_is_told_with_its_trainer_step_and_figure():
    before = Trajectory(versions={"trl": "1"}, trainer="A", steps=[{"loss": 0.5, "kl": 1.0}], moved={"policy": 2.0})
    assert before.told("grpo", before) == ""
    after = Trajectory(versions={"trl": "2"}, trainer="A", steps=[{"loss": 0.50001}], moved={"policy": 2.000001})
    lines = before.told("grpo", after).splitlines()
    assert lines[:3] == [
        "grpo: step 1: loss was 0.5, is 0.50001",
        "grpo: step 1: kl was 1, is absent",
        "Since it was recorded: trl 1 -> 2.",
    ]
    assert "--record" in before.told("grpo", after)
