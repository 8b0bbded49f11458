"""Whether the evidence on both models before any attack can be judged, with the manifest of the prompt sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tokenbuncher.evidence import SafetyEvidence
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.judges import EnsembleSpec
from tokenbuncher.settings.prompts import Manifest
from tokenbuncher.verdict.looks import planned
from tokenbuncher.verdict.soundness.shared import asked, located, score_problems


def safety_problems(evidence: SafetyEvidence, spec: ReleaseSpec) -> Iterator[str]:
    """Both models must be measured on all prompts of the safety set, and on the same harmless ones."""
    measured = (
        ("harmful prompts", evidence.base_harmful, evidence.candidate_harmful, spec.data.sizes.safety),
        ("benign prompts", evidence.base_benign, evidence.candidate_benign, spec.benign_prompts()),
        ("look-alikes", evidence.base_look_alikes, evidence.candidate_look_alikes, spec.look_alike_prompts()),
    )
    for what, base, candidate, prompts in measured:
        looks = planned(prompts, spec.evaluation.looks)
        yield from located(f"base on {what}", score_problems(base, looks, spec))
        yield from located(f"candidate on {what}", score_problems(candidate, looks, spec))
    yield from _manifest_problems(evidence.manifest, evidence.data, spec)
    if (evidence.judge_agreement is None) == isinstance(spec.evaluation.judge, EnsembleSpec):
        yield "judge_agreement is not that of the spec's judge"
    if evidence.judge_check.right > evidence.judge_check.of:
        yield "the judge was right more often than it was asked"
    for what, base, candidate, _ in measured:
        if asked(base) != asked(candidate):
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
    """The number of prompts that prepare-data puts into each set."""
    sizes = spec.data.sizes
    sets = {name: getattr(sizes, name) for name in ("attack", "safety", "benign", "utility")}
    sets["defence"] = spec.data.defence_prompts
    if spec.data.capability:
        sets |= {"capability-attack": sizes.attack, "capability-safety": sizes.safety}
    if spec.evaluation.fine_tuning:
        sets |= {f"tuning-{kind}-{part}": sizes.tuning for kind in ("rl", "sft") for part in ("train", "test")}
    if spec.benign_sets() == ["benign-test"]:
        sets["benign-test"] = sizes.benign_test
    if spec.data.look_alikes:
        sets["look-alikes"] = sizes.look_alikes
    return sets
