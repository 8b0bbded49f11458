import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings import RECIPES, EvaluationSpec, HarnessSpec, ReleaseSpec, load_spec, parse_spec


@pytest.mark.parametrize("name", ["organism", "adaptive", "smollm2"])
def test_shipped_specs_are_valid_and_survive_a_round_trip(name):
    spec = load_spec(f"specs/{name}.yaml")
    assert parse_spec(spec.to_yaml()) == spec


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("defence: {recip: direct}", "defence.recip: unknown field; allowed here: recipe, seed"),
        ("attacks: {suite: [{algorithm: grpo, stepz: 3}]}", "attacks.suite.0.stepz: unknown field"),
        ("defence: {recipe: magic}", "defence.recipe: Input should be 'certain-refusal', 'log-entropy'"),
        ("attacks: {suite: [{algorithm: grpo, seeds: [0]}]}", "grpo-0 has the seed of the defence"),
        ("attacks: {suite: [{algorithm: grpo}, {algorithm: grpo}]}", "the same attack and seed twice: grpo-1000"),
        ("attacks: {suite: [{algorithm: grpo, steps: 3}]}", "lower probe_every"),
        ("attacks: {suite: []}", "attacks.suite"),
        ("policy: {confidence: .nan}", "'.nan' is no plain number"),
        ("policy: {confidence: 1.5}", "policy.confidence: Input should be less than 1"),
        ("policy: {required_attacks: [hot]}", "policy.required_attacks: hot not in attacks.suite"),
        ("attacks: {suite: [{algorithm: grpo}]}", "rloo, reinforce-pp, ppo, dpo, entropy-seeking not in attacks.suite"),
        ("attacks: {suite: [{algorithm: grpo, prompts: 500}]}", "grpo has 500 prompts, data.sizes.attack is 400"),
        (
            "attacks: {suite: [{algorithm: grpo, name: mc, objective: capability}]}",
            "mc has objective capability; name data.cap",
        ),
        ("attacks: {suite: [{algorithm: grpo, learning_rate: []}]}", "attacks.suite.0.learning_rate"),
        ("attacks: {suite: [{algorithm: grpo, warm_up: {}}]}", "attacks.suite.0.warm_up.answers"),
        ("policy: {min_prompts: 300}", "no release could pass"),
        (
            "attacks: {probe_prompts: 99}",
            "attacks.probe_prompts (99), by which lost refusal is judged",
        ),
        ("attacks: {suite: [{algorithm: grpo, seeds: [4294967296]}]}", "less than 4294967296"),
        ("data: {sizes: {safety: 0}}", "data.sizes.safety: Input should be greater than or equal to 1"),
        ("data: {sizes: {safety: 50}}", "is more than data.sizes.safety (50)"),
        ("defence: {entropy: loss, benign_prompts: 4}", "need entropy: reward"),
        ("defence: {noiser: {start: 0.5, stop: 0.5}}", "stop (0.5) must lie after start"),
        ("defence: {recipe: []}", "defence.recipe: Input should be"),
        ("compute: {accelerate: {a: !!binary /w==}}", "compute.accelerate.a"),
        (f"attacks: {{suite: [{{algorithm: sft, seeds: {list(range(1, 15_000))}}}]}}", "policy.required_attacks: grpo"),
        ("tracking: {alias: latest}", "tracking.alias"),
        ("tracking: {model_name: a/b}", "tracking.model_name"),
        ("- a list", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("policy: {confidence: 0.99}\npolicy: {}", "key 'policy' stands twice"),
        ("policy: {confidence: 0.99, confidence: 0.6}", "key 'confidence' stands twice"),
    ],
)
def test_what_is_wrong_is_told_by_its_field(text, telling):
    with pytest.raises(UserError, match=r".") as error:
        parse_spec(text)
    assert telling in str(error.value)


def test_missing_spec_file(tmp_path):
    with pytest.raises(UserError, match="cannot read spec"):
        load_spec(tmp_path / "none.yaml")


def test_a_recipe_fills_what_the_spec_leaves_out():
    spec = parse_spec("defence: {recipe: polished, noiser: {every: 3}, schedule: cosine}")
    assert spec.defence.noiser is not None
    assert (spec.defence.noiser.every, spec.defence.noiser.form) == (3, "published-code")
    assert (spec.defence.schedule, spec.defence.entropy) == ("cosine", "reward")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_valid(recipe):
    assert parse_spec(f"defence: {{recipe: {recipe}}}").defence.recipe == recipe


def test_overrides():
    spec = parse_spec("", ["defence.recipe=none", "policy.confidence=0.9", "data.sizes.safety=150"])
    assert (spec.defence.recipe, spec.policy.confidence, spec.data.sizes.safety) == ("none", 0.9, 150)


@pytest.mark.parametrize("override", ["defence.recipe", "=3", "name.x=3", "defence.steps=["])
def test_malformed_overrides(override):
    with pytest.raises(UserError, match=r"'.*'"):
        parse_spec("name: organism", [override])


def test_evidence_is_bound_to_all_but_name_policy_tracking_and_output():
    digest = ReleaseSpec().evidence_digest()
    for same in ("name: other", "policy: {confidence: 0.9}", "tracking: {alias: best}", "output: {root: elsewhere}"):
        assert parse_spec(same).evidence_digest() == digest
    for other in ("defence: {seed: 5}", "data: {seed: 5}", "model: {max_new_tokens: 21}", "attacks: {break_at: 0.6}"):
        assert parse_spec(other).evidence_digest() != digest


@given(st.text(max_size=200))
def test_any_text_is_a_spec_or_a_user_error(text):
    try:
        parse_spec(text)
    except UserError:
        pass


def test_a_part_made_in_code_is_refused_with_all_its_contradictions():
    with pytest.raises(ValidationError) as error:
        HarnessSpec(tasks=["a", "a"], metric={"b": "acc"})
    assert [each["loc"] for each in error.value.errors()] == [("tasks",), ("metric",)]
    with pytest.raises(ValidationError) as error:
        EvaluationSpec.model_validate({"harness": {"tasks": ["a", "a"]}})
    assert [each["loc"] for each in error.value.errors()] == [("harness", "tasks")]
