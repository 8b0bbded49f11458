"""Turns rewards into advantages, which is where the policy-gradient algorithms differ."""

from __future__ import annotations

import torch

from tokenbuncher.training import ranks


def group_advantages(rewards: torch.Tensor, group: int, floor: float = 1e-4) -> torch.Tensor:
    """GRPO's advantages (arXiv 2402.03300): (reward - group mean) / (group standard deviation + floor).

    Args:
        rewards: Rewards of shape (B,), with the rollouts of a group side by side.
        group: Rollouts of one prompt.
        floor: Differences far below this value give no advantage. With 0, even the smallest give full-size ones.

    Returns:
        The advantages, of shape (B,), which are 0 in a group of equal rewards.
    """
    grouped = rewards.view(-1, group)
    gaps = grouped - grouped.mean(dim=1, keepdim=True)
    spread = grouped.std(dim=1, keepdim=True) + floor
    return torch.where(spread > 0, gaps / spread, 0.0).flatten()


def token_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, *, coefficient: float) -> torch.Tensor:
    """Rewards of single tokens: the response's score on its last token, minus the KL of each token.

    Args:
        scores: Reward of each response, shape (B,).
        kl: log p(token) - log p_reference(token), shape (B, T).
        mask: 1 for valid tokens (EOS included), 0 for padding after them, shape (B, T).
        coefficient: Coefficient of the KL term.

    Returns:
        Values of shape (B, T), which are 0 at padding.
    """
    rewards = -coefficient * kl * mask
    last = (mask.sum(-1).long() - 1).clamp(min=0)
    rewards[torch.arange(len(scores), device=scores.device), last] += scores
    return rewards


def returns(rewards: torch.Tensor) -> torch.Tensor:
    """Sum of the rewards from each token on, undiscounted; shape (B, T)."""
    return rewards.flip(-1).cumsum(-1).flip(-1)


def whiten(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Valid tokens' values with mean 0 and standard deviation 1 over the batches of all processes; 0 at padding.

    Args:
        values: Values of shape (B, T).
        mask: 1 for valid tokens, of shape (B, T).
    """
    valid = torch.cat(ranks.gathered([values[mask.bool()].cpu()])).to(values.device)
    return (values - valid.mean()) / (valid.std() + 1e-8) * mask


def generalised_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, decay: float
) -> torch.Tensor:
    """Generalised advantage estimation (arXiv 1506.02438), undiscounted.

    A_t = d_t + decay * A_(t+1) with d_t = r_t + V_(t+1) - V_t, and V = 0 after the last valid token.

    Args:
        rewards: Rewards of shape (B, T), which are 0 at padding.
        values: V_t, the value before token t is chosen, shape (B, T).
        mask: 1 for valid tokens, of shape (B, T).
        decay: The paper's lambda, in [0, 1].

    Returns:
        Values of shape (B, T), which are 0 at padding.
    """
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = (rewards + following - values) * mask
    advantages = torch.zeros_like(deltas)
    carried = torch.zeros_like(deltas[:, 0])
    for step in reversed(range(deltas.shape[1])):
        carried = deltas[:, step] + decay * carried
        advantages[:, step] = carried
    return advantages * mask
