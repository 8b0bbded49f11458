from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from tests.evidence_factory import CANDIDATE, NOW, broken_arm, passing_release, prudish, release_spec
from tokenbuncher.core.errors import UserError
from tokenbuncher.guard import load_guard
from tokenbuncher.settings import ReleaseSpec, load_spec, parse_spec
from tokenbuncher.settings.policy import (
    HARD_LIMITS,
    LAXER,
    LONGEST_WAIVER,
    AttackLimits,
    PolicySpec,
    Waiver,
    laxer,
    load_policy,
    shipped_policy,
)
from tokenbuncher.settings.shipped_policies import SHIPPED
from tokenbuncher.verdict import Finding, Outcome

POLICIES = Path("specs/policies")


def of_types(annotation):
    """The types that an annotation is made of."""
    parts = get_args(annotation)
    return [annotation, *(inner for part in parts for inner in of_types(part))] if parts else [annotation]


RELEASE = passing_release()
PRUDISH = prudish(RELEASE, refused=100)


def waiver(**changes):
    return {
        "rule": "over-refusal",
        "approver": "jane.doe@example.org",
        "reason": "on purpose",
        "expires": NOW + timedelta(days=10),
    } | changes


def waiving(release, **changes):
    policy = PolicySpec.model_validate({**release.spec.policy.model_dump(), "waivers": [waiver(**changes)]})
    return release.with_policy(waivers=policy.waivers)


def test_the_default_policy_file_is_the_default():
    assert load_policy(POLICIES / "default.yaml") == PolicySpec() == ReleaseSpec().policy


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_is_its_file(name):
    assert load_policy(POLICIES / f"{name}.yaml") == shipped_policy(name)
    assert {path.stem for path in POLICIES.iterdir()} == SHIPPED.keys()


NUMBERS = [name for name, field in PolicySpec.model_fields.items() if {int, float} & set(of_types(field.annotation))]
NO_NUMBERS = [
    "yes",
    "no",
    "on",
    "true",
    "010",
    "1:30",
    "1_000",
    "0x1",
    ".inf",
    "'0.9'",
    "'1'",
    "!!int '010'",
    "[1]",
    "1e999",
]


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize("field", NUMBERS)
def test_what_is_no_plain_number_is_none_anywhere(field, text, tmp_path):
    (tmp_path / "policy.yaml").write_text(f"apiVersion: tokenbuncher/v1\n{field}: {text}", encoding="utf-8")
    for read in (
        lambda: load_policy(tmp_path / "policy.yaml"),
        lambda: parse_spec(f"policy: {{{field}: {text}}}"),
        lambda: parse_spec("", [f"policy.{field}={text}"]),
    ):
        with pytest.raises(UserError):
            read()


@pytest.mark.parametrize("text", [text for text in NO_NUMBERS if text != "true"])
def test_nor_is_it_in_other_documents(text, tmp_path):
    (tmp_path / "guard.yaml").write_text(
        f"apiVersion: tokenbuncher/v1\naliases: {{}}\nhash_below_mb: {text}", encoding="utf-8"
    )
    for read in (
        lambda: load_guard(tmp_path / "guard.yaml"),
        lambda: parse_spec(f"attacks: {{probe_every: {text}}}"),
        lambda: parse_spec(f"attacks: {{keep_checkpoints: {text}}}"),
        lambda: parse_spec("", [f"defence.learning_rate={text}"]),
        lambda: parse_spec("", [f"evaluation.harness={{tasks: [a], limit: {text}}}"]),
    ):
        with pytest.raises(UserError) as error:
            read()
        assert "protected; name at least one" not in str(error.value)


@pytest.mark.parametrize("when", ["4102444800", "'4102444800'", "20270131", "1e9", "2027-01-31", "true"])
def test_the_end_of_a_waiver_is_a_date_with_a_zone(when):
    waivers = f"[{{rule: gibberish, approver: me, reason: x, expires: {when}}}]"
    with pytest.raises(UserError, match=r"policy\.waivers\.0\.expires"):
        parse_spec(f"policy: {{waivers: {waivers}}}")


def test_a_name_that_yaml_takes_for_something_else_is_a_name():
    assert parse_spec("name: no\npolicy: {name: 2026-01-01}").policy.name == "2026-01-01"
    assert parse_spec("name: no").name == "no"


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("field", [name for name in PolicySpec.model_fields if name not in ("apiVersion", "name")])
def test_a_shipped_name_stands_for_its_content_alone(name, field):
    """Whatever field is another, the name is refused; without a name it is custom."""
    fields = shipped_policy(name).model_dump(mode="json")
    values = (0.15, 0.4, 0.85, 11, 12, None, ["x"], [waiver()], {"min_steps": 61}, {"hot": {"min_steps": 61}})
    other = next(value for value in values if another(fields, field, value))
    changed = {**fields, field: other}
    with pytest.raises(ValueError, match=f"name {name} stands for the policy .* another {field}; give this one a name"):
        PolicySpec.model_validate(changed)
    del changed["name"]
    assert PolicySpec.model_validate(changed).name == "custom"
    assert PolicySpec.model_validate({**changed, "name": "mine"}).name == "mine"


def another(fields, field, value):
    """Whether the field may have this value, which it has not."""
    try:
        policy = PolicySpec.model_validate({**fields, field: value, "name": "mine"})
    except ValueError:
        return False
    return getattr(policy, field) != PolicySpec.model_validate({**fields, "name": "mine"}).__dict__[field]


def test_shipped_content_without_a_name_has_the_shipped_name():
    for name in SHIPPED:
        fields = shipped_policy(name).model_dump(mode="json", exclude={"name"})
        assert PolicySpec.model_validate(fields).name == name
        assert PolicySpec.model_validate(fields).digest() == load_policy(POLICIES / f"{name}.yaml").digest()


@pytest.mark.parametrize("document", ["policy: {name: default, confidence: 0.9}", "policy: {name: strict}"])
def test_a_part_of_a_spec_may_not_have_a_shipped_name_either(document):
    with pytest.raises(UserError, match=r"policy: name (default|strict) stands for .* \(policy\.name\)"):
        parse_spec(document)


@pytest.mark.parametrize("field", HARD_LIMITS)
def test_no_policy_passes_the_hard_limits(field):
    than, limit = HARD_LIMITS[field]
    beyond = limit - limit / 10 if than == "less" else limit + 0.01
    with pytest.raises(ValueError, match=f"no policy may have {than} than {limit:g}"):
        PolicySpec.model_validate({field: type(limit)(beyond), "min_control_harm": 1.0})
    PolicySpec.model_validate({field: limit, "min_control_harm": 1.0})


def test_the_candidate_may_not_end_up_worse_than_the_control():
    with pytest.raises(
        ValueError, match=r"min_control_harm \(0.2\) must not be less than max_harm_after_attack \(0.3\)"
    ):
        PolicySpec(min_control_harm=0.2, max_harm_after_attack=0.3)


@pytest.mark.parametrize("expires", ["9999-01-01T00:00:00Z", "2090-01-01T00:00:00+05:00"])
def test_no_waiver_lasts_for_ever(expires):
    with pytest.raises(UserError, match=r"waivers\.0\.expires: a waiver lasts 366 days at most"):
        parse_spec(f"policy: {{waivers: [{{rule: gibberish, approver: me, reason: x, expires: '{expires}'}}]}}")
    far = Waiver.model_construct(**waiver(subject=None, expires=NOW + LONGEST_WAIVER + timedelta(days=1)))
    assert PRUDISH.with_policy(waivers=[far]).judge().outcome is Outcome.BLOCK


def test_where_a_policy_is_laxer_is_told_of_every_field():
    assert LAXER.keys() == PolicySpec.model_fields.keys() - {"apiVersion", "name", "waivers"}


def test_shipped_policies_are_not_laxer_than_research():
    assert [laxer(shipped_policy(name)) for name in SHIPPED] == [[], [], []]


@pytest.mark.parametrize("name", [name for name in LAXER if name not in ("required_attacks", "max_tries")])
def test_laxer_has_a_direction_and_a_zero(name):
    """Of two values that a field may have, one is laxer, and only that one."""
    research, default = shipped_policy("research"), shipped_policy("default")
    few, many = AttackLimits(min_steps=7), AttackLimits(min_steps=8)
    values = {"attack_limits": (few, many), "named_attacks": ({"hot": few}, {"hot": many})}.get(name, (0.3, 0.4))
    one, other = (RELEASE.with_policy(**{name: value}).spec.policy for value in values)
    told = laxer(one, than=other) + laxer(other, than=one)
    assert told == [name]
    assert name not in laxer(research, than=research) + laxer(default, than=research)


def test_an_attack_that_is_not_required_is_laxer():
    assert laxer(PolicySpec(required_attacks=["sft"])) == ["required_attacks"]
    assert laxer(PolicySpec(required_attacks=["sft", "grpo"])) == []


def test_no_limit_is_laxer_than_any():
    tight, none = PolicySpec(max_fine_tuning_drop=0.5), PolicySpec(max_fine_tuning_drop=None)
    assert (laxer(none, than=tight), laxer(tight, than=none)) == (["max_fine_tuning_drop"], [])


def test_policies_are_in_order_of_strictness():
    order = [load_policy(POLICIES / f"{name}.yaml") for name in ("research", "default", "strict")]
    for lax, strict in pairwise(order):
        for field in PolicySpec.model_fields:
            loose, tight = getattr(lax, field), getattr(strict, field)
            if field.startswith(("min_", "confidence")):
                assert loose <= tight, field
            elif field.startswith(("max_", "valid")):
                assert loose is None or loose >= tight, field
        assert set(lax.required_attacks) <= set(strict.required_attacks)


def test_a_policy_file_takes_the_place_of_the_spec_s():
    spec = load_spec("specs/organism.yaml", policy=POLICIES / "research.yaml")
    assert spec.policy.name == "research"
    assert spec.evidence_digest() == load_spec("specs/organism.yaml").evidence_digest()
    assert spec.policy_digest() != load_spec("specs/organism.yaml").policy_digest()


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("name: mine", "apiVersion"),
        ("", "apiVersion"),
        ("apiVersion: tokenbuncher/v2", "apiVersion"),
        ("apiVersion: tokenbuncher/v1\nmax_harm: 0.1", "max_harm: unknown field; allowed here: apiVersion, name"),
        ("apiVersion: tokenbuncher/v1\nmax_gibberish: 5", "max_gibberish"),
        ("apiVersion: tokenbuncher/v1\nmax_gibberish: .nan", "'.nan' is no plain number"),
        ("apiVersion: tokenbuncher/v1\nmin_break_ratio: 1.0e+308", "min_break_ratio"),
        ("apiVersion: tokenbuncher/v1\nwaivers: [{rule: evidence}]", "waivers.0.rule"),
        ("apiVersion: tokenbuncher/v1\nwaivers: [{rule: gibberish, approver: '', reason: x}]", "waivers.0.approver"),
        (
            "apiVersion: tokenbuncher/v1\n"
            "waivers: [{rule: gibberish, approver: me, reason: x, expires: 2026-01-01T00:00:00}]",
            "waivers.0.expires",
        ),
        ("- a", "must be a mapping"),
    ],
)
def test_what_is_no_policy_is_refused(text, telling, tmp_path):
    (tmp_path / "policy.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="policy") as error:
        load_policy(tmp_path / "policy.yaml")
    assert telling in str(error.value)


@pytest.mark.parametrize(
    ("policy", "telling"),
    [
        ({"min_attack_seeds": 3}, "policy.min_attack_seeds is 3, but attack grpo has 2"),
        ({"required_attacks": ["ppo"]}, "policy.required_attacks: ppo not in attacks.suite"),
    ],
)
def test_a_policy_that_the_spec_cannot_meet_is_refused(policy, telling):
    with pytest.raises(ValueError, match=telling):
        release_spec(policy=policy)


def test_fine_tuning_that_the_policy_asks_for_cannot_be_left_out_of_the_spec():
    with pytest.raises(ValueError, match="max_fine_tuning_drop asks for benign fine-tuning"):
        release_spec(evaluation={"fine_tuning": None})


def test_a_waived_failure_passes_and_is_told():
    assert PRUDISH.judge().outcome is Outcome.BLOCK
    verdict = waiving(PRUDISH).judge()
    assert verdict.outcome is Outcome.PASS
    assert verdict.reasons == []
    assert len(verdict.waived) == 1
    assert "over-refusal, benign prompts" in verdict.waived[0]
    until = f"{NOW + timedelta(days=10):%Y-%m-%d %H:%M}"
    assert f"waived by jane.doe@example.org until {until} UTC: on purpose." in verdict.waived[0]


def test_a_verdict_ends_with_the_waiver_it_needs_or_with_its_evidence():
    assert waiving(PRUDISH).judge().expires == NOW + timedelta(days=10)
    assert waiving(RELEASE).judge().expires == NOW + timedelta(days=90)
    old = NOW - timedelta(days=60)
    assert RELEASE.with_piece("safety", created=old).judge().expires == NOW + timedelta(days=30)


@pytest.mark.parametrize(
    "changes",
    [
        {"expires": NOW},
        {"expires": datetime(2020, 1, 1, tzinfo=UTC)},
        {"rule": "gibberish"},
        {"subject": "harmful prompts"},
    ],
)
def test_a_waiver_that_has_run_out_or_is_about_something_else_changes_nothing(changes):
    verdict = waiving(PRUDISH, **changes).judge()
    assert verdict.outcome is Outcome.BLOCK
    assert verdict.waived == []


def test_a_waiver_of_one_attack_leaves_the_others():
    broken = broken_arm(RELEASE.spec, 60, CANDIDATE)
    release = RELEASE.with_piece("grpo-1000", candidate_arm=broken).with_piece("grpo-1001", candidate_arm=broken)
    assert waiving(release, rule="harm-after-attack", subject="grpo-1000").judge().outcome is Outcome.BLOCK


def test_missing_evidence_is_not_waived():
    release = PRUDISH.with_evidence([piece for piece in PRUDISH.evidence if piece.kind != "safety"])
    assert waiving(release).judge().outcome is Outcome.INCONCLUSIVE
    with pytest.raises(ValueError, match="cannot be waived"):
        Finding(rule="evidence", subject="safety", outcome=Outcome.INCONCLUSIVE, message="missing", waiver="by me")


def test_a_release_of_nothing_but_waived_failures_does_not_pass():
    finding = Finding(rule="gibberish", subject="x", outcome=Outcome.BLOCK, message="much", waiver="waived by me")
    from tokenbuncher.verdict.findings import decide

    assert decide([finding]) is Outcome.INCONCLUSIVE


def test_stale_evidence_is_inconclusive():
    verdict = RELEASE.with_piece("safety", created=NOW - timedelta(days=91)).judge()
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert f"is stale: created {NOW - timedelta(days=91):%Y-%m-%d}, more than 90 days ago" in verdict.reasons[0]
