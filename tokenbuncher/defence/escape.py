"""Escape: the probability that a response leaves a refusal."""

from __future__ import annotations

from typing import Any

import torch

from tokenbuncher.models.chunked import OfTokens


def token_escape(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Minus the log-probability of each token, exact where that is next to nothing.

    It is log(1 + s) with s the sum over the other tokens of exp(logit - own logit). No term is a difference of
    likely events, so that 1e-12 is exact too, and its gradient; log_softmax rounds that to 0 in float32.

    Args:
        logits: Logits of shape (..., V).
        tokens: Token ids, shape (...).

    Returns:
        Nats, shape (...), in [0, inf): for small values the probability of any other token.
    """
    own = tokens.unsqueeze(-1)
    gaps = (logits - logits.gather(-1, own)).scatter(-1, own, -torch.inf)
    log_odds = torch.logsumexp(gaps, dim=-1)
    return torch.nn.functional.softplus(log_odds)


def escape_of(batch: dict[str, Any]) -> OfTokens:
    """The escape of each completion token of a batch like `tokenize_pairs`', as `Distributions` asks for it."""
    tokens = batch["completion_ids"].flatten()
    return lambda logits, rows: token_escape(logits, tokens[rows])
