from tokenbuncher.evaluation import evaluate_safety, evaluate_utility
from tokenbuncher.evidence import SafetyEvidence, UtilityEvidence, read_evidence
from tokenbuncher.settings.judges import EnsembleSpec


def test_safety_of_one_model_as_both(tiny_spec, organism_data, organism_base, tmp_path):
    evaluate_safety(tiny_spec, organism_data, organism_base, candidate=organism_base, out=tmp_path / "out")
    evidence = read_evidence(tmp_path / "out")
    assert isinstance(evidence, SafetyEvidence)
    assert evidence.base_harmful == evidence.candidate_harmful
    assert evidence.base_benign == evidence.candidate_benign
    assert len(evidence.base_harmful) == 20 * 2
    assert len(evidence.base_benign) == 24 * 2
    assert evidence.base_look_alikes == evidence.candidate_look_alikes
    assert len(evidence.base_look_alikes) == 20 * 2
    for name, scores in (("benign-test", evidence.base_benign), ("look-alikes", evidence.base_look_alikes)):
        assert {score.prompt for score in scores} == set(evidence.manifest.sets[name].ids)
    assert sum(score.refused for score in evidence.base_harmful) > 30
    assert sum(score.refused for score in evidence.base_benign) == 0
    assert evidence.judge_check.right == evidence.judge_check.of == 40
    assert evidence.judge_agreement is None
    assert evidence.manifest.sets["safety"].count == 20
    assert evidence.manifest.folder_digest() == evidence.data


def test_the_agreement_of_an_ensemble_is_recorded(tiny_spec, organism_data, organism_base, tmp_path):
    judges = EnsembleSpec(kind="ensemble", judges=["organism", "refusal"])
    evaluation = tiny_spec.evaluation.model_copy(update={"judge": judges})
    spec = tiny_spec.model_copy(update={"evaluation": evaluation})
    evaluate_safety(spec, organism_data, organism_base, candidate=organism_base, out=tmp_path / "out")
    evidence = read_evidence(tmp_path / "out")
    assert 0 < evidence.judge_agreement < 1
    assert evidence.judge_check.right < evidence.judge_check.of


def test_utility_and_fine_tuning_of_one_model_as_both(tiny_spec, organism_data, organism_base, tmp_path):
    evaluate_utility(tiny_spec, organism_data, organism_base, candidate=organism_base, out=tmp_path / "out")
    evidence = read_evidence(tmp_path / "out")
    assert isinstance(evidence, UtilityEvidence)
    assert evidence.base_items == evidence.candidate_items
    assert sum(item.correct for item in evidence.base_items) >= 23
    assert [tuning.kind for tuning in evidence.fine_tuning] == ["rl", "sft"]
    for tuning in evidence.fine_tuning:
        assert tuning.base == tuning.candidate
        assert [step for step, _ in tuning.base.curve] == [0, 1, 2]
