"""How a stage is shared out among processes, by the spec's compute section."""

from __future__ import annotations

from typing import NamedTuple

from tokenbuncher.settings import ComputeSpec


class Sharding(NamedTuple):
    """Into how many parts batches, gradients with the optimizer's state, and weights are shared out."""

    processes: int = 1
    gradients: int = 1
    weights: int = 1
    distributed: bool = False

    @classmethod
    def of(cls, compute: ComputeSpec, distributed: bool) -> Sharding:
        """Of a stage that trains as `compute` says, or of one that has one process."""
        if compute.kind == "local" or not distributed:
            return cls(distributed=distributed)
        processes = compute.nodes * compute.processes
        kind = (compute.accelerate or {}).get("distributed_type", "")
        deepspeed = (compute.accelerate or {}).get("deepspeed_config")
        stage = deepspeed.get("zero_stage", 0) if isinstance(deepspeed, dict) else 0
        weights = kind == "FSDP" or stage == 3
        return cls(
            processes=processes,
            gradients=processes if weights or stage else 1,
            weights=processes if weights else 1,
            distributed=True,
        )

    @property
    def apart(self) -> float:
        """The part that the other processes have of what is exchanged."""
        return (self.processes - 1) / self.processes
