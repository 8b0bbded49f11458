"""Token and response entropy (arXiv 2508.20697, section on entropy as reward)."""

from __future__ import annotations

import torch


def token_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the next-token distribution over the whole vocabulary.

    Computed from the gaps d_v = max(logits) - logits_v as log(1 + s) + sum(d_v exp(-d_v)) / (1 + s), where s is the
    sum of exp(-d_v) over all but the likeliest token: no term is a difference, so an entropy of 1e-12 is exact too,
    and so is its gradient. The sum of -p log p loses both to rounding at about 1e-7 in float32.

    Args:
        logits: Logits of shape (..., V).

    Returns:
        Entropies in nats, shape (...), in [0, ln V], in float32 or better.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    likeliest = logits.max(dim=-1, keepdim=True)
    gaps = likeliest.values - logits
    odds = torch.exp(-gaps).scatter(-1, likeliest.indices, 0.0)
    rest = odds.sum(-1)
    return torch.log1p(rest) + (odds * gaps.masked_fill(gaps.isposinf(), 0.0)).sum(-1) / (1.0 + rest)


def response_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the valid tokens of each response: EOS counts, padding does not.

    Args:
        values: Per-token values, shape (B, T).
        mask: 1 for valid tokens, 0 for padding, shape (B, T).

    Returns:
        The means, of shape (B,). A response without tokens has 0.
    """
    mask = mask.to(values.dtype)
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)
