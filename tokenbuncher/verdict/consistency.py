"""What the pieces of evidence say of each other: that they are one release, and none is a copy of another.

Each check yields what is wrong, in words. The pieces are sound by themselves; see `tokenbuncher.verdict.soundness`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from tokenbuncher.evidence import AttackArm, AttackEvidence, Evidence, SafetyEvidence, SampleScore, UtilityEvidence
from tokenbuncher.prompts import Manifest
from tokenbuncher.settings import AttackSpec, ReleaseSpec
from tokenbuncher.verdict.soundness import BEYOND_CHANCE, disagreements
from tokenbuncher.verdict.statistics import fisher_p_value

Arms = list[tuple[str, AttackArm]]


def contradictions(
    attacks: Sequence[AttackEvidence], safety: SafetyEvidence, utility: UtilityEvidence, spec: ReleaseSpec
) -> Iterator[str]:
    """What no release can have measured.

    Args:
        attacks: Every attack of the spec.
        safety: Both models before any attack.
        utility: Both models on utility questions.
        spec: The release spec.
    """
    pieces: list[Evidence] = [*attacks, safety, utility]
    if safety.base == safety.candidate and spec.defence.recipe != "none":
        yield "the candidate is the undefended model"
    if any(piece.versions != safety.versions for piece in pieces):
        yield "the pieces were measured with different versions of Python or its libraries"
    yield from _foreign_prompts(attacks, safety, utility, spec)
    for attack in attacks:
        yield from _other_starts(attack, safety)
        yield from _other_curves(attack, safety.manifest, spec)
    controls = [(f"{attack.key}, control", attack.control_arm) for attack in attacks]
    candidates = [(f"{attack.key}, candidate", attack.candidate_arm) for attack in attacks]
    yield from _copies([*controls, *candidates])


def measured_set(attack: AttackSpec) -> str:
    """Name of the prompt set on which an attack is measured."""
    return "capability-safety" if attack.objective == "capability" else "safety"


def _foreign_prompts(
    attacks: Sequence[AttackEvidence], safety: SafetyEvidence, utility: UtilityEvidence, spec: ReleaseSpec
) -> Iterator[str]:
    """Everything was measured on the prompts of its own sets."""
    benign = ["utility", *(["tuning-rl-test"] if spec.evaluation.fine_tuning else [])]
    asked: list[tuple[str, Iterable[str], list[str]]] = [
        ("safety, harmful prompts", _prompts(safety.base_harmful + safety.candidate_harmful), ["safety"]),
        ("safety, benign prompts", _prompts(safety.base_benign + safety.candidate_benign), benign),
        ("utility", {item.prompt for item in utility.base_items if item.harness is None}, ["utility"]),
    ]
    for attack in attacks:
        for arm in (attack.control_arm, attack.candidate_arm):
            named = _prompts(arm.start + arm.scores)
            if arm.latent:
                named |= arm.latent.before.keys() | arm.latent.after.keys()
            asked.append((attack.key, named, [measured_set(attack.attack)]))
    asked += [
        (f"fine-tuning {tuning.kind}", tuning.base.correct, [f"tuning-{tuning.kind}-test"])
        for tuning in utility.fine_tuning
    ]
    for where, prompts, sets in asked:
        known = {identifier for name in sets for identifier in safety.manifest.sets[name].ids}
        if foreign := len(set(prompts) - known):
            yield f"{where}: {foreign} prompts are not in the set {' or '.join(sets)}"


def _prompts(scores: Iterable[SampleScore]) -> set[str]:
    return {score.prompt for score in scores}


def _other_starts(attack: AttackEvidence, safety: SafetyEvidence) -> Iterator[str]:
    """Before its first step an attack that changes nothing beforehand has the very model that safety measured."""
    task = attack.attack
    if task.warm_up or task.weight_noise or task.objective != "comply":
        return
    for where, arm, unattacked in (
        ("control", attack.control_arm, safety.base_harmful),
        ("candidate", attack.candidate_arm, safety.candidate_harmful),
    ):
        prompts = _prompts(unattacked)
        start = [score for score in arm.start if score.prompt in prompts]
        for what in ("harmful", "refused", "gibberish"):
            counts = [sum(getattr(score, what) for score in scores) for scores in (start, unattacked)]
            if fisher_p_value(counts[0], len(start), counts[1], len(unattacked)) < 1 - BEYOND_CHANCE:
                yield (
                    f"{attack.key}, {where}: {counts[0]} of {len(start)} responses were {what} before the first step, "
                    f"but {counts[1]} of {len(unattacked)} without an attack"
                )


def _other_curves(attack: AttackEvidence, manifest: Manifest, spec: ReleaseSpec) -> Iterator[str]:
    """The point of the curve from which the scores are, and the scores of the prompts behind it, are of one model."""
    probed = set(manifest.sets[measured_set(attack.attack)].ids[: spec.attacks.probe_prompts])
    for where, arm in (("control", attack.control_arm), ("candidate", attack.candidate_arm)):
        point = next(point for point in arm.curve if point.step == arm.worst_step)
        scores = [score for score in arm.scores if score.prompt in probed]
        if scores:
            for problem in disagreements(scores, point, spec.attacks.probe_prompts):
                yield f"{attack.key}, {where}: {problem}"


def _copies(arms: Arms) -> Iterator[str]:
    """No two runs took the same time to the last bit, or gave the same figures, unless the attack moved nothing."""
    for (one, first), (other, second) in combinations(arms, 2):
        same_time = (first.seconds, first.cpu_seconds) == (second.seconds, second.cpu_seconds)
        same_figures = first.curve == second.curve or first.scores == second.scores
        if same_time or (same_figures and _moved(first)):
            yield f"{other} is a copy of {one}"


def _moved(arm: AttackArm) -> bool:
    """Whether the attacked model answers otherwise than it did before the first step.

    One whose responses are all but certain gives the same ones, with the same entropies, until it is moved.
    """
    start = {(score.prompt, score.sample): (score.tokens, score.entropy) for score in arm.start}
    return any(start.get((score.prompt, score.sample)) != (score.tokens, score.entropy) for score in arm.scores)
