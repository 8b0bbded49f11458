"""How long the passes of a stage take on a device."""

from __future__ import annotations

import math
from collections import defaultdict

from tokenbuncher.preflight.plan.device import Device
from tokenbuncher.preflight.plan.shape import Shape
from tokenbuncher.preflight.plan.sharding import Sharding
from tokenbuncher.preflight.plan.work import Judges, Pass, StageWork
from tokenbuncher.settings import ReleaseSpec

SMALL = ("prepare-data", "register", "gate", "promote")
"""Tasks that load no model, and have no GPU."""
JUDGING = ("judging", "rewarding")
LOGITS = 20
"""How often a logit is read or written when a token is sampled or scored, with its entropy: all is float32."""
OPTIMIZER = 8
"""How often AdamW's step reads or writes a number of the trained weights' size."""


class Clock:
    """How long passes take on one device of those that share them."""

    def __init__(self, spec: ReleaseSpec, shape: Shape, device: Device, *, judging: Judges) -> None:
        self.spec, self.shape, self.device, self.judging = spec, shape, device, judging
        self.trained = shape.adapter(spec.model.lora) if spec.model.lora else shape.parameters
        self.bytes = 2 if spec.model.dtype == "bfloat16" else 4
        self.rate = device.flops[spec.model.dtype]

    def sharding(self, stage: StageWork) -> Sharding:
        """How a stage is shared out among processes."""
        return Sharding.of(self.spec.compute, stage.distributed)

    def reserved(self, stage: StageWork) -> float:
        """Memory that vLLM takes for itself."""
        vllm = self.spec.compute.vllm
        colocated = vllm and vllm.mode == "colocate" and stage.distributed and stage.rollouts
        return vllm.gpu_memory_utilization * (self.device.memory or 0.0) if vllm and colocated else 0.0

    def parts(self, stage: StageWork) -> dict[str, float]:
        """Seconds of a stage, by what they go into."""
        device, sharding = self.device, self.sharding(stage)
        parts: dict[str, float] = defaultdict(float)
        parts["start"] = (device.small if stage.name in SMALL else device.startup) + stage.prepared
        checkpoint = 3 * self.trained * (4 if self.spec.model.lora else self.bytes)  # weights and Adam's two moments
        parts["files"] = (stage.files * self.shape.parameters * self.bytes + stage.saved * checkpoint) / device.disk
        for one in stage.passes:
            parts[one.what] += self.seconds(one, sharding)
        return dict(parts)

    def flops(self, one: Pass) -> tuple[float, float]:
        """Operations forward and backward, of all processes; LoRA needs no gradients of the frozen weights."""
        if one.what in JUDGING:
            read = self.judging.judge if one.what == "judging" else self.judging.reward
            return 2 * read * one.tokens, 0.0
        body, head = 2 * self.shape.body * one.tokens, 2 * self.shape.head * one.responses
        if one.kind != "train":
            return body + head, 0.0
        backward = (1 if self.spec.model.lora else 2) * (body + head)
        # Logits are computed again in the backward pass, and the layers' activations if they were not kept.
        return body * (2 if self.spec.model.gradient_checkpointing else 1) + 2 * head, backward

    def seconds(self, one: Pass, sharding: Sharding) -> float:
        """Seconds of a pass, on the device that does its share."""
        sequences = one.sequences / sharding.processes if one.shared else one.sequences
        calls = math.ceil(sequences / (one.batch or sequences)) if sequences else 0
        if not calls or not one.times:
            return 0.0
        size = sequences / calls
        if one.kind == "generate":
            return one.times * calls * self._generation(one, size, sharding)
        share = sequences / one.sequences
        rate = self.device.flops["bfloat16"] if one.what in JUDGING else self.rate
        seconds = share * sum(self.flops(one)) / rate
        passes = {"forward": 1, "train": 4 if self.spec.model.gradient_checkpointing else 3}[one.kind]
        seconds += one.times * calls * (passes * self._overhead(sharding) + self._logits(size * one.response))
        if one.kind == "train":
            moved = self.trained * self.bytes
            update = OPTIMIZER * moved / self.device.bandwidth / sharding.gradients
            seconds += one.times * calls * (update + 2 * moved * sharding.apart / self.device.interconnect)
        return seconds

    def _generation(self, one: Pass, size: float, sharding: Sharding) -> float:
        """A prefill, then a pass for each token, bound by arithmetic or by reading the weights and the cache."""
        body = 2 * self.shape.body * size
        weights = self.shape.parameters * self.bytes
        cache = 2 * self.shape.layers * self.shape.keys * self.bytes * size * (one.prompt + one.response / 2)
        decoded = max((body + 2 * self.shape.head * size) / self.rate, (weights + cache) / self.device.bandwidth)
        prefill = body * one.prompt / self.rate
        by_vllm = self.spec.compute.vllm and one.what == "rollouts" and sharding.distributed
        overhead = 0.0 if by_vllm else self._overhead(sharding)
        return prefill + one.response * (decoded + self._logits(size) + overhead) + overhead

    def _logits(self, tokens: float) -> float:
        return LOGITS * 4 * tokens * self.shape.vocabulary / self.device.bandwidth

    def _overhead(self, sharding: Sharding) -> float:
        gathered = self.shape.parameters * self.bytes * sharding.apart if sharding.weights > 1 else 0.0
        return self.device.call + self.shape.layers * self.device.layer + gathered / self.device.interconnect
