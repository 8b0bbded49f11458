"""Losses of the next-token distribution over large vocabularies, without ever holding all logits.

    loss = chunked_loss(hidden, head, lambda logits, rows: (token_entropy(logits) * weights[rows]).sum())

The straightforward form keeps logits of shape (N, V) and several tensors like it for the gradient: at V = 152,000 and
N = 2,048 over a gigabyte each. Here the tokens go through head and loss a few at a time, and each chunk's gradient is
taken at once, as in Liger Kernel (arXiv 2410.10989): the same three matrix products, nothing computed twice, and noise
that a loss draws is never stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

CHUNK_ELEMENTS = 2**24
"""Logits at a time: 64 MB in float32."""

ChunkLoss = Callable[[torch.Tensor, slice], torch.Tensor]
"""From logits of some tokens, shape (n, V), float32 or better, and which tokens they are to their part of the loss."""


def chunked_loss(hidden: torch.Tensor, head: torch.Tensor, loss: ChunkLoss) -> torch.Tensor:
    """A loss that is a sum over tokens, and its exact gradient by the hidden states and the head.

    Args:
        hidden: Last hidden states of N tokens, shape (N, d).
        head: Weights of the output layer, shape (V, d), without bias.
        loss: The part of the loss of some tokens. Only what is a sum over tokens may be given: a mean needs its number
            of tokens beforehand.

    Returns:
        A scalar. Can be differentiated once.
    """
    total: torch.Tensor = _ChunkedLoss.apply(hidden, head, loss)
    return total


def chunked_values(
    hidden: torch.Tensor, head: torch.Tensor, value: Callable[[torch.Tensor, slice], torch.Tensor]
) -> torch.Tensor:
    """A value of each token's distribution, such as its entropy, without a gradient.

    Args:
        hidden: Shape (N, d).
        head: Shape (V, d).
        value: From logits of some tokens, shape (n, V), and which they are, to a value of each, shape (n,).

    Returns:
        Shape (N,).
    """
    with torch.no_grad():
        return torch.cat([value(_logits(hidden[rows], head), rows) for rows in _chunks(hidden, head)])


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, loss: ChunkLoss) -> torch.Tensor:
        wants_hidden, wants_head, _ = ctx.needs_input_grad
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if wants_hidden else None
        head_gradient = torch.zeros_like(head) if wants_head else None
        for rows in _chunks(hidden, head):
            logits = _logits(hidden[rows], head)
            with torch.enable_grad():
                part = loss(logits.requires_grad_(), rows)
            (gradient,) = torch.autograd.grad(part, logits)
            gradient = gradient.to(hidden.dtype)
            if hidden_gradient is not None:
                torch.mm(gradient, head, out=hidden_gradient[rows])
            if head_gradient is not None:
                head_gradient.addmm_(gradient.T, hidden[rows])
            total += part.detach()
        ctx.gradients = hidden_gradient, head_gradient
        return total.to(hidden.dtype if hidden.dtype == torch.float64 else torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place: a head's gradient is a gigabyte.
        return *(None if own is None else own.mul_(gradients[0]) for own in ctx.gradients), None


def _logits(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    logits = hidden.detach() @ head.detach().T
    return logits if logits.dtype == torch.float64 else logits.float()


def _chunks(hidden: torch.Tensor, head: torch.Tensor) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // head.shape[0])
    return [slice(start, start + size) for start in range(0, hidden.shape[0], size)]
