"""Devices: what one of them sustains. Peaks are the makers'; shares of them and overheads are stated here."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tokenbuncher.core.errors import UserError

COMPUTE_SHARE = 0.4
"""Of a GPU's peak, in training and prefill by transformers; 0.3 to 0.5 is usual."""
BANDWIDTH_SHARE = 0.6
"""Of a GPU's memory bandwidth, in decoding."""


@dataclass(frozen=True)
class Device:
    """One device, GPU or CPU core, that a process has to itself."""

    name: str
    unit: str
    """What its hours are called."""
    flops: dict[str, float]
    """Sustained, per second, by the format of the numbers."""
    bandwidth: float
    """Sustained, bytes of memory per second."""
    memory: float | None
    """Bytes; None if not known."""
    interconnect: float
    """Bytes per second between devices of one machine, sustained by collective operations."""
    call: float
    """Seconds that a pass through a model costs beside its arithmetic: Python, sampling, launches."""
    layer: float
    """The same, of each layer."""
    startup: float
    """Seconds until a task that trains or generates begins: the container, imports, the device."""
    small: float
    """Seconds of a task that does neither."""
    disk: float = 1e9
    """Bytes per second, for reading, writing and hashing models."""


def _gpu(name: str, bfloat16: float, float32: float, *, bandwidth: float, memory: float | None) -> Device:
    return Device(
        name=name,
        unit="GPU-hours",
        flops={"bfloat16": bfloat16 * COMPUTE_SHARE, "float32": float32 * COMPUTE_SHARE},
        bandwidth=bandwidth * BANDWIDTH_SHARE,
        memory=memory,
        interconnect=2e11,
        call=4e-3,
        layer=8e-4,
        startup=60.0,
        small=15.0,
    )


# float32 is that of PyTorch's default, without TF32.
H100 = _gpu("h100", 989e12, 67e12, bandwidth=3.35e12, memory=80e9)
A100 = _gpu("a100", 312e12, 19.5e12, bandwidth=2.04e12, memory=80e9)
# One core of an AMD EPYC. `startup` and `flops` are calibrated, on two rows of benchmarks/plan.yaml; the rest is not.
CPU = Device(
    name="cpu",
    unit="CPU-hours",
    flops={"bfloat16": 9e10, "float32": 9e10},
    bandwidth=1e10,
    memory=None,
    interconnect=1e9,
    call=1.5e-3,
    layer=5e-4,
    startup=3.3,
    small=2.5,
)


def parse_device(text: str) -> Device:
    """The device that is named: cpu, h100, a100, or the peaks of another GPU.

    Args:
        text: A name; or `FLOPS,BANDWIDTH` or `FLOPS,BANDWIDTH,MEMORY`: operations per second, bytes per second, bytes.

    Raises:
        UserError: If it is neither.
    """
    if text == "cpu":
        return _this_machine()
    for known in (H100, A100):
        if text == known.name:
            return known
    try:
        flops, bandwidth, *memory = (float(number) for number in text.split(","))
        if len(memory) > 1 or not all(0 < number < float("inf") for number in (flops, bandwidth, *memory)):
            raise ValueError
    except ValueError:
        raise UserError(
            f"device {text}: use cpu, h100, a100, or FLOPS,BANDWIDTH[,MEMORY], such as 1e15,3e12,8e10"
        ) from None
    return _gpu(text, flops, flops, bandwidth=bandwidth, memory=memory[0] if memory else None)


def _this_machine() -> Device:
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Device(**{**vars(CPU), "memory": memory})
