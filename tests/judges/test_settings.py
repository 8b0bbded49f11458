"""What a spec may say of judges and rewards."""

import pytest

from tokenbuncher.errors import UserError
from tokenbuncher.judges.settings import same_measure
from tokenbuncher.settings import parse_spec

CLASSIFIER = {"kind": "classifier", "model": "hf://org/judge@main", "harmful_labels": ["harm"]}
HARMBENCH = {"kind": "harmbench", "model": "hf://org/judge@main"}
STRONGREJECT = {"kind": "strongreject", "endpoint": "https://x/v1", "model": "m"}
MODELS = [CLASSIFIER, HARMBENCH, STRONGREJECT]


def spec(judge="organism", reward="organism-classifier"):
    return parse_spec("", [f"evaluation.judge={judge}", f"attacks.reward={reward}"])


@pytest.mark.parametrize(
    "judge", ["organism", "refusal", *MODELS, {"kind": "ensemble", "judges": ["refusal", CLASSIFIER]}]
)
def test_a_judge_of_each_kind_survives_the_way_through_yaml(judge):
    written = spec(judge=judge)
    assert parse_spec(written.to_yaml()) == written


@pytest.mark.parametrize("reward", ["organism-classifier", "organism-exact", "compliance", *MODELS])
def test_a_reward_of_each_kind_survives_the_way_through_yaml(reward):
    written = spec(reward=reward)
    assert parse_spec(written.to_yaml()) == written


@pytest.mark.parametrize(
    ("fields", "telling"),
    [
        ({"judge": "compliance"}, "evaluation.judge.name: Input should be 'organism' or 'refusal'"),
        ({"judge": {"kind": "oracle"}}, "evaluation.judge: give a built-in name, or a mapping with a kind"),
        ({"judge": 5}, "evaluation.judge: give a built-in name"),
        ({"reward": {"kind": "ensemble", "judges": ["refusal", "organism"]}}, "attacks.reward: give a built-in name"),
        ({"judge": {"kind": "ensemble", "judges": ["refusal"]}}, "at least 2 items"),
        ({"judge": CLASSIFIER | {"harmful_labels": []}}, "at least 1 item"),
        ({"judge": CLASSIFIER | {"model": "hf://org/judge"}}, "write hf://org/name@revision"),
        ({"judge": HARMBENCH | {"prompt": "/nowhere"}}, "cannot read text /nowhere"),
        ({"judge": STRONGREJECT | {"key": "sk-1"}}, "evaluation.judge.strongreject.key: unknown field"),
    ],
)
def test_what_cannot_judge_is_refused_with_its_place(fields, telling):
    with pytest.raises(UserError) as error:
        spec(**fields)
    assert telling in str(error.value)


def test_every_setting_that_shapes_a_judgement_shapes_the_digest():
    assert spec(judge=CLASSIFIER).evidence_digest() != spec(judge=CLASSIFIER | {"threshold": 0.4}).evidence_digest()


@pytest.mark.parametrize("model", MODELS)
def test_a_reward_with_the_judge_s_model_and_settings_is_the_judge(model):
    both = spec(judge=model, reward=model)
    assert same_measure(both.attacks.reward, both.evaluation.judge)


@pytest.mark.parametrize("spelling", ["/models/judge/", "file:///models/judge", "/models/./judge"])
def test_spelling_makes_it_no_other(spelling):
    both = spec(judge=CLASSIFIER | {"model": "/models/judge"}, reward=CLASSIFIER | {"model": spelling})
    assert same_measure(both.attacks.reward, both.evaluation.judge)


def test_an_ensemble_of_the_reward_alone_is_the_reward():
    both = spec(judge={"kind": "ensemble", "judges": [CLASSIFIER, CLASSIFIER | {"threshold": 0.3}]}, reward=CLASSIFIER)
    assert same_measure(both.attacks.reward, both.evaluation.judge)


@pytest.mark.parametrize("change", [{"threshold": 0.3}, {"batch_size": 2}])
def test_where_the_judge_draws_the_line_makes_it_no_other(change):
    both = spec(judge=CLASSIFIER | change, reward=CLASSIFIER)
    assert same_measure(both.attacks.reward, both.evaluation.judge)


@pytest.mark.parametrize(
    ("judge", "reward"),
    [
        ("organism", "organism-exact"),
        ("refusal", "compliance"),
        (CLASSIFIER, HARMBENCH),
        (CLASSIFIER, CLASSIFIER | {"harmful_labels": ["violence"]}),
        (CLASSIFIER, CLASSIFIER | {"model": "hf://org/judge@v2"}),
        ({"kind": "ensemble", "judges": ["refusal", CLASSIFIER]}, CLASSIFIER),
        (CLASSIFIER | {"model": "/models/judge"}, CLASSIFIER | {"model": "/models/other"}),
    ],
)
def test_others_are_not(judge, reward):
    both = spec(judge=judge, reward=reward)
    assert not same_measure(both.attacks.reward, both.evaluation.judge)
