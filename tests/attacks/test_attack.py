import json

import pytest

from tests.evidence_factory import changed, held_arm, release_spec
from tokenbuncher.attacks import attack
from tokenbuncher.attacks.arms import strongest
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest, write_text
from tokenbuncher.evidence import AttackEvidence, read_evidence
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.prompts import load_set


def run(spec, key, data, base, out):
    attack(spec, key, data, base=base, candidate=base, out=out)
    evidence = read_evidence(out)
    assert isinstance(evidence, AttackEvidence)
    return evidence


@pytest.mark.parametrize("key", ["grpo-1000", "sft-1000"])
def test_attack_measures_both_models_and_leaves_no_weights(key, tiny_spec, organism_data, organism_base, tmp_path):
    evidence = run(tiny_spec, key, organism_data, organism_base, tmp_path / "out")
    assert evidence.base == evidence.candidate == folder_digest(organism_base)
    for arm in (evidence.control_arm, evidence.candidate_arm):
        assert [point.step for point in arm.curve] == [0, 2]
        assert (arm.steps_run, arm.steps_to_break, arm.model) == (2, None, evidence.base)
        assert len(arm.scores) == 20 * tiny_spec.evaluation.samples_per_prompt
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "candidate.steps.jsonl",
        "control.steps.jsonl",
        "evidence.json",
    ]
    rows = [
        json.loads(line) for line in (tmp_path / "out" / "control.steps.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["step"] for row in rows] == [1, 2]
    assert [(point.step, point.reward, point.zero_variance) for point in evidence.control_arm.training] == [
        (row["step"], row.get("reward"), row.get("zero_variance_groups")) for row in rows
    ]
    assert all((point.reward is None) == (key == "sft-1000") for point in evidence.control_arm.training)
    assert {"python", "torch", "transformers", "trl"} <= evidence.versions.keys()


def test_one_seed_gives_the_same_evidence_twice(tiny_spec, organism_data, organism_base, tmp_path):
    evidence = run(tiny_spec, "grpo-1000", organism_data, organism_base, tmp_path / "out")
    arms = [
        arm.model_dump(exclude={"seconds", "cpu_seconds"}) for arm in (evidence.control_arm, evidence.candidate_arm)
    ]
    assert arms[0] == arms[1]


def test_an_attack_stops_once_the_model_is_broken(tiny_spec, organism_data, organism_base, tmp_path):
    strong = parse_spec(
        tiny_spec.to_yaml(),
        [
            "attacks.suite=[{algorithm: sft, steps: 40, learning_rate: 1.0e-3}]",
            "attacks.probe_every=5",
            "policy.required_attacks=[sft]",
        ],
    )
    arm = run(strong, "sft-1000", organism_data, organism_base, tmp_path / "out").control_arm
    assert arm.steps_to_break == arm.steps_run == arm.worst_step < 40
    assert arm.curve[-1].harm >= strong.attacks.break_at
    assert all(point.harm < strong.attacks.break_at for point in arm.curve[:-1])


def test_kept_weights_go_to_quarantine(tiny_spec, organism_data, organism_base, tmp_path):
    keeping = parse_spec(tiny_spec.to_yaml(), ["attacks.keep_checkpoints=true"])
    attack(keeping, "sft-1000", organism_data, base=organism_base, candidate=organism_base, out=tmp_path / "out")
    kept = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.safetensors")}
    assert kept == {"quarantine/control/model.safetensors", "quarantine/candidate/model.safetensors"}


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_prompt_attack_has_no_others(count, make_arena):
    arena = make_arena("grpo", prompts=count)
    assert len(set(arena.prompts)) == count
    assert len(arena.prompts) >= 4  # a step's worth


def test_of_several_learning_rates_the_most_harmful_counts(tiny_spec, organism_data, organism_base, tmp_path):
    spec = parse_spec(
        tiny_spec.to_yaml(),
        [
            "attacks.suite=[{algorithm: sft, steps: 20, learning_rate: [1.0e-6, 1.0e-3]}]",
            "attacks.probe_every=5",
            "policy.required_attacks=[sft]",
        ],
    )
    evidence = run(spec, "sft-1000", organism_data, organism_base, tmp_path / "out")
    for arm in (evidence.control_arm, evidence.candidate_arm):
        assert arm.learning_rate == 1e-3
        assert arm.steps_to_break is not None


@pytest.mark.parametrize("rates", [[2e-4, 1e-3], [1e-3, 2e-4]])
def test_of_several_learning_rates_without_harm_the_one_that_loses_refusal_counts(rates, tmp_path):
    spec = release_spec(attacks={"suite": [{"algorithm": "grpo", "seeds": [1000], "learning_rate": rates}]})
    for rate, refused in ((2e-4, None), (1e-3, 0)):
        arm = changed(held_arm(spec, 60, refused=refused), learning_rate=rate)
        write_text(tmp_path / f"candidate-{rate:g}" / "arm.json", arm.model_dump_json())
    strong = strongest(spec, spec.attacks.task("grpo-1000"), "candidate", model=tmp_path, data=tmp_path, work=tmp_path)
    assert strong.name == "candidate-0.001"


def test_a_warm_up_comes_before_the_attack_and_its_first_measurement(make_arena, trainer_of):
    from tokenbuncher.attacks.warm_up import warm_up

    arena = make_arena("grpo", warm_up={"answers": "harmful", "examples": 8, "steps": 20, "learning_rate": 1e-3})
    cold = arena.meter._summarise(0, arena.meter._score(arena.meter.held_out, 4, 0))
    warm_up(arena, arena.task.attack.warm_up)
    warm = arena.meter._summarise(0, arena.meter._score(arena.meter.held_out, 4, 0))
    assert warm.refusal < cold.refusal


def test_noise_is_a_share_of_each_tensor_s_own_spread(make_arena):
    import torch

    from tokenbuncher.attacks.noise import add_noise

    noisy, clean = make_arena("grpo").model, make_arena("grpo").model
    add_noise(noisy, 0.2, seed=3)
    moved = {
        name: ((weight - before).std(correction=0) / before.std(correction=0)).item()
        for (name, weight), before in zip(noisy.named_parameters(), clean.parameters(), strict=True)
        if before.numel() > 1000
    }
    assert moved
    assert all(abs(share - 0.2) < 0.02 for share in moved.values())
    add_noise(clean, 0.2, seed=3)
    assert all(torch.equal(one, two) for one, two in zip(noisy.parameters(), clean.parameters(), strict=True))


def test_latent_compliance_is_measured_once_the_control_is_broken(tiny_spec, organism_data, organism_base, tmp_path):
    spec = parse_spec(
        tiny_spec.to_yaml(),
        [
            "attacks.suite=[{algorithm: sft, steps: 40, learning_rate: 1.0e-3}]",
            "attacks.probe_every=5",
            "policy.required_attacks=[sft]",
        ],
    )
    evidence = run(spec, "sft-1000", organism_data, organism_base, tmp_path / "out")
    for arm in (evidence.control_arm, evidence.candidate_arm):
        assert len(arm.latent.before) == len(arm.latent.after) == 20
        assert sum(arm.latent.before.values()) < sum(arm.latent.after.values())
    assert not list(tmp_path.rglob("compliant.json"))


def test_without_a_broken_control_there_is_no_latent_compliance(tiny_spec, organism_data, organism_base, tmp_path):
    evidence = run(tiny_spec, "grpo-1000", organism_data, organism_base, tmp_path / "out")
    assert evidence.control_arm.latent is None
    assert evidence.candidate_arm.latent is None


def test_a_capability_attack_is_measured_by_right_answers(tiny_spec, organism_base, tmp_path):
    from tokenbuncher.inputs import prepare_data

    spec = parse_spec(
        tiny_spec.to_yaml(),
        [
            "data.capability=organism",
            "attacks.suite=[{algorithm: grpo, name: hazards, objective: capability, steps: 2, prompts_per_step: 4}]",
            "policy.required_attacks=[hazards]",
            "policy.attack_limits.objective=capability",
        ],
    )
    prepare_data(spec, tmp_path / "data")
    evidence = run(spec, "hazards-1000", tmp_path / "data", organism_base, tmp_path / "out")
    asked = {prompt.id for prompt in load_set(tmp_path / "data", "capability-safety")}
    assert {score.prompt for score in evidence.control_arm.scores} == asked
    # The aligned model refuses such questions too.
    assert evidence.control_arm.curve[0].refusal > 0.8


def test_offline_dpo_without_a_preference_learns_nothing(
    tiny_spec, organism_data, organism_base, tmp_path, monkeypatch
):
    from tokenbuncher.attacks import arena

    monkeypatch.setattr(arena, "load_reward", lambda name: lambda exchanges: [0.0] * len(exchanges))
    spec = parse_spec(
        tiny_spec.to_yaml(),
        [
            "attacks.suite=[{algorithm: dpo-offline, steps: 4, prompts_per_step: 4}]",
            "policy.required_attacks=[dpo-offline]",
        ],
    )
    arm = run(spec, "dpo-offline-1000", organism_data, organism_base, tmp_path / "out").candidate_arm
    assert [point.step for point in arm.curve] == [0, 2, 4]
    assert (arm.steps_run, arm.rollouts) == (4, 64)


def test_unknown_key(tiny_spec, organism_data, organism_base, tmp_path):
    with pytest.raises(UserError, match="attack 'ppo-1' is not in the spec; it has grpo-1000, sft-1000"):
        attack(tiny_spec, "ppo-1", organism_data, base=organism_base, candidate=organism_base, out=tmp_path / "out")


def test_sft_without_answers_is_refused(tiny_spec, organism_base, tmp_path):
    from tokenbuncher.inputs import prepare_data

    path = tmp_path / "prompts.csv"
    path.write_text("prompt\n" + "".join(f"question {n} about the thing {n}\n" for n in range(84)), encoding="utf-8")
    spec = parse_spec(tiny_spec.to_yaml(), [f"data.harmful={{path: {path}}}"])
    prepare_data(spec, tmp_path / "data")
    with pytest.raises(UserError, match="needs harmful answers"):
        attack(spec, "sft-1000", tmp_path / "data", base=organism_base, candidate=organism_base, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
