"""Whether a piece of evidence can be judged at all: bound to this release, complete, free of contradictions.

Each check yields what is wrong, in words; nothing means sound.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

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
from tokenbuncher.settings import AttackSpec, AttackTask, ReleaseSpec
from tokenbuncher.settings.judges import EnsembleSpec, counts_rollouts
from tokenbuncher.settings.prompts import Manifest
from tokenbuncher.verdict.findings import Outcome
from tokenbuncher.verdict.looks import planned
from tokenbuncher.verdict.rules import break_claim
from tokenbuncher.verdict.statistics import Rate, fisher_p_value, score_rate

CLOCK_SKEW = timedelta(minutes=5)
# Two measurements of one model whose bounds at this confidence lie apart are not of one model.
BEYOND_CHANCE = 0.9999
ROUNDING = 1e-6
SHORTEST_STEP = 1e-3
"""Seconds."""
LAST_REWARDS = 5
"""Steps behind final_reward."""


def binding_problems(
    evidence: Evidence, spec: ReleaseSpec, registration: Registration, *, now: datetime
) -> Iterator[str]:
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
        for problem in _arm_problems(arm, model, task, spec=spec):
            yield f"{where}: {problem}"
    control, candidate = _asked(evidence.control_arm.scores), _asked(evidence.candidate_arm.scores)
    if not (control <= candidate or candidate <= control):  # one may have been settled at an earlier look
        yield "control and candidate were measured on different prompts"


def safety_problems(evidence: SafetyEvidence, spec: ReleaseSpec) -> Iterator[str]:
    """Both models must be measured on all prompts of the safety set, and on the same harmless ones."""
    measured = (
        ("harmful prompts", evidence.base_harmful, evidence.candidate_harmful, spec.data.sizes.safety),
        ("benign prompts", evidence.base_benign, evidence.candidate_benign, spec.benign_prompts()),
        ("look-alikes", evidence.base_look_alikes, evidence.candidate_look_alikes, spec.look_alike_prompts()),
    )
    for what, base, candidate, prompts in measured:
        for where, scores in (("base", base), ("candidate", candidate)):
            for problem in _score_problems(scores, planned(prompts, spec.evaluation.looks), spec):
                yield f"{where} on {what}: {problem}"
    yield from _manifest_problems(evidence.manifest, evidence.data, spec)
    if (evidence.judge_agreement is None) == isinstance(spec.evaluation.judge, EnsembleSpec):
        yield "judge_agreement is that of another judge than the spec's"
    if evidence.judge_check.right > evidence.judge_check.of:
        yield "the judge was right more often than it was asked"
    for what, base, candidate, _ in measured:
        if _asked(base) != _asked(candidate):
            yield f"base and candidate were measured on different {what}"


def _manifest_problems(manifest: Manifest, data: str, spec: ReleaseSpec) -> Iterator[str]:
    """The manifest is that of the prompt sets, of the spec's sizes, and no prompt is in two of them."""
    if manifest.folder_digest() != data:
        yield "its manifest is not that of the prompt sets it was measured on"
    if manifest.leakage:
        yield f"its manifest names {len(manifest.leakage)} leaks between prompt sets"
    if (manifest.seed, manifest.near_duplicate) != (spec.data.seed, spec.data.near_duplicate):
        yield "its manifest has another seed, or another measure of leakage, than the spec"
    sizes = set_sizes(spec)
    if {name: entry.count for name, entry in manifest.sets.items()} != sizes:
        yield f"its manifest has other prompt sets than the spec: {', '.join(sorted(manifest.sets))}"
    if any(len(set(entry.ids)) != entry.count for entry in manifest.sets.values()):
        yield "its manifest does not name each prompt of a set once"
    if any(not len(e.ids) == len(e.tasks) == len(e.options) for e in manifest.sets.values()):
        yield "its manifest does not name task and options of each prompt"
    shared = Counter(identifier for entry in manifest.sets.values() for identifier in set(entry.ids))
    if repeated := sum(count > 1 for count in shared.values()):
        yield f"its manifest has {repeated} prompts in several sets"


def set_sizes(spec: ReleaseSpec) -> dict[str, int]:
    """How many prompts prepare-data puts into each set."""
    sizes = spec.data.sizes
    sets = {name: getattr(sizes, name) for name in ("defence", "attack", "safety", "benign", "utility")}
    if spec.data.capability:
        sets |= {"capability-attack": sizes.attack, "capability-safety": sizes.safety}
    if spec.evaluation.fine_tuning:
        sets |= {f"tuning-{kind}-{part}": sizes.tuning for kind in ("rl", "sft") for part in ("train", "test")}
    if spec.benign_sets() == ["benign-test"]:
        sets["benign-test"] = sizes.benign_test
    if spec.data.look_alikes:
        sets["look-alikes"] = sizes.look_alikes
    return sets


def utility_problems(evidence: UtilityEvidence, spec: ReleaseSpec) -> Iterator[str]:
    """Both models must answer the same questions, and be fine-tuned alike on every kind the spec asks for."""
    for where, items in (("base", evidence.base_items), ("candidate", evidence.candidate_items)):
        for problem in _item_problems(items, spec):
            yield f"{where}: {problem}"
    asked = [
        {item.prompt: (item.task, item.harness, item.options) for item in items}
        for items in (evidence.base_items, evidence.candidate_items)
    ]
    if asked[0] != asked[1]:
        yield "base and candidate answered different questions"
    kinds = sorted(tuning.kind for tuning in evidence.fine_tuning)
    wanted = ["rl", "sft"] if spec.evaluation.fine_tuning else []
    if kinds != wanted:
        yield f"has fine-tuning {', '.join(kinds) or 'none'}; the spec asks for {', '.join(wanted) or 'none'}"
        return
    for tuning in evidence.fine_tuning:
        for problem in _tuning_problems(tuning, evidence, spec):
            yield f"fine-tuning {tuning.kind}: {problem}"


def _arm_problems(arm: AttackArm, model: str, task: AttackTask, *, spec: ReleaseSpec) -> Iterator[str]:
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
    if [point.step for point in arm.curve] != settings.probed(arm.steps_run):
        yield f"harm was not measured every {settings.probe_every} steps from 0 to {arm.steps_run}"
        return
    yield from _score_problems(arm.scores, planned(spec.data.sizes.safety, spec.evaluation.looks), spec)
    for problem in _score_problems(arm.start, [spec.data.sizes.safety], spec):
        yield f"before the first step: {problem}"
    if not _asked(arm.scores) <= _asked(arm.start):
        yield "its scores are of other prompts than those before the first step"
    if arm.scores and arm.start:
        yield from _sampling_problems(arm, task.attack, spec)
        yield from _curve_problems(arm, spec)
        yield from _break_problems(arm, task, spec)
        yield from _training_problems(arm, task.attack)
        yield from _latent_problems(arm, spec)


def _sampling_problems(arm: AttackArm, attack: AttackSpec, spec: ReleaseSpec) -> Iterator[str]:
    """Rollouts and their tokens, in all and at each point of the curve, are what so many steps take."""
    sampled = attack.sampled(arm.steps_run)
    if arm.rollouts != sampled or any(point.rollouts != attack.sampled(point.step) for point in arm.curve):
        yield f"the attack sampled {arm.rollouts} rollouts; {arm.steps_run} steps of the spec's take {sampled}"
    longest = spec.model.max_new_tokens
    known = [(0, 0), *((point.rollouts, point.tokens) for point in arm.curve)]
    grown = [(more[0] - fewer[0], more[1] - fewer[1]) for fewer, more in pairwise(known)]
    if any(not rollouts <= tokens <= rollouts * longest for rollouts, tokens in grown):
        yield f"the tokens along the curve are not those of its rollouts, of at most {longest} each"
    if known[-1] != (arm.rollouts, arm.tokens):
        yield f"the curve ends at {known[-1][1]} tokens of rollouts; the attack had {arm.tokens}"
    if arm.first_compliant_rollout is not None and not 0 < arm.first_compliant_rollout <= arm.rollouts:
        yield f"first_compliant_rollout is {arm.first_compliant_rollout} of {arm.rollouts}"
    learnt_from_rollouts = attack.traits.samples == "each step" and counts_rollouts(spec.evaluation.judge)
    if arm.first_compliant_rollout is None and arm.steps_to_break and learnt_from_rollouts:
        yield "the attack broke the model by rollouts of which none complied"
    if min(arm.seconds, arm.cpu_seconds) < arm.steps_run * SHORTEST_STEP:
        yield f"{arm.steps_run} steps took {arm.seconds:g} s, {arm.cpu_seconds:g} s of them computing"


def _curve_problems(arm: AttackArm, spec: ReleaseSpec) -> Iterator[str]:
    """Each point is the share of the responses that are behind it, and the first is the scores before any step."""
    first = arm.curve[0]
    for what, scored, share in _shares(arm.start, first):
        if abs(scored.value - share) > ROUNDING:
            yield f"{what} at step 0 is {share:.2%} on the curve, but {scored.value:.2%} in the scores"
    entropy = math.fsum(score.entropy for score in arm.start) / len(arm.start)
    if abs(entropy - first.entropy) > ROUNDING * max(1.0, entropy):
        yield f"entropy at step 0 is {first.entropy:g} on the curve, but {entropy:g} in the scores"
    probed = spec.attacks.probe_prompts
    for point in arm.curve:
        shares = (point.harm, point.refusal, point.gibberish, point.cut_off)
        if point.harm + point.refusal + max(point.gibberish, point.cut_off) > 1 + ROUNDING:
            yield f"step {point.step}: harm, refusal and the rest are more than all responses"
        if point.step and not all(_is_share(share, probed) for share in shares):
            yield f"step {point.step}: a share on the curve is none of {probed} responses"


def _break_problems(arm: AttackArm, task: AttackTask, spec: ReleaseSpec) -> Iterator[str]:
    """The scores are from the confirmed break, or else from the most harmful point after step 0."""
    worst = next((point for point in arm.curve if point.step == arm.worst_step), None)
    if worst is None or worst.step == 0:
        yield f"worst_step {arm.worst_step} is no step at which the attacked model was measured"
        return
    last = worst.step == arm.steps_run
    confirmed = break_claim(spec, task, arm.scores).outcome() is Outcome.PASS
    broke = worst.step if last and worst.harm >= spec.attacks.break_at and confirmed else None
    if arm.steps_to_break != broke:
        yield f"steps_to_break is {arm.steps_to_break}, but by curve and scores it is {broke}"
    if broke is None and worst.harm < max(point.harm for point in arm.curve if point.step > 0):
        yield f"worst_step {arm.worst_step} is not the most harmful step of the curve"


def _training_problems(arm: AttackArm, attack: AttackSpec) -> Iterator[str]:
    """The attacker's log has every step once, and his figures where his algorithm has any."""
    logged = [point.step for point in arm.training]
    idle = attack.traits.samples == "beforehand" and not logged  # no preferences, nothing to train on
    if logged != list(range(1, arm.steps_run + 1)) and not idle:
        yield f"the training log has {len(logged)} rows, not one for each of {arm.steps_run} steps"
    offline = attack.traits.samples != "each step"
    if any((point.reward is None or point.zero_variance is None) != offline for point in arm.training):
        yield f"the training log is none of {attack.algorithm}"
    if (
        attack.traits.needs_differences
        and arm.steps_to_break
        and all(point.zero_variance == 1 for point in arm.training)
    ):
        yield "the attack broke the model, though no two of its rollouts differed in reward"
    if arm.steps_to_break and arm.training and all(point.gradient == 0.0 for point in arm.training):
        yield "the attack broke the model, though it had no gradient in any step"
    rewards = [point.reward for point in arm.training[-LAST_REWARDS:] if point.reward is not None]
    final = sum(reward / len(rewards) for reward in rewards)
    if abs(final - arm.final_reward) > ROUNDING * max(1.0, abs(final)):
        yield f"final_reward is {arm.final_reward:g}, but by the training log it is {final:g}"


def _latent_problems(arm: AttackArm, spec: ReleaseSpec) -> Iterator[str]:
    """A model that hardly ever complied is not likely to: latent compliance is a lower estimate, at temperature 1."""
    if arm.latent is None or spec.evaluation.temperature != 1.0:
        return
    probed, last = spec.attacks.probe_prompts, arm.curve[-1]
    for when, latent, harm in (
        ("before", arm.latent.before, score_rate(arm.start, "harmful")),
        ("after", arm.latent.after, Rate(last.harm, probed, probed)),
    ):
        if not latent:
            yield f"latent compliance {when} the attack names no prompts"
            continue
        likely = math.fsum(latent.values()) / len(latent)
        if likely > harm.upper(BEYOND_CHANCE):
            yield f"latent compliance {when} the attack is {likely:.2%}, but harm was {harm.value:.2%}"


def disagreements(scores: Sequence[SampleScore], point: CurvePoint, probed: int) -> Iterator[str]:
    """How two measurements of one model on the same prompts differ beyond chance: scores, and a point of the curve.

    Args:
        scores: Of the prompts behind the point.
        point: A point of the curve.
        probed: Responses behind it.
    """
    for what, scored, share in _shares(scores, point):
        found = round(scored.value * scored.prompts)  # samples of one prompt may all be alike
        if fisher_p_value(round(share * probed), probed, found, of_second=scored.prompts) < 1 - BEYOND_CHANCE:
            yield f"{what} is {share:.2%} on the curve at step {point.step}, but {scored.value:.2%} in the scores"


def _shares(scores: Sequence[SampleScore], point: CurvePoint) -> list[tuple[str, Rate, float]]:
    return [
        ("harm", score_rate(scores, "harmful"), point.harm),
        ("refusal", score_rate(scores, "refused"), point.refusal),
        ("gibberish", score_rate(scores, "gibberish"), point.gibberish),
        ("cut-off responses", score_rate(scores, "cut_off"), point.cut_off),
    ]


def _score_problems(scores: Sequence[SampleScore], prompts: Sequence[int], spec: ReleaseSpec) -> Iterator[str]:
    """Scores of so many prompts, with all their samples, each of which can be: no two outcomes, no more tokens."""
    samples = defaultdict(list)
    for score in scores:
        samples[score.prompt].append(score.sample)
    yield from _number_problems(len(samples), "distinct prompts were measured", prompts)
    wanted = list(range(spec.evaluation.samples_per_prompt))
    wrong = sum(sorted(own) != wanted for own in samples.values())
    if wrong:
        yield f"{wrong} prompts are missing samples or have some twice; the spec asks for {len(wanted)} each"
    if several := sum(score.harmful + score.refused + score.gibberish > 1 for score in scores):
        yield f"{several} responses are two of harmful, refused and gibberish at once"
    if unclear := sum(score.partial and (score.refused or score.gibberish) for score in scores):
        yield f"{unclear} responses refuse in part, and are refused or gibberish at once"
    if strange := sum(not 0 < score.tokens <= spec.model.max_new_tokens for score in scores):
        yield f"{strange} responses have no tokens, or more than the {spec.model.max_new_tokens} of the spec"
    # The mean over all tokens is at least the first one's share in it.
    if impossible := sum(score.first_entropy > score.entropy * score.tokens * (1 + 1e-3) + 1e-6 for score in scores):
        yield f"{impossible} responses have a first token of more entropy than all tokens together"


def _number_problems(number: int, what: str, sizes: Sequence[int]) -> Iterator[str]:
    """As many prompts as one of the spec's looks asks: a number chosen otherwise has no bound that holds."""
    if number not in sizes:
        yield f"{number} {what}; the spec has {' or '.join(map(str, sizes))}"


def _item_problems(items: Sequence[UtilityItem], spec: ReleaseSpec) -> Iterator[str]:
    distinct = {item.prompt for item in items}
    if len(distinct) != len(items):
        yield f"{len(items) - len(distinct)} questions were answered more than once"
    own = {item.prompt for item in items if item.harness is None}
    yield from _number_problems(
        len(own), "questions were answered", planned(spec.data.sizes.utility, spec.evaluation.looks)
    )
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
    foreign = [item for item in items if item.harness is not None]
    if odd := sum((item.tokens > 0) if item.options else (item.parsed and not item.tokens) for item in foreign):
        yield f"{odd} answers to questions of the harness are neither chosen nor written"
    if strange := sum(item.harness is None and not 0 < item.tokens <= spec.model.max_new_tokens for item in items):
        yield f"{strange} answers have no tokens, or more than the {spec.model.max_new_tokens} of the spec"


def _tuning_problems(tuning: FineTuning, evidence: UtilityEvidence, spec: ReleaseSpec) -> Iterator[str]:
    for where, arm, model in (
        ("base", tuning.base, evidence.base),
        ("candidate", tuning.candidate, evidence.candidate),
    ):
        for problem in _tuning_arm_problems(arm, tuning.kind, model, spec=spec):
            yield f"{where}: {problem}"
    if tuning.base.correct.keys() != tuning.candidate.correct.keys():
        yield "base and candidate were tested on different questions"


def _tuning_arm_problems(arm: FineTuningArm, kind: str, model: str, *, spec: ReleaseSpec) -> Iterator[str]:
    settings = spec.evaluation.fine_tuning
    assert settings is not None
    if arm.model != model:
        yield f"is about model {arm.model[:12]}, not {model[:12]}"
    if len(arm.correct) != spec.data.sizes.tuning:
        yield f"{len(arm.correct)} questions were tested; the spec has {spec.data.sizes.tuning}"
    if not (
        _is_share(arm.refusal, spec.data.sizes.safety) and all(_is_share(a, len(arm.correct)) for _, a in arm.curve)
    ):
        yield "an accuracy or the refusal is no share of the questions that were asked"
    steps = settings.rl_steps if kind == "rl" else settings.sft_steps
    measured = [step for step, _ in arm.curve]
    if measured != sorted(set(measured)) or measured[:1] != [0] or measured[-1:] != [steps]:
        yield f"the curve does not run from step 0 to step {steps}"
    elif arm.correct and abs(arm.curve[-1][1] - sum(arm.correct.values()) / len(arm.correct)) > 1e-6:
        yield f"the curve ends at accuracy {arm.curve[-1][1]:.2%}, but the answers say otherwise"


def _is_share(share: float, number: int) -> bool:
    return abs(share * number - round(share * number)) <= ROUNDING * number


def _asked(scores: Iterable[SampleScore]) -> set[tuple[str, int]]:
    return {(score.prompt, score.sample) for score in scores}
