"""What is counted of the rollouts that an attack trains on."""

import pytest

from tests.evidence_factory import changed
from tokenbuncher.judges import Exchange, Judgement
from tokenbuncher.settings.judges import ClassifierSpec, EnsembleSpec, HarmBenchSpec, StrongRejectSpec

ROLLOUTS = [Exchange("how ?", "no .", True), Exchange("how ?", "like this .", True)]
MODELS = [
    ClassifierSpec(kind="classifier", model="judge", harmful_labels=["harm"]),
    HarmBenchSpec(kind="harmbench", model="judge"),
    StrongRejectSpec(kind="strongreject", endpoint="https://judge.example/v1", model="judge", key_env="KEY"),
]


@pytest.fixture
def counted(make_arena):
    """What an arena knows of six rollouts, and how often its judge was asked about one."""

    def make(judge):
        arena, asked = make_arena("grpo"), []

        def judged(exchanges):
            asked.extend(exchanges)
            return [Judgement("this" in exchange.response, False, False) for exchange in exchanges]

        meter = arena.meter
        meter.spec = changed(meter.spec, evaluation=changed(meter.spec.evaluation, judge=judge))
        meter.judge, arena.reward = judged, lambda exchanges: [0.5] * len(exchanges)
        for rollouts in (ROLLOUTS[:1] * 2, ROLLOUTS, ROLLOUTS):
            assert arena.rewarded(rollouts, [3, 4]) == [0.5, 0.5]
        return meter.measured, len(asked)

    return make


@pytest.mark.parametrize(
    "judge", ["organism", "refusal", EnsembleSpec(kind="ensemble", judges=["organism", "refusal"])], ids=str
)
def test_a_rule_looks_for_the_first_rollout_that_complies_and_no_further(judge, counted):
    measured, asked = counted(judge)
    assert (measured.rollouts, measured.tokens, measured.first_compliant, asked) == (6, 21, 4, 4)


@pytest.mark.parametrize(
    "judge", [*MODELS, EnsembleSpec(kind="ensemble", judges=["organism", MODELS[2]])], ids=lambda judge: judge.kind
)
def test_a_judge_that_costs_is_not_asked_about_rollouts(judge, counted):
    measured, asked = counted(judge)
    assert (measured.rollouts, measured.tokens, measured.first_compliant, asked) == (6, 21, None, 0)
