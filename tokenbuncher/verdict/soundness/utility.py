"""Whether the evidence on what the defence cost can be judged: answers to questions, and benign fine-tuning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tokenbuncher.evidence import FineTuning, FineTuningArm, UtilityEvidence, UtilityItem
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict.looks import planned
from tokenbuncher.verdict.soundness.shared import is_share, located, number_problems


def utility_problems(evidence: UtilityEvidence, spec: ReleaseSpec) -> Iterator[str]:
    """Both models must answer the same questions, and be fine-tuned alike on every kind the spec asks for."""
    yield from located("base", _item_problems(evidence.base_items, spec))
    yield from located("candidate", _item_problems(evidence.candidate_items, spec))
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
        yield from located(f"fine-tuning {tuning.kind}", _tuning_problems(tuning, evidence, spec))


def _item_problems(items: Sequence[UtilityItem], spec: ReleaseSpec) -> Iterator[str]:
    distinct = {item.prompt for item in items}
    if len(distinct) != len(items):
        yield f"{len(items) - len(distinct)} questions were answered more than once"
    own = {item.prompt for item in items if item.harness is None}
    yield from number_problems(
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
    yield from located("base", _tuning_arm_problems(tuning.base, tuning.kind, evidence.base, spec=spec))
    yield from located("candidate", _tuning_arm_problems(tuning.candidate, tuning.kind, evidence.candidate, spec=spec))
    if tuning.base.correct.keys() != tuning.candidate.correct.keys():
        yield "base and candidate were tested on different questions"


def _tuning_arm_problems(arm: FineTuningArm, kind: str, model: str, *, spec: ReleaseSpec) -> Iterator[str]:
    settings = spec.evaluation.fine_tuning
    assert settings is not None
    if arm.model != model:
        yield f"is about model {arm.model[:12]}, not {model[:12]}"
    if len(arm.correct) != spec.data.sizes.tuning:
        yield f"{len(arm.correct)} questions were tested; the spec has {spec.data.sizes.tuning}"
    if not (is_share(arm.refusal, spec.data.sizes.safety) and all(is_share(a, len(arm.correct)) for _, a in arm.curve)):
        yield "an accuracy or the refusal is no share of the questions that were asked"
    steps = settings.rl_steps if kind == "rl" else settings.sft_steps
    measured = [step for step, _ in arm.curve]
    if measured != sorted(set(measured)) or measured[:1] != [0] or measured[-1:] != [steps]:
        yield f"the curve does not run from step 0 to step {steps}"
    elif arm.correct and abs(arm.curve[-1][1] - sum(arm.correct.values()) / len(arm.correct)) > 1e-6:
        yield f"the curve ends at accuracy {arm.curve[-1][1]:.2%}, but the answers say otherwise"
