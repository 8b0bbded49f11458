"""A recorded release that passes, tampered with on disk in one way each: the gate must not say PASS, and the alias
must stay where it is, even if the tamperer writes the verdict, too."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.evidence_factory import CANDIDATE, broken_arm, manifest, passing_release, release_spec
from tests.tampering.recorded import (
    KEY,
    Case,
    assert_not_promoted,
    copy_over,
    each,
    edit,
    edited,
    evidence_file,
    in_arm,
    outcome_of,
    registration_edit,
    rewritten,
    spec_edit,
    verdict_edit,
)
from tokenbuncher.cli import RecordedRelease
from tokenbuncher.gate import gate
from tokenbuncher.registry import promote, register
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import Outcome, judge_release

FOREIGN = manifest(release_spec(), seed=99).model_dump()


@pytest.fixture(scope="module")
def recorded(embedded_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that passes: spec, evidence, registration, verdict."""
    folder = tmp_path_factory.mktemp("recorded")
    candidate = folder / "candidate"
    candidate.mkdir()
    (candidate / "model.safetensors").write_bytes(bytes(range(256)))
    (candidate / "config.json").write_text("{}", encoding="utf-8")
    spec = release_spec(tracking={"model_name": "tampered"}, output={"root": str(embedded_root)})
    run = folder / "run"
    registration = register(spec, candidate, run / "registration")
    release = replace(passing_release(spec).about(registration.digest), registration=registration)
    release.write(run)
    (run / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    assert gate(spec, [run], run, out=run / "verdict").outcome is Outcome.PASS
    return run


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the recorded run, to be tampered with."""
    return Path(shutil.copytree(recorded, tmp_path / "run"))


def repeat_prompts(arm: dict[str, Any]) -> None:
    """Half of the prompts, each twice under the same name."""
    half = arm["scores"][: len(arm["scores"]) // 2]
    arm["scores"] = half + half


def stop_early(document: dict[str, Any]) -> None:
    """As if measuring had ended at half of the prompts, which by themselves are enough."""
    for arm in ("control_arm", "candidate_arm"):
        document[arm]["scores"] = document[arm]["scores"][: len(document[arm]["scores"]) // 2]


def shift(document: dict[str, Any], **delta: float) -> None:
    document["created"] = (datetime.fromisoformat(document["created"]) + timedelta(**delta)).isoformat()


def swap(run: Path) -> None:
    """The candidate's arm stands where the control's belongs, and the other way round."""

    def change(document: dict[str, Any]) -> None:
        document["control_arm"], document["candidate_arm"] = document["candidate_arm"], document["control_arm"]

    edit(evidence_file(run, KEY), change)


def duplicate(run: Path) -> None:
    shutil.copytree(evidence_file(run, KEY).parent, run / "again")


EVIDENCE: dict[str, Case] = {
    "attack evidence removed": lambda run: evidence_file(run, KEY).unlink(),
    "folder of an attack removed": lambda run: shutil.rmtree(evidence_file(run, KEY).parent),
    "safety evidence removed": lambda run: evidence_file(run, "safety").unlink(),
    "utility evidence removed": lambda run: evidence_file(run, "utility").unlink(),
    "evidence empty": lambda run: evidence_file(run, KEY).write_text("", encoding="utf-8"),
    "evidence truncated": lambda run: evidence_file(run, KEY).write_text(
        evidence_file(run, KEY).read_text(encoding="utf-8")[:-3], encoding="utf-8"
    ),
    "evidence is not JSON": lambda run: evidence_file(run, KEY).write_bytes(b"\x80\x04PASS."),
    "evidence is a list": lambda run: evidence_file(run, KEY).write_text("[]", encoding="utf-8"),
    "evidence duplicated": duplicate,
    "one attack's evidence under another's name": copy_over("grpo-1001", KEY),
    "safety evidence in the place of an attack": copy_over("safety", KEY),
    "evidence of an attack that the spec does not have": edited(KEY, lambda d: d.update(key="ppo-1000")),
    "evidence of another model": edited(KEY, lambda d: d.update(candidate="e" * 64)),
    "evidence with another base": edited("safety", lambda d: d.update(base="e" * 64)),
    "manifest of other prompts": edited("safety", lambda d: d.update(manifest=FOREIGN)),
    "evidence on other data": edited("utility", lambda d: d.update(data="e" * 64)),
    "evidence under another spec": edited(KEY, lambda d: d.update(spec="e" * 64)),
    "evidence of another tool version": edited(KEY, lambda d: d.update(tool_version="0.0.1")),
    "evidence of another schema": edited(KEY, lambda d: d.update(schema_version="tokenbuncher/v9")),
    "stale evidence": edited(KEY, lambda d: shift(d, days=-91)),
    "clock set back: evidence of tomorrow": edited(KEY, lambda d: shift(d, days=1)),
    "evidence without a time zone": edited(KEY, lambda d: d.update(created="2026-11-24T12:00:00")),
    "unknown field in evidence": edited(KEY, lambda d: d.update(approved=True)),
    "arms exchanged": swap,
    "the control's arm is the candidate's": edited(KEY, lambda d: d.update(control_arm=d["candidate_arm"])),
    "the control failed to break": in_arm(
        "control_arm", lambda a: (each(a["scores"], harmful=False), each(a["curve"], harm=0.0))
    ),
    "a judge that always says safe": edited(
        KEY,
        lambda d: [
            (
                each(d[arm]["scores"], harmful=False, refused=True),
                each(d[arm]["curve"], harm=0.0, refusal=1.0),
                d[arm].update(steps_to_break=None),
            )
            for arm in ("control_arm", "candidate_arm")
        ],
    ),
    "a judge that always says harmful": in_arm(
        "candidate_arm", lambda a: (each(a["scores"], harmful=True), each(a["curve"], harm=1.0))
    ),
    "a reward that is constant: nobody learns": edited(
        KEY, lambda d: d.update(control_arm={**d["candidate_arm"], "model": d["base"], "final_reward": 1.0})
    ),
    "attack with 0 steps": in_arm("candidate_arm", lambda a: a.update(steps_run=0, curve=a["curve"][:1])),
    "attack stopped early": in_arm(
        "candidate_arm", lambda a: a.update(steps_run=5, curve=a["curve"][:2], rollouts=320, worst_step=5)
    ),
    "attack with fewer rollouts": in_arm("candidate_arm", lambda a: a.update(rollouts=64)),
    "attack with a tiny learning rate": in_arm("candidate_arm", lambda a: a.update(learning_rate=1e-12)),
    "another algorithm under the name": edited(KEY, lambda d: d["attack"].update(algorithm="sft", name="sft")),
    "attack with another budget": edited(KEY, lambda d: d["attack"].update(prompts_per_step=1)),
    "attack with another seed": edited(KEY, lambda d: d.update(seed=1)),
    "a break left out of the curve": in_arm("candidate_arm", lambda a: a["curve"].pop(3)),
    "harm on the curve but not in the scores": in_arm("candidate_arm", lambda a: a["curve"][-1].update(harm=0.4)),
    "harm at a step that was not scored": in_arm("candidate_arm", lambda a: a["curve"][5].update(harm=0.4)),
    "steps_to_break forged": in_arm("control_arm", lambda a: a.update(steps_to_break=5)),
    "refusals lost, harm 0": in_arm(
        "candidate_arm", lambda a: (each(a["scores"], refused=False), a["curve"][-1].update(refusal=0.0))
    ),
    "refusals lost for a while": in_arm("candidate_arm", lambda a: a["curve"][4].update(refusal=0.0)),
    "prompts repeated to inflate n": in_arm("candidate_arm", repeat_prompts),
    "too few prompts": in_arm("candidate_arm", lambda a: a.update(scores=a["scores"][:20])),
    "measuring stopped early though the spec asks everything": edited(KEY, stop_early),
    "no scores": in_arm("candidate_arm", lambda a: a.update(scores=[])),
    "no curve": in_arm("candidate_arm", lambda a: a.update(curve=[])),
    "control on easier prompts": in_arm("control_arm", lambda a: each(a["scores"][:2], prompt="easy")),
    "NaN": rewritten(KEY, r'"final_reward": ?[\d.]+', '"final_reward": NaN'),
    "infinity": rewritten(KEY, r'"final_reward": ?[\d.]+', '"final_reward": Infinity'),
    "negative rate": in_arm("candidate_arm", lambda a: a["curve"][0].update(harm=-0.1)),
    "wrong unit: percent": in_arm("candidate_arm", lambda a: a["curve"][0].update(refusal=100)),
    "negative entropy": edited("safety", lambda d: d["candidate_harmful"][0].update(entropy=-1)),
    "null for a measurement": edited("safety", lambda d: d["candidate_harmful"][0].update(harmful=None)),
    "text for a measurement": edited("safety", lambda d: d["candidate_harmful"][0].update(entropy="0.1")),
    "questions answered twice": edited("utility", lambda d: d["candidate_items"].append(d["candidate_items"][0])),
    "right answers that could not be parsed": edited("utility", lambda d: d["candidate_items"][0].update(parsed=False)),
    "utility on other questions": edited("utility", lambda d: d["candidate_items"][0].update(prompt="easy")),
    "fine-tuning left out": edited("utility", lambda d: d.update(fine_tuning=[])),
    "fine-tuning twice of one kind": edited("utility", lambda d: d["fine_tuning"][1].update(kind="rl")),
    "a base that learns nothing either": edited(
        "utility",
        lambda d: [
            (tuning[arm].update(correct=dict.fromkeys(tuning[arm]["correct"], False)), tuning[arm]["curve"].pop())
            for tuning in d["fine_tuning"]
            for arm in ("base", "candidate")
        ],
    ),
}
SPEC: dict[str, Case] = {
    "spec: another judge": spec_edit(evaluation__judge="refusal"),
    "spec: fewer steps": spec_edit(attacks__suite__0__steps=5),
    "spec: an attack left out": spec_edit(attacks__suite=[{"algorithm": "grpo", "seeds": [1000], "steps": 60}]),
    "spec: a higher bar for broken": spec_edit(attacks__break_at=0.9),
    "spec: looks added after measuring stopped early": lambda run: (
        edited(KEY, stop_early)(run),
        spec_edit(evaluation__looks=2)(run),
    ),
    "spec: another defence": spec_edit(defence__recipe="none"),
    "spec: another model": spec_edit(tracking__model_name="another"),
    "spec: not YAML": lambda run: (run / "spec.yaml").write_text("{", encoding="utf-8"),
    "spec: missing": lambda run: (run / "spec.yaml").unlink(),
    "policy: unknown rule": spec_edit(policy__max_everything=1.0),
    "policy: of another version": spec_edit(policy__apiVersion="tokenbuncher/v2"),
    "policy: no attack required": spec_edit(policy__required_attacks=[]),
    "policy: confidence of a coin": spec_edit(policy__confidence=0.5),
    "policy: a waiver of evidence": spec_edit(
        policy__waivers=[{"rule": "evidence", "approver": "me", "reason": "x", "expires": "2099-01-01T00:00:00Z"}]
    ),
    "registration: another digest": registration_edit(lambda d: d.update(digest="e" * 64)),
    "registration: another file": registration_edit(lambda d: d["files"][0].update(sha256="e" * 64)),
    "registration: no files": registration_edit(lambda d: d.update(files=[])),
    "registration: another model": registration_edit(lambda d: d.update(name="another")),
    "registration: given twice": lambda run: shutil.copytree(run / "registration", run / "registration-again"),
    "registration: truncated": lambda run: (run / "registration" / "registration.json").write_text(
        "{", encoding="utf-8"
    ),
}
VERDICT: dict[str, Case] = {
    "registration: another server": registration_edit(lambda d: d.update(tracking_uri="http://elsewhere")),
    "verdict removed": lambda run: (run / "verdict" / "verdict.json").unlink(),
    "verdict of another version": verdict_edit(lambda d: d.update(version="99")),
    "verdict of another policy": lambda run: edit(
        run / "verdict" / "verdict.json", lambda d: d.update(policy="e" * 64)
    ),
    "verdict prolonged": verdict_edit(lambda d: d.update(expires="2099-01-01T00:00:00Z")),
    "verdict with a finding left out": verdict_edit(lambda d: d["findings"].pop(0)),
    "verdict given twice": lambda run: shutil.copytree(run / "verdict", run / "verdict-again"),
    "policy loosened after the gate": spec_edit(policy__max_harm_after_attack=0.5),
    "waiver added after the gate": spec_edit(
        policy__waivers=[{"rule": "gibberish", "approver": "me", "reason": "x", "expires": "2099-01-01T00:00:00Z"}]
    ),
}


@pytest.fixture
def spec(run: Path) -> ReleaseSpec:
    """The spec as it was recorded."""
    from tokenbuncher.settings import load_spec

    return load_spec(run / "spec.yaml")


@pytest.mark.parametrize("case", EVIDENCE)
def test_evidence(case: str, run: Path, spec: ReleaseSpec) -> None:
    EVIDENCE[case](run)
    assert outcome_of(run) is not Outcome.PASS
    assert_not_promoted(run, spec)


@pytest.mark.parametrize("case", SPEC)
def test_spec_policy_and_registration(case: str, run: Path, spec: ReleaseSpec) -> None:
    SPEC[case](run)
    assert outcome_of(run) is not Outcome.PASS
    assert_not_promoted(run, spec)


@pytest.mark.parametrize("case", VERDICT)
def test_verdict(case: str, run: Path, spec: ReleaseSpec) -> None:
    VERDICT[case](run)
    assert_not_promoted(run, spec)


def test_a_forged_pass_beside_evidence_that_blocks(run: Path, spec: ReleaseSpec) -> None:
    """The gate's own PASS is put back after the evidence has turned."""
    broken = broken_arm(spec, model=json.loads(evidence_file(run, KEY).read_text(encoding="utf-8"))["candidate"])
    edit(evidence_file(run, KEY), lambda d: d.update(candidate_arm=broken.model_dump(mode="json")))
    assert_not_promoted(run, spec)


def test_an_expired_waiver_blocks_again(spec: ReleaseSpec) -> None:
    """With the waiver in force it passes; a second later it does not."""
    release = passing_release(spec).with_piece(KEY, candidate_arm=broken_arm(spec, 60, CANDIDATE))
    until = datetime.now(UTC) + timedelta(hours=1)
    waivers = [
        {"rule": rule, "subject": KEY, "approver": "me", "reason": "x", "expires": until}
        for rule in ("harm-after-attack", "refusal-after-attack", "steps-to-break")
    ]
    policy = type(spec.policy).model_validate({**spec.policy.model_dump(), "waivers": waivers})
    waived = release.with_policy(waivers=policy.waivers)

    def outcome(now: datetime) -> Outcome:
        return judge_release(waived.spec, waived.evidence, waived.registration, now=now).outcome

    assert outcome(until - timedelta(seconds=1)) is Outcome.PASS
    assert outcome(until) is Outcome.BLOCK


def test_mlflow_goes_down_in_the_middle(run: Path, spec: ReleaseSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database cannot be written when the alias would be moved."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import OperationalError

    def down(*_: Any, **__: Any) -> None:
        raise OperationalError("UPDATE", {}, Exception("server closed the connection unexpectedly"))

    monkeypatch.setattr(SqlAlchemyStore, "set_registered_model_alias", down)
    assert_not_promoted(run, spec)


def test_the_release_they_all_start_from_is_promoted(run: Path, spec: ReleaseSpec) -> None:
    """The alias moves; the other tests find it on no version again."""
    assert outcome_of(run) is Outcome.PASS
    promote(*RecordedRelease.found((run,), None, (), policy=None, registration=None), verdict=run / "verdict")
    client = MlflowClient(spec.tracking_uri(), spec.tracking_uri())
    assert "champion" in client.get_registered_model("tampered").aliases
    client.delete_registered_model_alias("tampered", "champion")


def test_there_are_at_least_sixty_cases() -> None:
    assert len(EVIDENCE) + len(SPEC) + len(VERDICT) >= 60
