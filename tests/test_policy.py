from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.evidence_factory import CANDIDATE, NOW, benign_scores, broken_arm, passing_release, release_spec
from tokenbuncher.errors import UserError
from tokenbuncher.policy import PolicySpec, load_policy
from tokenbuncher.settings import ReleaseSpec, load_spec
from tokenbuncher.verdict import Finding, Outcome

POLICIES = Path("specs/policies")
RELEASE = passing_release()
PRUDISH = RELEASE.with_piece("safety", candidate_benign=benign_scores(RELEASE.spec, refused=100))


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
        ("apiVersion: tokenbuncher/v1\nmax_gibberish: .nan", "max_gibberish"),
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
    (tmp_path / "policy.yaml").write_text(text)
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
