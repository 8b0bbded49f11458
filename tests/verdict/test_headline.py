"""What a verdict is called: never better than it is, wherever it is shown."""

import json
from datetime import timedelta
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidence_factory import NOW, changed, passing_release, prudish
from tokenbuncher.attestation import generate_key, load_private_key, load_public_key, sign, verify
from tokenbuncher.evidence import Tries
from tokenbuncher.gate import explain_release
from tokenbuncher.report import card, documents, junit, release_figures
from tokenbuncher.settings.policy import PolicySpec, Waiver
from tokenbuncher.verdict import Outcome, headline

RELEASE = passing_release()
SPOILT = prudish(RELEASE.refusing_before(160), refused=200, gibberish=100)
RULES = ("over-refusal", "gibberish", "refusal-kept")


def waivers(*rules):
    expires = NOW + timedelta(days=10)
    return [Waiver(rule=rule, approver="jane", reason="on purpose", expires=expires) for rule in rules]


def tried(release, earlier):
    tries = Tries(evidence="a" * 64, earlier=earlier)
    return changed_registration(release, tries=tries)


def changed_registration(release, **changes):
    return type(release)(release.spec, release.evidence, changed(release.registration, **changes))


def told(release):
    verdict = release.judge()
    return headline(release.spec.policy, verdict.outcome, verdict)


WAIVED = SPOILT.with_policy(waivers=waivers(*RULES))
LAX = RELEASE.with_policy(max_gibberish=0.9, required_attacks=["sft"])


@pytest.mark.parametrize(
    ("release", "says"),
    [
        (RELEASE, "PASS"),
        (SPOILT, "BLOCK"),
        (WAIVED, "PASS with 3 rules waived"),
        (SPOILT.with_policy(waivers=waivers(RULES[0])), "BLOCK with 1 rule waived"),
        (RELEASE.with_policy(waivers=waivers("gibberish")), "PASS with waivers in force, none of them needed"),
        (LAX, "PASS (policy laxer than research: required_attacks, max_gibberish)"),
        (
            WAIVED.with_policy(min_prompts=10),
            "PASS with 3 rules waived (policy laxer than research: min_prompts)",
        ),
    ],
)
def test_a_pass_is_plain_only_if_nothing_was_waived_or_laxer(release, says):
    assert told(release) == says


def test_a_waiver_that_has_run_out_is_in_force_no_longer():
    past = [changed(waiver, expires=NOW) for waiver in waivers("gibberish")]
    assert told(RELEASE.with_policy(waivers=past)) == "PASS"


@given(st.sets(st.sampled_from(RULES)), st.floats(0.05, 1.0), st.integers(10, 200))
@settings(deadline=None)  # each example judges a release
def test_the_outcome_comes_first_and_a_condition_is_never_left_out(rules, gibberish, prompts):
    release = SPOILT.with_policy(waivers=waivers(*sorted(rules)), max_gibberish=gibberish, min_prompts=prompts)
    verdict = release.judge()
    says = told(release)
    assert says.startswith(verdict.outcome)
    assert ("waived" in says) == any(finding.waiver for finding in verdict.findings)
    assert ("max_gibberish" in says, "min_prompts" in says) == (gibberish > 0.1, prompts < 40)


@pytest.mark.parametrize("release", [tried(WAIVED.with_policy(min_prompts=10), 3), tried(LAX, 3)])
def test_headline_thresholds_and_tries_stand_wherever_the_verdict_is_told(release, tmp_path):
    spec, verdict, says = release.spec, release.judge(), told(release)
    figures = release_figures(spec, verdict, release.evidence)
    texts = documents(figures) | {"card.md": card(spec, verdict, release.evidence, signed=False)}
    for name, text in texts.items():
        plain = text.replace("\\", "")
        assert says in plain, name
        for field in PolicySpec.model_fields.keys() - {"apiVersion"}:
            assert field in plain, (name, field)
        if name != "report.json":
            assert "Try 4 of this name" in plain, name
            assert "| less |" in plain or ">less<" in plain
    assert (figures.headline, figures.tries) == (says, 4)
    suite = ElementTree.fromstring(junit(spec.policy, verdict))
    properties = {each.get("name"): json.loads(each.get("value")) for each in suite.iter("property")}
    assert says in suite.get("name")
    assert properties["tries"] == 4
    assert properties["policy.min_prompts"] == spec.policy.min_prompts


@pytest.mark.parametrize("release", [tried(WAIVED, 3), tried(LAX, 0), RELEASE])
def test_the_attestation_tells_it_too(release, tmp_path):
    public = load_public_key(generate_key(tmp_path / "release.pem"))
    text = sign(
        release.spec,
        release.evidence,
        release.registration,
        verdict=release.judge(),
        signer=load_private_key(tmp_path / "release.pem"),
    )
    statement, problems = verify(text, [public], NOW)
    predicate = statement.predicate
    assert problems == []
    assert predicate.headline == told(release)
    assert PolicySpec.model_validate(predicate.policy) == release.spec.policy
    assert predicate.tries == release.judge().tries


def test_explain_tells_it_too(tmp_path):
    evidence, registration = LAX.write(tmp_path)
    text = explain_release(LAX.spec, evidence, registration)
    assert text.splitlines()[0] == f"{told(LAX)} by policy custom: organism version 3"
    assert "max_gibberish 0.9 (less than research)" in text
    assert "min_prompts 100," in text
    document = json.loads(explain_release(LAX.spec, evidence, registration, as_json=True))
    assert (document["headline"], document["laxer"]) == (told(LAX), ["required_attacks", "max_gibberish"])
    assert document["policy"] == LAX.spec.policy.model_dump(mode="json")


@pytest.mark.parametrize(
    ("limit", "earlier", "outcome"),
    [(None, 99, "PASS"), (3, 0, "PASS"), (3, 2, "PASS"), (3, 3, "BLOCK"), (1, 1, "BLOCK"), (1, 0, "PASS")],
)
def test_a_policy_limits_how_often_a_name_is_tried(limit, earlier, outcome):
    verdict = tried(RELEASE, earlier).with_policy(max_tries=limit).judge()
    assert verdict.outcome == outcome
    assert verdict.tries == earlier + 1
    if outcome == "BLOCK":
        assert f"this is try {earlier + 1} of the name; the policy allows {limit}" in verdict.reasons[0]
        figures = release_figures(RELEASE.spec, verdict, RELEASE.evidence)
        assert f"{earlier + 1} where ≤ {limit} is needed" in documents(figures)["report.md"]


@pytest.mark.parametrize(
    "tries", [None, Tries(evidence="a" * 64, earlier=None, doubt="the history x/history.jsonl is not whole")]
)
def test_tries_that_nobody_could_count_pass_no_limit(tries):
    release = changed_registration(RELEASE, tries=tries)
    assert (release.judge().outcome, release.judge().tries) == (Outcome.PASS, None)
    verdict = release.with_policy(max_tries=100).judge()
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "how often organism was tried is not known" in verdict.reasons[0]
    assert "not whole" in verdict.reasons[0] or tries is None
    assert "was not counted" in documents(release_figures(RELEASE.spec, verdict, RELEASE.evidence))["report.html"]


def test_too_many_tries_cannot_be_waived():
    with pytest.raises(ValueError, match="rule"):
        Waiver(rule="tries", approver="jane", reason="x", expires=NOW + timedelta(days=1))
