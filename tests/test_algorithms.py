"""The table of algorithms, and their hyperparameters: in the spec, in its digest, in the evidence, under a policy."""

import importlib.util
import json

import pytest

from tests.evidence_factory import changed, passing_release, release_spec
from tokenbuncher.core.errors import UserError
from tokenbuncher.evidence import AttackEvidence, read_evidence, write_evidence
from tokenbuncher.settings import AttackSpec, ReleaseSpec, parse_spec
from tokenbuncher.settings.algorithms import ALGORITHMS
from tokenbuncher.settings.policy import PolicySpec
from tokenbuncher.verdict import Outcome

DEFAULTS = {
    "ppo": {"epochs": 2, "clip": 0.2, "value_clip": 0.2, "gae_decay": 0.95, "critic_rate": 5.0},
    "dpo": {"beta": 0.1, "margin": 0.0},
    "dpo-offline": {"beta": 0.1, "margin": 0.0},
    "entropy-seeking": {"entropy_cap": 3.0, "entropy_coefficient": 0.01},
}
OTHERS = {
    "epochs": 3,
    "clip": 0.3,
    "value_clip": 0.3,
    "gae_decay": 0.9,
    "critic_rate": 1.0,
    "beta": 0.2,
    "margin": 0.1,
    "entropy_cap": 2.0,
    "entropy_coefficient": 0.02,
}
EACH = [(algorithm, name) for algorithm, defaults in DEFAULTS.items() for name in defaults]
RECORDED = "8cb9fbe20211f45b71a7c0edd8e689aa7f3ed55a9de9d298276c4e927f802c95"
"""The evidence digest of the default spec, as it was recorded before specs had hyperparameters."""


def suite(*attacks):
    return [f"attacks.suite={json.dumps([{'algorithm': 'grpo'}, *attacks])}", "policy.required_attacks=[grpo]"]


def ppo_release(**hyperparameters):
    """A release that requires GRPO, and reports PPO with other hyperparameters."""
    own = {"algorithm": "ppo", "name": "own", "seeds": [1000], "hyperparameters": hyperparameters}
    grpo = {"algorithm": "grpo", "seeds": [1000]}
    return passing_release(release_spec(attacks={"suite": [grpo, own]}, policy={"required_attacks": ["grpo"]}))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm_is_a_module_of_its_name(algorithm):
    assert importlib.util.find_spec(f"tokenbuncher.attacks.{algorithm.replace('-', '_')}")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_an_algorithm_has_by_default(algorithm):
    attack = AttackSpec(algorithm=algorithm)
    assert attack.hyperparameters.model_dump() == DEFAULTS.get(algorithm, {})
    assert attack.model_dump().get("hyperparameters", {}) == DEFAULTS.get(algorithm, {})
    assert attack.changed_hyperparameters() == []


def test_a_new_algorithm_is_not_required_nor_run_unless_somebody_says_so():
    required = ["grpo", "rloo", "reinforce-pp", "ppo", "dpo", "entropy-seeking"]
    assert PolicySpec().required_attacks == required
    assert [attack.name for attack in ReleaseSpec().attacks.suite] == [*required, "sft"]


@pytest.mark.parametrize(
    ("algorithm", "sampled"),
    [("grpo", 5 * 16 * 4), ("ppo", 5 * 16 * 4), ("dpo-offline", 60 * 16 * 4), ("sft", 0)],
)
def test_how_many_rollouts_five_of_sixty_steps_take(algorithm, sampled):
    assert AttackSpec(algorithm=algorithm).sampled(5) == sampled


@pytest.mark.parametrize(
    ("algorithm", "name", "inside", "outside"),
    [
        ("ppo", "epochs", [1, 100], [0, 101, 1.5, True, "2", None]),
        ("ppo", "clip", [1e-6, 1.0], [0.0, 1.01, -0.2]),
        ("ppo", "value_clip", [1e-6, 1000.0], [0.0, 1001.0]),
        ("ppo", "gae_decay", [0.0, 1.0], [-0.01, 1.01]),
        ("ppo", "critic_rate", [1e-6, 1000.0], [0.0, 1001.0]),
        ("dpo", "beta", [1e-6, 1000.0], [0.0, -0.1]),
        ("dpo-offline", "margin", [0.0, 0.5], [-0.1, "0"]),
        ("entropy-seeking", "entropy_cap", [0.0, 100.0], [-1.0, 101.0]),
        ("entropy-seeking", "entropy_coefficient", [0.0, 1.0], [-0.01, 1.01]),
    ],
)
def test_a_hyperparameter_has_limits(algorithm, name, inside, outside):
    for value in inside:
        own = {"algorithm": algorithm, "name": "own", "hyperparameters": {name: value}}
        [_, attack] = parse_spec("", suite(own)).attacks.suite
        assert attack.hyperparameters.model_dump() == DEFAULTS[algorithm] | {name: value}
    for value in outside:
        own = {"algorithm": algorithm, "name": "own", "hyperparameters": {name: value}}
        with pytest.raises(UserError, match=rf"attacks\.suite\.1\.hyperparameters\.{name}: Input should be"):
            parse_spec("", suite(own))


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        ({"algorithm": "grpo", "hyperparameters": {"epochs": 2}}, "hyperparameters: unknown epochs; grpo has none"),
        ({"algorithm": "sft", "hyperparameters": {"beta": 0.1}}, "hyperparameters: unknown beta; sft has none"),
        (
            {"algorithm": "dpo", "hyperparameters": {"epochs": 2}},
            "hyperparameters: unknown epochs; dpo has beta, margin",
        ),
        ({"algorithm": "ppo", "hyperparameters": {"epoch": 2}}, "did you mean epochs?"),
        ({"algorithm": "ppo", "epochs": 2}, r"unknown field.*did you mean attacks\.suite\.0\.hyperparameters\.epochs"),
        ({"algorithm": "ppo", "hyperparameters": [2]}, "hyperparameters: Input should be a mapping of fields"),
        ({"algorithm": "ppo", "hyperparameters": None}, "hyperparameters: Input should be a mapping of fields"),
        ({"algorithm": "pppo", "hyperparameters": {"epochs": 2}}, "algorithm: Input should be .* did you mean ppo?"),
    ],
)
def test_what_an_algorithm_does_not_have_is_refused(attack, told):
    with pytest.raises(UserError, match=told):
        parse_spec("", suite({"name": "own"} | attack))


def test_a_hyperparameter_can_be_set_on_the_command_line():
    changes = [*suite({"algorithm": "ppo", "name": "own"}), "attacks.suite.1.hyperparameters.epochs=4"]
    attack = parse_spec("", changes).attacks.suite[1]
    assert attack.hyperparameters.model_dump() == DEFAULTS["ppo"] | {"epochs": 4}
    assert attack.changed_hyperparameters() == ["epochs"]


def test_a_spec_that_is_written_has_them_all_and_is_read_again():
    spec = parse_spec("", suite({"algorithm": "ppo", "name": "own", "hyperparameters": {"clip": 0.1}}))
    assert "      clip: 0.1\n" in spec.to_yaml()
    assert parse_spec(spec.to_yaml()) == spec


def test_specs_without_hyperparameters_have_the_digest_that_their_evidence_was_bound_to():
    spec = parse_spec("defence: {recipe: log-entropy}")  # the default of then
    assert spec.evidence_digest() == parse_spec(spec.to_yaml()).evidence_digest() == RECORDED


@pytest.mark.parametrize(("algorithm", "name"), EACH)
def test_the_digest_says_which_hyperparameters_are_not_the_default(algorithm, name):
    plain, default, other = (
        parse_spec("", suite({"algorithm": algorithm, "name": "own", "hyperparameters": own})).evidence_digest()
        for own in ({}, {name: DEFAULTS[algorithm][name]}, {name: OTHERS[name]})
    )
    assert plain == default != other


@pytest.mark.parametrize(("algorithm", "name"), EACH)
def test_under_a_required_name_an_algorithm_has_its_own_hyperparameters(algorithm, name):
    """Whatever another value does to the attack: no policy says how far it may lie from the default."""
    told = rf"hyperparameters\.{name} is {OTHERS[name]}, not {DEFAULTS[algorithm][name]}"
    own = {"algorithm": algorithm, "hyperparameters": {name: OTHERS[name]}}
    for attack, policy in (
        (own, {}),
        (own | {"name": "own"}, {"named_attacks": {"own": {"algorithm": algorithm}}}),
        (own | {"name": "own"}, {"named_attacks": {"own": {}}}),
    ):
        required = {"required_attacks": [attack.get("name", algorithm)], **policy}
        with pytest.raises(ValueError, match=told):
            release_spec(attacks={"suite": [attack | {"seeds": [1000]}]}, policy=required)


def test_evidence_of_other_hyperparameters_is_inconclusive_for_a_policy_that_requires_the_attack():
    release = ppo_release(epochs=1)
    assert release.judge().outcome is Outcome.PASS
    verdict = release.with_policy(required_attacks=["grpo", "own"]).judge()
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("hyperparameters.epochs is 1, not 2" in reason for reason in verdict.reasons)


def test_evidence_of_other_hyperparameters_than_the_spec_s_is_refused():
    release = ppo_release()
    attack = release.piece("own-1000").attack
    other = changed(attack, hyperparameters=changed(attack.hyperparameters, epochs=1))
    verdict = release.with_piece("own-1000", attack=other).judge()
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("ran another attack than the spec's" in reason for reason in verdict.reasons)


def test_the_evidence_has_them_and_what_was_recorded_before_is_judged_the_same(tmp_path):
    release = ppo_release()
    write_evidence(tmp_path, release.piece("own-1000"))
    document = json.loads((tmp_path / "evidence.json").read_text(encoding="utf-8"))
    assert document["attack"].pop("hyperparameters") == DEFAULTS["ppo"]
    (tmp_path / "evidence.json").write_text(json.dumps(document), encoding="utf-8")
    recorded = read_evidence(tmp_path)
    assert isinstance(recorded, AttackEvidence)
    assert recorded == release.piece("own-1000")
    before = release.with_evidence(
        [recorded if piece.kind == "attack" and piece.key == "own-1000" else piece for piece in release.evidence]
    )
    assert before.judge() == release.judge()
    assert before.judge().outcome is Outcome.PASS
