"""Entropy as reward (arXiv 2508.20697) and the KL that keeps the model near the undefended one."""

from __future__ import annotations

import torch

from tokenbuncher.entropy import response_mean, token_entropy


def entropy_reward(
    logits: torch.Tensor,
    reference_logits: torch.Tensor,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    harmful: torch.Tensor,
    kl_coefficient: float,
) -> torch.Tensor:
    """The defender's reward of each rollout.

    Harmful prompts: minus the mean token entropy, minus the coefficient times the summed log-ratio of the
    sampled tokens (the published code's KL in the reward). Benign prompts: minus the KL to the reference,
    KL(model || reference), mean over the tokens.

    Args:
        logits: Of the model, shape (B, T, V).
        reference_logits: Of the undefended model, shape (B, T, V).
        tokens: Sampled tokens, shape (B, T).
        mask: 1 for valid tokens (EOS included), 0 for padding, shape (B, T).
        harmful: Whether the prompt is harmful, shape (B,).
        kl_coefficient: Of the log-ratio.

    Returns:
        Shape (B,), in nats.
    """
    log_probs, reference = logits.log_softmax(-1), reference_logits.log_softmax(-1)
    log_ratio = (log_probs - reference).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    of_harmful = -response_mean(token_entropy(logits), mask) - kl_coefficient * (log_ratio * mask).sum(-1)
    return torch.where(harmful, of_harmful, -response_mean(kl_divergence(log_probs, reference), mask))


def kl_divergence(log_probs: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(p || q) over the whole vocabulary from log-probabilities, shapes (..., V) to (...), in nats."""
    return (log_probs.exp() * (log_probs - other)).sum(-1)
