"""Entropy as reward (arXiv 2508.20697) and the KL that keeps the model near the base model."""

from __future__ import annotations

import torch

from tokenbuncher.models.chunked import Distributions
from tokenbuncher.models.entropy import response_mean, token_entropy


def entropy_reward(
    model: Distributions,
    reference: Distributions,
    tokens: torch.Tensor,
    *,
    mask: torch.Tensor,
    harmful: torch.Tensor,
    kl_coefficient: float,
) -> torch.Tensor:
    """The defender's reward of each rollout.

    Harmful prompts: minus the mean token entropy, minus the coefficient times the summed log-ratio of the
    sampled tokens (the published code's KL in the reward). Benign prompts: minus the KL to the reference,
    KL(model || reference), mean over the tokens.

    Args:
        model: Distributions of the model, of B rollouts of T tokens.
        reference: Distributions of the base model.
        tokens: Sampled tokens, shape (B, T).
        mask: 1 for valid tokens (EOS included), 0 for padding, shape (B, T).
        harmful: Whether the prompt is harmful, shape (B,).
        kl_coefficient: Coefficient of the log-ratio.

    Returns:
        The rewards in nats, of shape (B,).
    """

    def terms(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        log_probs, other = logits.log_softmax(-1), reference.logits(rows).log_softmax(-1)
        log_ratio = (log_probs - other).gather(-1, tokens.flatten()[rows, None]).squeeze(-1)
        return torch.stack([token_entropy(logits), log_ratio, kl_divergence(log_probs, other)], dim=-1)

    entropy, log_ratio, kl = model.values(terms).unbind(-1)
    of_harmful = -response_mean(entropy, mask) - kl_coefficient * (log_ratio * mask).sum(-1)
    return torch.where(harmful, of_harmful, -response_mean(kl, mask))


def kl_divergence(log_probs: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(p || q) over the whole vocabulary from log-probabilities, shapes (..., V) to (...), in nats.

    What p gives no probability, such as masked padding, adds nothing.
    """
    ratio = (log_probs - other).masked_fill(log_probs.isneginf(), 0.0)
    return (log_probs.exp() * ratio).sum(-1)
