"""What a spec may say of judges and rewards."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.judges import same_measure, same_model

CLASSIFIER = {"kind": "classifier", "model": "hf://org/judge@main", "harmful_labels": ["harm"]}
HARMBENCH = {"kind": "harmbench", "model": "hf://org/judge@main"}
STRONGREJECT = {"kind": "strongreject", "endpoint": "https://x/v1", "model": "m"}
MODELS = [CLASSIFIER, HARMBENCH, STRONGREJECT]


def spec(judge="organism", reward="organism-classifier"):
    return parse_spec("", [f"evaluation.judge={json.dumps(judge)}", f"attacks.reward={json.dumps(reward)}"])


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
        ({"judge": "compliance"}, "evaluation.judge: Input should be 'organism' or 'refusal'"),
        ({"judge": {"kind": "oracle"}}, "evaluation.judge: give a built-in name, or a mapping with a kind"),
        ({"judge": 5}, "evaluation.judge: give a built-in name"),
        ({"reward": {"kind": "ensemble", "judges": ["refusal", "organism"]}}, "attacks.reward: give a built-in name"),
        ({"judge": {"kind": "ensemble", "judges": ["refusal"]}}, "at least 2 items"),
        ({"judge": CLASSIFIER | {"harmful_labels": []}}, "at least 1 item"),
        ({"judge": CLASSIFIER | {"model": "hf://org/judge"}}, "write hf://org/name@revision"),
        ({"judge": HARMBENCH | {"prompt": "/nowhere"}}, "cannot read text /nowhere"),
        ({"judge": STRONGREJECT | {"key": "sk-1"}}, "evaluation.judge.key: unknown field"),
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


SHA, COMMIT = "a" * 64, "0123456789" * 4
SAME_SOURCES = [
    *[("hf://org/judge@main", f"hf://org/judge@{revision}") for revision in ("v2", COMMIT, "refs/pr/1", "main/")],
    ("hf://org/judge@main", f"hf://org/judge@main#sha256={SHA}"),
    ("hf://org/judge@main", "hf://Org/Judge@main"),
    ("hf://org/judge@main", " hf://org/judge@main "),
    ("hf://org/judge@main", "HF://org/judge@main"),
    (f"hf://org/judge@main#sha256={SHA}", f"s3://models/copy#sha256={SHA}"),
    (f"/models/judge#sha256={SHA}", f"models:/judge/1#sha256={SHA}"),
    ("s3://models/judge", "s3://models/judge/"),
    ("s3://models/judge", "s3://models/./x/../judge"),
    ("s3://models/judge", f"s3://models/judge#sha256={SHA}"),
    ("models:/judge/1", "models:/judge@champion"),
    ("models:/judge/1", "models:/judge/2"),
    ("/models/judge", "/models/judge/"),
    ("/models/judge", "file:///models/judge"),
    ("/models/judge", "file://localhost/models/../models/judge"),
    ("/models/my judge", "file:///models/my%20judge"),
    ("models/judge", "./models/judge"),
    ("models/judge", "models//judge/."),
    ("models/judge", "/somewhere/else/models/judge"),
    ("judge", "/somewhere/else/judge"),
    ("../shared/judge", "/somewhere/else/shared/judge"),
]


@pytest.mark.parametrize("kind", [CLASSIFIER, HARMBENCH])
@pytest.mark.parametrize(("one", "other"), SAME_SOURCES)
def test_where_a_model_is_from_makes_it_no_other(one, other, kind):
    for judge, reward in ((one, other), (other, one)):
        both = spec(judge=kind | {"model": judge}, reward=kind | {"model": reward})
        assert same_measure(both.attacks.reward, both.evaluation.judge)


def test_nor_does_a_link_or_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "models" / "judge").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    for spelling in (tmp_path / "link" / "judge", "link/judge", "models/judge", f"file://{tmp_path}/link/judge/"):
        both = spec(
            judge=CLASSIFIER | {"model": str(tmp_path / "models" / "judge")},
            reward=CLASSIFIER | {"model": str(spelling)},
        )
        assert same_measure(both.attacks.reward, both.evaluation.judge)


LABELS = CLASSIFIER | {"harmful_labels": ["violence", "theft"]}


@pytest.mark.parametrize(
    ("judge", "reward"),
    [
        (LABELS, LABELS | {"harmful_labels": ["theft", "violence"]}),
        (LABELS, LABELS | {"harmful_labels": ["violence", "violence", "theft"]}),
        (LABELS, LABELS | {"harmful_labels": [" theft", "Violence "]}),
        (LABELS, LABELS | {"harmful_labels": ["theft"]}),
        (LABELS, LABELS | {"harmful_labels": ["theft", "other"]}),
        (CLASSIFIER, CLASSIFIER | {"template": "{prompt} {response}"}),
        (CLASSIFIER | {"template": "{prompt} {response}"}, CLASSIFIER | {"template": "{prompt}  {response} "}),
        (HARMBENCH, HARMBENCH | {"prompt": "as on the card\n{behavior}\n{generation}"}),
        (STRONGREJECT, STRONGREJECT | {"rubric": "spelled out\n{forbidden_prompt}\n{response}"}),
        (STRONGREJECT, STRONGREJECT | {"harmful_at": 0.1, "retries": 1, "key_env": "KEY"}),
        *[
            (STRONGREJECT, STRONGREJECT | {"endpoint": endpoint})
            for endpoint in ("https://x/v1/", "http://x/v1", "https://X/v1", "https://x:443/v1", "https://proxy/v1")
        ],
        *[
            (STRONGREJECT | {"model": "org/gpt-5"}, STRONGREJECT | {"model": model})
            for model in ("gpt-5", " GPT-5 ", "gpt-5-2026-01-31", "gpt-5-20260131", "gpt-5:latest", "gpt-5-0613")
        ],
        ({"kind": "ensemble", "harmful_if": "majority", "judges": [CLASSIFIER, CLASSIFIER, "refusal"]}, CLASSIFIER),
        (
            {"kind": "ensemble", "judges": [CLASSIFIER, CLASSIFIER | {"model": f"hf://org/judge@{COMMIT}"}]},
            CLASSIFIER,
        ),
    ],
)
def test_nor_does_how_it_is_asked(judge, reward):
    both = spec(judge=judge, reward=reward)
    assert same_measure(both.attacks.reward, both.evaluation.judge)


@given(st.sampled_from(SAME_SOURCES), st.sampled_from(SAME_SOURCES))
def test_it_is_the_same_both_ways_and_the_same_as_itself(pair, another):
    for one in (*pair, *another):
        assert same_model(one, one)
        for other in (*pair, *another):
            assert same_model(one, other) == same_model(other, one)


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
        (CLASSIFIER, CLASSIFIER | {"model": "hf://org/other@main"}),
        (CLASSIFIER, CLASSIFIER | {"model": "hf://another/judge@main"}),
        (CLASSIFIER | {"model": "s3://models/judge"}, CLASSIFIER | {"model": "s3://other/judge"}),
        (CLASSIFIER | {"model": "models:/judge/1"}, CLASSIFIER | {"model": "models:/reward/1"}),
        (CLASSIFIER | {"model": "a/judge"}, CLASSIFIER | {"model": "/models/b/judge"}),
        (CLASSIFIER | {"model": "/x/judge"}, CLASSIFIER | {"model": "/y/judge"}),
        (STRONGREJECT, STRONGREJECT | {"model": "n"}),
        (STRONGREJECT | {"model": "gpt-4o"}, STRONGREJECT | {"model": "gpt-4o-mini"}),
        ({"kind": "ensemble", "harmful_if": "majority", "judges": ["refusal", CLASSIFIER, HARMBENCH]}, CLASSIFIER),
        ({"kind": "ensemble", "harmful_if": "any", "judges": [CLASSIFIER, CLASSIFIER, "refusal"]}, CLASSIFIER),
        ({"kind": "ensemble", "judges": ["refusal", CLASSIFIER]}, CLASSIFIER),
        (CLASSIFIER | {"model": "/models/judge"}, CLASSIFIER | {"model": "/models/other"}),
    ],
)
def test_others_are_not(judge, reward):
    both = spec(judge=judge, reward=reward)
    assert not same_measure(both.attacks.reward, both.evaluation.judge)
