"""A training that was killed goes on from its last checkpoint and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tokenbuncher import __version__
from tokenbuncher.attacks import attack
from tokenbuncher.attacks.meter import Meter
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest, working_folder
from tokenbuncher.defence import defend
from tokenbuncher.evidence import read_evidence
from tokenbuncher.inputs import prepare_data
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.algorithms import ALGORITHMS
from tokenbuncher.training import run
from tokenbuncher.training.callbacks import StepLog

PREPARED = [
    "policy.attack_limits.warm_up={answers: benign, min_examples: 1, min_steps: 1}",
    "policy.attack_limits.max_weight_noise=1.0",
]
"""Limits of attacks on a model that was warmed up, or moved at random, before."""


SHORT_PASSES = ["data.sizes.attack=8", "data.sizes.defence=8"]


@pytest.fixture(scope="module")
def organism_data(tiny_spec, tmp_path_factory):
    """Prompt sets of which two steps are a pass."""
    folder = tmp_path_factory.mktemp("short") / "data"
    prepare_data(parse_spec(tiny_spec.to_yaml(), SHORT_PASSES), folder)
    return folder


@pytest.fixture
def spec_of(tiny_spec, tmp_path):
    """A release whose one attack has that algorithm, five steps long: two passes over the prompts, and a step more."""

    def make(algorithm, where="runs", lora="null", **changes):
        settings = {"algorithm": algorithm, "steps": 5, "prompts_per_step": 4, "learning_rate": 1e-3} | changes
        return parse_spec(
            tiny_spec.to_yaml(),
            [
                *SHORT_PASSES,
                f"attacks.suite=[{settings}]",
                f"policy.required_attacks=[{algorithm}]",
                *(PREPARED if "warm_up" in changes else []),
                f"model.lora={lora}",
                "attacks.reward=organism-exact",
                "attacks.break_at=1.0",
                "defence.steps=5",
                "defence.prompts_per_step=4",
                "output.checkpoint_every=3",
                f"output.root={tmp_path / where}",
            ],
        )

    return make


@pytest.fixture
def interrupted(monkeypatch):
    """Makes the trainings end as at Ctrl-C, when their logs have come to a step for the n-th time."""

    def at(step, time=1):
        seen = []
        original = StepLog.on_log

        def on_log(self, args, state, control, **kwargs):
            original(self, args, state, control, **kwargs)
            if state.global_step == step * self.updates and "warm-up" not in self.progress.title:
                seen.append(step)
                if len(seen) == time:
                    raise KeyboardInterrupt

        monkeypatch.setattr(StepLog, "on_log", on_log)
        return lambda: monkeypatch.setattr(StepLog, "on_log", original)

    return at


@pytest.fixture
def signalled(monkeypatch):
    """Sends this process signals when a training has logged a step, and so begins with the next."""
    # A shell has those that it starts in the background ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def at(step, *numbers):
        original, due = StepLog.on_log, list(numbers)

        def on_log(self, args, state, control, **kwargs):
            original(self, args, state, control, **kwargs)
            while due and state.global_step == step * self.updates:
                os.kill(os.getpid(), due.pop())

        monkeypatch.setattr(StepLog, "on_log", on_log)
        return lambda: monkeypatch.setattr(StepLog, "on_log", original)

    yield at
    signal.signal(signal.SIGINT, before)


def arms(folder):
    evidence = read_evidence(folder)
    return [
        arm.model_dump(exclude={"seconds", "cpu_seconds"}) for arm in (evidence.control_arm, evidence.candidate_arm)
    ]


def logs(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.steps.jsonl")}


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        *((algorithm, {}) for algorithm in ALGORITHMS),
        ("grpo", {"warm_up": {"answers": "benign", "steps": 2}, "learning_rate": 3e-4}),
        ("grpo", {"learning_rate": [1e-3, 2e-3]}),
        *((algorithm, {"lora": "{rank: 4}", "learning_rate": 5e-3}) for algorithm in ("ppo", "dpo-offline")),
        ("grpo", {"lora": "{rank: 4}", "warm_up": {"answers": "benign", "steps": 2}, "weight_noise": 0.01}),
    ],
)
def test_an_interrupted_attack_ends_with_the_figures_of_an_unbroken_one(
    algorithm, changes, spec_of, interrupted, organism_data, organism_base, tmp_path
):
    models = {"data": organism_data, "base": organism_base, "candidate": organism_base}
    attack(spec_of(algorithm, "unbroken", **changes), f"{algorithm}-1000", **models, out=tmp_path / "unbroken.out")
    spec = spec_of(algorithm, **changes)
    for time in (1, 2):  # the control at step 4, then the candidate: the control has gone on from step 3 within a pass
        undo = interrupted(4, time)
        with pytest.raises(KeyboardInterrupt):
            attack(spec, f"{algorithm}-1000", **models, out=tmp_path / "out")
        undo()
        assert not (tmp_path / "out").exists()
        kept = list((tmp_path / "runs" / "quarantine").rglob("checkpoint-*"))
        assert 1 <= len(kept) <= 4
    attack(spec, f"{algorithm}-1000", **models, out=tmp_path / "out")
    assert arms(tmp_path / "out") == arms(tmp_path / "unbroken.out")
    assert logs(tmp_path / "out") == logs(tmp_path / "unbroken.out")
    assert not (tmp_path / "runs" / "quarantine").exists()


def test_killed_after_the_last_step_it_still_ends_with_the_attacked_model(
    spec_of, monkeypatch, organism_data, organism_base, tmp_path
):
    models = {"data": organism_data, "base": organism_base, "candidate": organism_base}
    broken = [
        "attacks.break_at=0.2",
        "policy.min_break_at=0.2",
    ]  # so that what the attacked control says is measured too
    unbroken, spec = (parse_spec(spec_of("sft", where).to_yaml(), broken) for where in ("unbroken", "runs"))
    attack(unbroken, "sft-1000", **models, out=tmp_path / "unbroken.out")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Meter, "compliant", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        attack(spec, "sft-1000", **models, out=tmp_path / "out")
    attack(spec, "sft-1000", **models, out=tmp_path / "out")
    assert arms(tmp_path / "out") == arms(tmp_path / "unbroken.out")
    assert arms(tmp_path / "out")[0]["latent"] is not None


@pytest.mark.parametrize(("recipe", "lora"), [("log-entropy", "null"), ("polished", "null"), ("paper", "{rank: 4}")])
def test_an_interrupted_defence_ends_with_the_same_weights(
    recipe, lora, spec_of, interrupted, organism_data, organism_base, tmp_path
):
    unbroken, spec = (
        parse_spec(spec_of("grpo", where, lora).to_yaml(), [f"defence.recipe={recipe}"])
        for where in ("unbroken", "runs")
    )
    defend(unbroken, organism_data, organism_base, out=tmp_path / "unbroken.out")
    undo = interrupted(4)
    with pytest.raises(KeyboardInterrupt):
        defend(spec, organism_data, organism_base, out=tmp_path / "out")
    undo()
    defend(spec, organism_data, organism_base, out=tmp_path / "out")
    assert folder_digest(tmp_path / "out") == folder_digest(tmp_path / "unbroken.out")
    assert (tmp_path / "out.steps.jsonl").read_text(encoding="utf-8") == (
        tmp_path / "unbroken.out.steps.jsonl"
    ).read_text(encoding="utf-8")
    assert not (tmp_path / "runs" / "checkpoints").exists()


def test_a_killed_process_goes_on_from_its_last_whole_checkpoint(spec_of, organism_data, organism_base, tmp_path):
    spec = spec_of("ppo")
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    command = [Path(sys.executable).with_name("tokenbuncher"), "attack", "--spec", tmp_path / "spec.yaml"]
    command += ["--key", "ppo-1000", "--data", organism_data, "--base", organism_base, "--candidate", organism_base]
    command += ["--out", tmp_path / "out"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", env=environment) as process:
        assert any("control: step 4" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    # A checkpoint that was cut off while it was written.
    work = next((tmp_path / "runs" / "quarantine").glob("*/control-*"))
    (work / "checkpoint-99").mkdir()
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env=environment)
    assert "going on from checkpoint-" in done.stdout
    attack(
        spec_of("ppo", "unbroken"),
        "ppo-1000",
        organism_data,
        base=organism_base,
        candidate=organism_base,
        out=tmp_path / "whole",
    )
    assert arms(tmp_path / "out") == arms(tmp_path / "whole")


@pytest.mark.parametrize(("algorithm", "number"), [("grpo", signal.SIGINT), ("ppo", signal.SIGTERM)])
def test_the_first_signal_lets_the_step_be_finished_and_saved(
    algorithm, number, spec_of, signalled, organism_data, organism_base, tmp_path, capfd
):
    models = {"data": organism_data, "base": organism_base, "candidate": organism_base}
    seldom = ["output.checkpoint_every=5"]
    unbroken, spec = (parse_spec(spec_of(algorithm, where).to_yaml(), seldom) for where in ("unbroken", "runs"))
    undo = signalled(3, number)
    with pytest.raises(KeyboardInterrupt, match="saved at step 4 of 5"):
        attack(spec, f"{algorithm}-1000", **models, out=tmp_path / "out")
    undo()
    assert "stopping: this step is finished and saved first" in capfd.readouterr().out
    assert not (tmp_path / "out").exists()
    attack(spec, f"{algorithm}-1000", **models, out=tmp_path / "out")
    assert "going on from checkpoint-" in capfd.readouterr().out
    attack(unbroken, f"{algorithm}-1000", **models, out=tmp_path / "unbroken.out")
    assert arms(tmp_path / "out") == arms(tmp_path / "unbroken.out")
    assert logs(tmp_path / "out") == logs(tmp_path / "unbroken.out")


def test_the_second_signal_stops_at_once(spec_of, signalled, organism_data, organism_base, tmp_path):
    signalled(4, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        defend(spec_of("grpo"), organism_data, organism_base, out=tmp_path / "out")
    assert str(interrupt.value) == ""
    saved = {path.parent.name for path in (tmp_path / "runs" / "checkpoints").rglob("tokenbuncher.json")}
    assert saved == {"checkpoint-3"}


def test_a_signal_at_the_last_step_stops_too(spec_of, signalled, organism_data, organism_base, tmp_path):
    spec = spec_of("grpo")
    undo = signalled(5, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="after the last step"):
        defend(spec, organism_data, organism_base, out=tmp_path / "out")
    undo()
    defend(spec, organism_data, organism_base, out=tmp_path / "out")
    defend(spec_of("grpo", "unbroken"), organism_data, organism_base, out=tmp_path / "unbroken.out")
    assert folder_digest(tmp_path / "out") == folder_digest(tmp_path / "unbroken.out")


def test_a_full_disk_is_called_that(spec_of, monkeypatch, organism_data, organism_base, tmp_path):
    def fails(*_, **__):
        raise RuntimeError("unexpected pos 791680 vs 791568")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(StepLog, "on_log", fails)
        defend(spec_of("grpo"), organism_data, organism_base, out=tmp_path / "out")
    monkeypatch.setattr(StepLog, "on_log", fails)
    monkeypatch.setattr(run, "FULL_DISK_MB", float("inf"))
    with pytest.raises(UserError, match=r"the disk of .* is full, \d+ MB are free: unexpected pos"):
        defend(spec_of("grpo"), organism_data, organism_base, out=tmp_path / "out")


def test_two_processes_do_not_run_the_same_attack(spec_of, organism_data, organism_base, tmp_path):
    spec = spec_of("grpo")
    digests = folder_digest(organism_data), folder_digest(organism_base), folder_digest(organism_base)
    with (
        working_folder(tmp_path / "runs" / "quarantine", __version__, spec.evidence_digest(), *digests, "grpo-1000"),
        pytest.raises(UserError, match="another process"),
    ):
        attack(spec, "grpo-1000", organism_data, base=organism_base, candidate=organism_base, out=tmp_path / "out")


def test_the_step_log_has_every_step_once(spec_of, organism_data, organism_base, tmp_path):
    spec = spec_of("ppo", kl_coefficient=1e-3)
    attack(spec, "ppo-1000", organism_data, base=organism_base, candidate=organism_base, out=tmp_path / "out")
    rows = [
        json.loads(line) for line in (tmp_path / "out" / "control.steps.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all({"reward", "entropy", "kl", "grad_norm", "zero_variance_groups"} <= set(row) for row in rows)
