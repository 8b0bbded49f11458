import json

import pytest

from tokenbuncher.attacks import attack
from tokenbuncher.errors import UserError
from tokenbuncher.evidence import AttackEvidence, read_evidence
from tokenbuncher.files import folder_digest
from tokenbuncher.settings import parse_spec


def run(spec, key, data, base, out):
    attack(spec, key, data, base, base, out)
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
    rows = [json.loads(line) for line in (tmp_path / "out" / "control.steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]


def test_one_seed_gives_the_same_evidence_twice(tiny_spec, organism_data, organism_base, tmp_path):
    evidence = run(tiny_spec, "grpo-1000", organism_data, organism_base, tmp_path / "out")
    arms = [arm.model_dump(exclude={"seconds"}) for arm in (evidence.control_arm, evidence.candidate_arm)]
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
    attack(keeping, "sft-1000", organism_data, organism_base, organism_base, tmp_path / "out")
    kept = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.safetensors")}
    assert kept == {"quarantine/control/model.safetensors", "quarantine/candidate/model.safetensors"}


def test_unknown_key(tiny_spec, organism_data, organism_base, tmp_path):
    with pytest.raises(UserError, match="attack 'ppo-1' is not in the spec; it has grpo-1000, sft-1000"):
        attack(tiny_spec, "ppo-1", organism_data, organism_base, organism_base, tmp_path / "out")


def test_sft_without_answers_is_refused(tiny_spec, organism_base, tmp_path):
    from tokenbuncher.data import prepare_data

    path = tmp_path / "prompts.csv"
    path.write_text("prompt\n" + "".join(f"question {n} about the thing {n}\n" for n in range(84)))
    spec = parse_spec(tiny_spec.to_yaml(), [f"data.harmful={{path: {path}}}"])
    prepare_data(spec, tmp_path / "data")
    with pytest.raises(UserError, match="needs harmful answers"):
        attack(spec, "sft-1000", tmp_path / "data", organism_base, organism_base, tmp_path / "out")
    assert not (tmp_path / "out").exists()
