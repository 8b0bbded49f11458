"""What a run would do, before it does."""

from __future__ import annotations

from collections.abc import Iterator

from tokenbuncher.settings import ReleaseSpec


def outline(spec: ReleaseSpec, resume: bool = False) -> Iterator[str]:
    """Lines that tell where a run would work, and what its stages would do."""
    folder = spec.output.root / spec.name
    if not folder.exists():
        yield f"would run in {folder}, which would be made"
    elif resume:
        yield f"would go on in {folder}, and take over what fits of the stages that are done there"
    else:
        yield f"would run in {folder}, in place of what an earlier run has left there; its verdict stays in the history"
    stages = list(_stages(spec))
    width = max(len(stage) for stage, _ in stages)
    for stage, what in stages:
        yield f"  {stage:<{width}}  {what}"


def _stages(spec: ReleaseSpec) -> Iterator[tuple[str, str]]:
    recipe, sizes = spec.defence.recipe, spec.data.sizes
    yield "fetch-model", spec.model.source
    yield "prepare-data", f"prompts: {', '.join(f'{name} {size}' for name, size in sizes.model_dump().items())}"
    yield "defend", "recipe none: a copy of the model" if recipe == "none" else f"{recipe}, {spec.defence.steps} steps"
    yield "controls", "the attacks on the base model"
    for task in spec.attacks.tasks():
        yield f"attack {task.key}", f"at most {task.attack.steps} steps"
    look_alikes = f", {spec.look_alike_prompts()} look-alikes" if spec.data.look_alikes else ""
    yield "evaluate-safety", f"{sizes.safety} harmful prompts, {spec.benign_prompts()} benign ones{look_alikes}"
    yield "evaluate-utility", f"{sizes.utility} questions{', fine-tuning' if spec.evaluation.fine_tuning else ''}"
    yield "register", f"{spec.tracking.model_name} in {spec.tracking_uri()}"
    yield "gate", f"by policy {spec.policy.name}"
    yield "promote", f"{spec.tracking.alias}, on a PASS"
