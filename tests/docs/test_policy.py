"""The tables of docs/policy.md are those of the code: rules are found by releases that each of them is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest
import yaml

from tests.docs.markdown import ROOT
from tests.evidence_factory import (
    CANDIDATE,
    Release,
    benign_scores,
    broken_arm,
    changed,
    held_arm,
    items,
    look_alike_scores,
    passing_release,
    release_spec,
    scores,
    tuning_arm,
)
from tokenbuncher.evidence import JudgeCheck, Tries
from tokenbuncher.settings.algorithms import ALGORITHMS
from tokenbuncher.settings.policy import AttackLimits, PolicySpec, Rule
from tokenbuncher.verdict import Outcome

TEXT = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
MODEL = {"kind": "classifier", "model": "models/judge", "harmful_labels": ["harmful"]}
LIMITS = {"attack_limits", "named_attacks", "min_break_at", "max_probe_every", "min_temperature"}
NAMED = {"evidence": {"valid_days"}, "judge-check": set(), "reward-is-judge": set(), "attack-strength": LIMITS}
"""Rules whose findings have no threshold of the policy, and the fields that the document names for them."""


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head; code without its marks."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


RULES = {row[0].strip("`"): row for row in table("Rules")}


def on_the_wrong_side() -> Iterator[tuple[str, Release]]:
    """For each rule, a release whose measured value is on the wrong side of its threshold."""
    release = passing_release()
    spec, safety = release.spec, release.piece("safety")
    count = spec.data.sizes.safety
    yield "harm-after-attack", release.with_piece("grpo-1000", candidate_arm=held_arm(spec, 60, harmful=count // 4))
    yield "refusal-after-attack", release.with_piece("grpo-1000", candidate_arm=held_arm(spec, 60, refused=0))
    yield "positive-control", release.with_piece("grpo-1000", control_arm=held_control(release))
    yield "control-rise", release.with_piece("grpo-1000", control_arm=held_control(release))
    yield "attack-strength", release.with_policy(attack_limits=changed(spec.policy.attack_limits, min_steps=61))
    yield "steps-to-break", release.with_piece("grpo-1000", candidate_arm=broken_arm(spec, 15, CANDIDATE))
    yield "judge-check", release.with_piece("safety", judge_check=JudgeCheck(right=39, of=40))
    yield "reward-is-judge", passing_release(release_spec(attacks={"reward": MODEL}, evaluation={"judge": MODEL}))
    yield "harm-unattacked", release.with_piece("safety", candidate_harmful=scores(spec, count, harmful=count // 4))
    yield "refusal-kept", release.with_piece("safety", candidate_harmful=scores(spec, count))
    benign = len({score.prompt for score in safety.candidate_benign})
    yield "over-refusal", release.with_piece("safety", candidate_benign=benign_scores(spec, refused=benign // 2))
    yield "gibberish", release.with_piece("safety", candidate_benign=benign_scores(spec, gibberish=benign // 2))
    unanswered = look_alike_scores(spec, refused=spec.look_alike_prompts())
    yield (
        "refusals-control",
        release.with_piece("safety", base_look_alikes=unanswered, candidate_look_alikes=unanswered),
    )
    garbled = look_alike_scores(spec, gibberish=spec.look_alike_prompts())
    yield "gibberish-control", release.with_piece("safety", base_look_alikes=garbled, candidate_look_alikes=garbled)
    yield "refusals-added", release.with_piece("safety", candidate_look_alikes=look_alike_scores(spec, refused=100))
    yield "gibberish-added", release.with_piece("safety", candidate_look_alikes=look_alike_scores(spec, gibberish=100))
    wrong = items(spec, wrong=spec.data.sizes.utility)
    yield "utility-control", release.with_piece("utility", base_items=wrong, candidate_items=wrong)
    for rule in ("utility-drop", "relative-utility-drop", "task-drop"):
        yield rule, release.with_piece("utility", candidate_items=wrong)
    for rule, arm in (("fine-tuning-control", "base"), ("fine-tuning-drop", "candidate")):
        yield rule, release.with_piece("utility", fine_tuning=[*untaught(release, arm)])
    tried = changed(release.registration, tries=Tries(evidence="a" * 64, earlier=3))
    yield "tries", replace(release, registration=tried).with_policy(max_tries=2)
    yield "evidence", release.with_evidence(release.evidence[1:])


def held_control(release: Release) -> Any:
    return changed(held_arm(release.spec, 60), model=release.piece("grpo-1000").base)


def untaught(release: Release, arm: str) -> Iterator[Any]:
    """The benign fine-tuning, of which one model has learnt nothing."""
    for tuning in release.piece("utility").fine_tuning:
        model, steps = getattr(tuning, arm).model, getattr(tuning, arm).curve[-1][0]
        learnt = tuning_arm(release.spec, model, tuning.kind, steps, wrong=release.spec.data.sizes.tuning)
        yield changed(tuning, **{arm: learnt})


@pytest.mark.parametrize(("rule", "release_"), on_the_wrong_side(), ids=[rule for rule, _ in on_the_wrong_side()])
def test_a_rule_does_what_the_table_says(rule: str, release_: Release) -> None:
    _, _, wanted, fields, outcome, _ = RULES[rule]
    found = [finding for finding in release_.judge().findings if finding.rule == rule]
    worst = next(finding for finding in found if finding.outcome is not Outcome.PASS)
    assert str(worst.outcome) in outcome.split(" or ")
    assert wanted == {"<=": "at most", ">=": "at least", None: "-"}[worst.comparator]
    assert set(re.findall(r"`(\w+)`", fields)) <= PolicySpec.model_fields.keys()
    if rule not in NAMED:
        before = {finding.subject: finding.threshold for finding in found}
        for field in re.findall(r"`(\w+)`", fields):
            value = getattr(release_.spec.policy, field)
            other = release_.with_policy(**{field: type(value)(value / 2)}).judge()
            # It is this field that the rule is about, on a subject at least.
            assert before != {one.subject: one.threshold for one in other.findings if one.rule == rule}


def test_the_table_has_every_rule_and_no_other() -> None:
    judged = {finding.rule for _, release in on_the_wrong_side() for finding in release.judge().findings}
    assert RULES.keys() == judged
    assert {rule for rule, row in RULES.items() if row[5] == "yes"} == set(get_args(Rule))


def test_limits_of_attacks_and_their_defaults() -> None:
    rows = {row[0].strip("`"): row[1].strip("`") for row in table("Attacks")}
    default = AttackLimits().model_dump(mode="json")
    assert {name: yaml.safe_load(value) for name, value in rows.items()} == default


def test_hyperparameters_and_their_defaults() -> None:
    rows = {
        (algorithm.strip("`"), name.strip("`")): float(value.strip("`"))
        for algorithm, name, value, _ in table("Hyperparameters")
    }
    defaults = {name: algorithm.hyperparameters().model_dump() for name, algorithm in ALGORITHMS.items()}
    assert rows == {(name, field): value for name, own in defaults.items() for field, value in own.items()}


def test_fields_and_their_defaults() -> None:
    rows = {row[0].strip("`"): row[1].strip("`") for row in table("Fields")}
    assert rows.keys() == PolicySpec.model_fields.keys()
    default = PolicySpec().model_dump(mode="json", exclude={"attack_limits"})
    assert rows.pop("attack_limits") == "the table there"
    assert {name: yaml.safe_load(value) for name, value in rows.items()} == default


@pytest.mark.parametrize("row", table("Fields"), ids=lambda row: row[0])
def test_bounds(row: list[str]) -> None:
    """What the table calls out of bounds is refused, and what it calls within is not."""
    name, bounds = row[0].strip("`"), row[2]
    within, beyond = {
        "0.8 or more, under 1": ([0.8, 0.999], [0.79, 1.0]),
        "1 or more": ([1, 7], [0, -1]),
        "1 or more; or null": ([1, 7, None], [0, -1]),
        "10 or more": ([10, 70], [9, -1]),
        "over 0, to 0.5": ([0.001, 0.3], [0.0, 0.51]),
        "over 0, to 0.5; or null": ([1e-9, 0.5, None], [0, 0.51]),
        "over 0, to 1": ([0.05, 1.0], [0.0, 1.1]),
        "over 0, to 1; or null": ([0.001, 1.0, None], [0.0, 1.1]),
        "0 to 1": ([0.0, 1.0], [-0.1, 1.1]),
        "over 0": ([0.1, 2.0], [0.0, -1.0]),
        "see [Attacks](#attacks)": ([{"min_steps": 70}], [{"min_steps": 0}, {"steps": 70}]),
        "see [Attacks](#attacks); no algorithm's name": ([{"hot": {"min_steps": 70}}], [{"ppo": {"min_steps": 70}}]),
        "1 to 3650": ([1, 3650], [0, 3651]),
        "1 to 1,000,000": ([1, 1e6], [0.9, 1e308]),
        "that": (["tokenbuncher/v1"], ["tokenbuncher/v2"]),
        "lower case, digits, dashes": (["a-1"], ["A", ""]),
        "at least one, each in `attacks.suite`": ([["grpo"]], [[]]),
        "see below": ([[]], [[{"rule": "evidence", "approver": "me", "reason": "x", "expires": "2099-01-01T00:00Z"}]]),
    }[bounds]
    for value in within:
        PolicySpec.model_validate({name: value})
    for value in beyond:
        with pytest.raises(ValueError, match=name):
            PolicySpec.model_validate({name: value})
