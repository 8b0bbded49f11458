"""Token and response entropy (arXiv 2508.20697, section on entropy as reward)."""

from __future__ import annotations

import torch


def token_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the next-token distribution over the whole vocabulary.

    Args:
        logits: Shape (..., V).

    Returns:
        Entropies in nats, shape (...), in [0, ln V], in float32 or better.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_probs = torch.log_softmax(logits, dim=-1)
    return -(log_probs.exp() * log_probs.masked_fill(log_probs.isneginf(), 0.0)).sum(-1)


def response_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the valid tokens of each response: EOS counts, padding does not.

    Args:
        values: Per-token values, shape (B, T).
        mask: 1 for valid tokens, 0 for padding, shape (B, T).

    Returns:
        Shape (B,); 0 for a response without tokens.
    """
    mask = mask.to(values.dtype)
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)
