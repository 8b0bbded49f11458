"""Noise on the weights before the attack proper."""

from __future__ import annotations

import torch


@torch.no_grad()
def add_noise(model: torch.nn.Module, share: float, seed: int) -> None:
    """Moves a model off the flat spot where a defence has left it, in place.

    Args:
        model: The model.
        share: Standard deviation of the noise on each weight, as a share of its tensor's own.
        seed: Of the noise.
    """
    if not share:
        return
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        weight.add_(noise * share * weight.std(correction=0))
