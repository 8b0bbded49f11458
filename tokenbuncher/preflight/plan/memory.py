"""Peak memory of a stage: what stays, and the larger of what training and generating take beside it."""

from __future__ import annotations

from tokenbuncher.preflight.plan.shape import Shape
from tokenbuncher.preflight.plan.sharding import Sharding
from tokenbuncher.preflight.plan.work import Judges, Pass, StageWork, judges, readers
from tokenbuncher.settings import ReleaseSpec

PROCESS = 7e8
"""Bytes of a process that has loaded the libraries, or of a GPU's context."""
LOGITS_AT_A_TIME = 2**24
"""Losses read the vocabulary in chunks of so many logits."""
LOGIT_COPIES = 4
"""Tensors of their size that a loss, or sampling, has at a time; all are float32."""


def peak_memory(stage: StageWork, spec: ReleaseSpec, shape: Shape, *, sharding: Sharding, judging: Judges) -> float:
    """Bytes on each device.

    Args:
        stage: Its passes, with the longest responses.
        spec: The release spec.
        shape: Of the model.
        sharding: Of the stage.
        judging: Sizes of the judges and rewards that are models; they are taken for bfloat16.
    """
    number = 2 if spec.model.dtype == "bfloat16" else 4
    model = shape.parameters * number
    references = 0 if spec.model.lora else stage.references
    judges_of_it = stage.judged * len(readers(judges(spec))) * 2 * judging.judge
    judges_of_it += stage.rewarded * len(readers([spec.attacks.reward])) * 2 * judging.reward
    loaded = model * (1 + stage.whole) + judges_of_it
    resident = model * (1 + references) / sharding.weights + model * stage.whole + judges_of_it
    if any(one.kind == "train" for one in stage.passes):
        trained, width = (shape.adapter(spec.model.lora), 4) if spec.model.lora else (shape.parameters, number)
        resident += 3 * trained * width / sharding.gradients  # gradients and Adam's two moments
        # PPO's values come from a second model, in float32, which each process has whole.
        resident += stage.critics * 4 * (shape.parameters + 3 * trained)
    passing = max((_passing(one, spec, shape, sharding=sharding, number=number) for one in stage.passes), default=0.0)
    return PROCESS + max(loaded, resident + passing)


def _passing(one: Pass, spec: ReleaseSpec, shape: Shape, *, sharding: Sharding, number: int) -> float:
    sequences = one.sequences / sharding.processes if one.shared else one.sequences
    size = min(sequences, one.batch or sequences)
    if one.what in ("judging", "rewarding"):
        return 0.0
    if one.kind == "train":
        return _activations(size * (one.prompt + one.response), spec, shape, number=number)
    tokens = size * (one.prompt if one.kind == "generate" else one.prompt + one.response)
    within_a_layer = 3 * tokens * shape.inner * number
    if one.kind == "forward":
        return within_a_layer + _logits(tokens * shape.vocabulary)
    cache = 2 * shape.layers * shape.keys * number * size * (one.prompt + one.response)
    return cache + max(within_a_layer, LOGIT_COPIES * 4 * size * shape.vocabulary)


def _activations(tokens: float, spec: ReleaseSpec, shape: Shape, *, number: int) -> float:
    """What the backward pass needs: of a layer, its norms, attention and gated MLP, without the attention's matrix."""
    layer = tokens * number * (8 * shape.hidden + 2 * shape.keys + 4 * shape.inner)
    kept = tokens * number * shape.hidden * shape.layers + layer
    return (kept if spec.model.gradient_checkpointing else layer * shape.layers) + _logits(tokens * shape.vocabulary)


def _logits(number: float) -> float:
    return LOGIT_COPIES * 4 * min(number, LOGITS_AT_A_TIME)
