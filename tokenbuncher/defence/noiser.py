"""Token Noiser (arXiv 2508.20697): noise in the tail of the next-token distribution."""

from __future__ import annotations

import torch


def noiser_terms(
    logits: torch.Tensor, targets: torch.Tensor, weight: float, *, form: str, generator: torch.Generator | None
) -> torch.Tensor:
    """Cross-entropy of each token towards the model's own token and uniform noise over all others.

    With y* the token of the rollout, V' the vocabulary without it and z ~ U(0, 1) on V' scaled to sum 1,
    each token adds  -(1 - lambda) log p(y*) - w * sum over V' of z_v log p(v),  where w is lambda in the
    paper and lambda squared in the published code.

    Args:
        logits: Logits of shape (..., V).
        targets: Rollout tokens y*, shape (...).
        weight: The paper's lambda, in [0, 1).
        form: `paper` or `published-code`.
        generator: Source of the noise, on the device of the logits. Each call draws new noise.

    Returns:
        The terms in nats, of shape (...).
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_probs = torch.log_softmax(logits, dim=-1)
    own = targets.unsqueeze(-1)
    noise = torch.rand(log_probs.shape, generator=generator, dtype=log_probs.dtype, device=log_probs.device)
    noise = noise.scatter(-1, own, 0.0)
    noise = noise / noise.sum(-1, keepdim=True)
    noise_weight = _noise_weight(weight, form)
    return -(1 - weight) * log_probs.gather(-1, own).squeeze(-1) - noise_weight * (noise * log_probs).sum(-1)


def resting_noise(weight: float, *, form: str) -> float:
    """The probability of all tokens but y* at which the noiser's expected loss is least, where it leaves a model alone.

    The loss is (1 - lambda) * -log p + w * -log(1 - p) and what does not depend on p = p(y*), so p is in proportion to
    1 - lambda, and the noise to w.

    Args:
        weight: The paper's lambda, in [0, 1).
        form: `paper` or `published-code`.

    Returns:
        A probability, in [0, 1).
    """
    noise = _noise_weight(weight, form)
    return noise / (1 - weight + noise)


def _noise_weight(weight: float, form: str) -> float:
    return weight if form == "paper" else weight**2
