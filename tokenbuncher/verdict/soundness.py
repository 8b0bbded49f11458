"""Whether a piece of evidence can be judged at all: bound to this release, complete, free of contradictions.

Each check yields what is wrong, in words; nothing means sound.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from tokenbuncher import __version__
from tokenbuncher.evidence import (
    AttackArm,
    AttackEvidence,
    CurvePoint,
    Evidence,
    FineTuning,
    FineTuningArm,
    Registration,
    SafetyEvidence,
    SampleScore,
    UtilityEvidence,
    UtilityItem,
)
from tokenbuncher.looks import planned
from tokenbuncher.settings import AttackSpec, AttackTask, ReleaseSpec
from tokenbuncher.verdict.statistics import Rate, score_rate

CLOCK_SKEW = timedelta(minutes=5)
# Two measurements of one model whose bounds at this confidence lie apart are not of one model.
BEYOND_CHANCE = 0.9999


def binding_problems(evidence: Evidence, spec: ReleaseSpec, registration: Registration, now: datetime) -> Iterator[str]:
    """Evidence must be about this spec and this registered version, and made by this version of the tool."""
    if evidence.spec != spec.evidence_digest():
        yield f"was measured under spec {evidence.spec[:12]}, not this one ({spec.evidence_digest()[:12]})"
    if evidence.candidate != registration.digest:
        yield f"is about candidate {evidence.candidate[:12]}, not the registered {registration.digest[:12]}"
    if evidence.tool_version != __version__:
        yield f"was made by tokenbuncher {evidence.tool_version}, not {__version__}"
    if evidence.created.tzinfo is None:
        yield f"says it was created at {evidence.created.isoformat()}, without a time zone"
    elif evidence.created > now + CLOCK_SKEW:
        yield f"says it was created at {evidence.created.isoformat()}, in the future"
    elif evidence.created < now - timedelta(days=spec.policy.valid_days):
        yield f"is stale: created {evidence.created:%Y-%m-%d}, more than {spec.policy.valid_days} days ago"


def attack_problems(evidence: AttackEvidence, task: AttackTask, spec: ReleaseSpec) -> Iterator[str]:
    """The attack must be the spec's, and both models measured throughout it, on the same prompts."""
    if evidence.attack != task.attack or evidence.seed != task.seed:
        yield "ran another attack than the spec's"
        return
    for where, arm, model in (
        ("control", evidence.control_arm, evidence.base),
        ("candidate", evidence.candidate_arm, evidence.candidate),
    ):
        for problem in _arm_problems(arm, model, task, spec):
            yield f"{where}: {problem}"
    control, candidate = _asked(evidence.control_arm.scores), _asked(evidence.candidate_arm.scores)
    if not (control <= candidate or candidate <= control):  # one may have been settled at an earlier look
        yield "control and candidate were measured on different prompts"


def safety_problems(evidence: SafetyEvidence, spec: ReleaseSpec) -> Iterator[str]:
    """Both models must be measured on all prompts of the safety set, and on the same benign ones."""
    benign = spec.benign_prompts()
    for where, scores, prompts in (
        ("base on harmful prompts", evidence.base_harmful, spec.data.sizes.safety),
        ("candidate on harmful prompts", evidence.candidate_harmful, spec.data.sizes.safety),
        ("base on benign prompts", evidence.base_benign, benign),
        ("candidate on benign prompts", evidence.candidate_benign, benign),
    ):
        for problem in _score_problems(scores, prompts, spec):
            yield f"{where}: {problem}"
    if evidence.manifest and evidence.manifest.folder_digest() != evidence.data:
        yield "its manifest is not that of the prompt sets it was measured on"
    if evidence.manifest and evidence.manifest.leakage:
        yield f"its manifest names {len(evidence.manifest.leakage)} leaks between prompt sets"
    if _asked(evidence.base_harmful) != _asked(evidence.candidate_harmful):
        yield "base and candidate were measured on different harmful prompts"
    if _asked(evidence.base_benign) != _asked(evidence.candidate_benign):
        yield "base and candidate were measured on different benign prompts"


def utility_problems(evidence: UtilityEvidence, spec: ReleaseSpec) -> Iterator[str]:
    """Both models must answer the same questions, and be fine-tuned alike on every kind the spec asks for."""
    for where, items in (("base", evidence.base_items), ("candidate", evidence.candidate_items)):
        for problem in _item_problems(items, spec):
            yield f"{where}: {problem}"
    if {i.prompt: i.task for i in evidence.base_items} != {i.prompt: i.task for i in evidence.candidate_items}:
        yield "base and candidate answered different questions"
    kinds = sorted(tuning.kind for tuning in evidence.fine_tuning)
    wanted = ["rl", "sft"] if spec.evaluation.fine_tuning else []
    if kinds != wanted:
        yield f"has fine-tuning {', '.join(kinds) or 'none'}; the spec asks for {', '.join(wanted) or 'none'}"
        return
    for tuning in evidence.fine_tuning:
        for problem in _tuning_problems(tuning, evidence, spec):
            yield f"fine-tuning {tuning.kind}: {problem}"


def _arm_problems(arm: AttackArm, model: str, task: AttackTask, spec: ReleaseSpec) -> Iterator[str]:
    settings = spec.attacks
    if arm.model != model:
        yield f"is about model {arm.model[:12]}, not {model[:12]}"
    if not 0 < arm.steps_run <= task.attack.steps:
        yield f"the attack ran {arm.steps_run} steps; the spec has {task.attack.steps}"
        return
    if arm.steps_to_break is None and arm.steps_run < task.attack.steps:
        yield f"the attack stopped at step {arm.steps_run} of {task.attack.steps} though the model had not broken"
    rates = task.attack.learning_rate
    if arm.learning_rate not in (rates if isinstance(rates, list) else [rates]):
        yield f"the attack had learning rate {arm.learning_rate:g}; the spec has {rates}"
    sampled = _rollouts(task.attack, arm.steps_run)
    if arm.rollouts != sampled or any(point.rollouts > arm.rollouts for point in arm.curve):
        yield f"the attack sampled {arm.rollouts} rollouts; {arm.steps_run} steps of the spec's take {sampled}"
    if [point.step for point in arm.curve] != settings.probed(arm.steps_run):
        yield f"harm was not measured every {settings.probe_every} steps from 0 to {arm.steps_run}"
    broke = next((p.step for p in arm.curve if p.step > 0 and p.harm >= settings.break_at), None)
    if arm.steps_to_break != broke:
        yield f"steps_to_break is {arm.steps_to_break}, but by the curve it is {broke}"
    yield from _score_problems(arm.scores, spec.data.sizes.safety, spec)
    worst = [point for point in arm.curve if point.step == arm.worst_step]
    if not worst or worst[0].harm < max(point.harm for point in arm.curve):
        yield f"worst_step {arm.worst_step} is not the most harmful step of the curve"
    elif arm.scores:
        yield from _disagreements(arm.scores, worst[0], settings.probe_prompts)


def _rollouts(attack: AttackSpec, steps_run: int) -> int:
    """What the attack samples in so many steps; offline DPO samples everything before the first."""
    steps = {"sft": 0, "dpo-offline": attack.steps}.get(attack.algorithm, steps_run)
    return steps * attack.prompts_per_step * attack.rollouts


def _disagreements(scores: Sequence[SampleScore], point: CurvePoint, probed: int) -> Iterator[str]:
    """The curve's point and the scores are two measurements of one model."""
    for what, scored, share in (
        ("harm", score_rate(scores, "harmful"), point.harm),
        ("refusal", score_rate(scores, "refused"), point.refusal),
        ("gibberish", score_rate(scores, "gibberish"), point.gibberish),
    ):
        probe = Rate(share, probed, probed)
        low = max(probe.lower(BEYOND_CHANCE), scored.lower(BEYOND_CHANCE))
        high = min(probe.upper(BEYOND_CHANCE), scored.upper(BEYOND_CHANCE))
        if low > high:
            yield f"{what} is {share:.2%} on the curve at step {point.step}, but {scored.value:.2%} in the scores"


def _score_problems(scores: Sequence[SampleScore], prompts: int, spec: ReleaseSpec) -> Iterator[str]:
    samples = defaultdict(list)
    for score in scores:
        samples[score.prompt].append(score.sample)
    yield from _number_problems(len(samples), "distinct prompts were measured", prompts, spec)
    wanted = list(range(spec.evaluation.samples_per_prompt))
    wrong = sum(sorted(own) != wanted for own in samples.values())
    if wrong:
        yield f"{wrong} prompts are missing samples or have some twice; the spec asks for {len(wanted)} each"


def _number_problems(number: int, what: str, prompts: int, spec: ReleaseSpec) -> Iterator[str]:
    """As many prompts as one of the spec's looks asks: a number chosen otherwise has no bound that holds."""
    sizes = planned(prompts, spec.evaluation.looks)
    if number not in sizes:
        yield f"{number} {what}; the spec has {' or '.join(map(str, sizes))}"


def _item_problems(items: Sequence[UtilityItem], spec: ReleaseSpec) -> Iterator[str]:
    distinct = {item.prompt for item in items}
    if len(distinct) != len(items):
        yield f"{len(items) - len(distinct)} questions were answered more than once"
    own = {item.prompt for item in items if item.harness is None}
    yield from _number_problems(len(own), "questions were answered", spec.data.sizes.utility, spec)
    asked = {item.harness for item in items if item.harness is not None}
    wanted = set(spec.evaluation.harness.tasks) if spec.evaluation.harness else set()
    if asked != wanted:
        yield (
            f"has tasks {', '.join(sorted(asked)) or 'none'} of lm-evaluation-harness; the spec asks for "
            f"{', '.join(sorted(wanted)) or 'none'}"
        )
    limit = spec.evaluation.harness.limit if spec.evaluation.harness else None
    for task, number in Counter(item.task for item in items if item.harness is not None).items():
        if limit and number > limit:
            yield f"{number} questions of {task} were answered; the spec has at most {limit}"
    unread = sum(item.correct and not item.parsed for item in items)
    if unread:
        yield f"{unread} answers count as right though none could be parsed"


def _tuning_problems(tuning: FineTuning, evidence: UtilityEvidence, spec: ReleaseSpec) -> Iterator[str]:
    for where, arm, model in (
        ("base", tuning.base, evidence.base),
        ("candidate", tuning.candidate, evidence.candidate),
    ):
        for problem in _tuning_arm_problems(arm, tuning.kind, model, spec):
            yield f"{where}: {problem}"
    if tuning.base.correct.keys() != tuning.candidate.correct.keys():
        yield "base and candidate were tested on different questions"


def _tuning_arm_problems(arm: FineTuningArm, kind: str, model: str, spec: ReleaseSpec) -> Iterator[str]:
    settings = spec.evaluation.fine_tuning
    assert settings is not None
    if arm.model != model:
        yield f"is about model {arm.model[:12]}, not {model[:12]}"
    if len(arm.correct) != spec.data.sizes.tuning:
        yield f"{len(arm.correct)} questions were tested; the spec has {spec.data.sizes.tuning}"
    steps = settings.rl_steps if kind == "rl" else settings.sft_steps
    measured = [step for step, _ in arm.curve]
    if measured != sorted(set(measured)) or measured[:1] != [0] or measured[-1:] != [steps]:
        yield f"the curve does not run from step 0 to step {steps}"
    elif arm.correct and abs(arm.curve[-1][1] - sum(arm.correct.values()) / len(arm.correct)) > 1e-6:
        yield f"the curve ends at accuracy {arm.curve[-1][1]:.2%}, but the answers say otherwise"


def _asked(scores: Iterable[SampleScore]) -> set[tuple[str, int]]:
    return {(score.prompt, score.sample) for score in scores}
