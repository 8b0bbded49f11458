"""Next-token distributions over large vocabularies, whose losses never hold all logits.

    loss = Distributions(hidden, head).mean(lambda logits, rows: token_entropy(logits), mask)

The straightforward form keeps logits of shape (N, V) and several tensors like it for the gradient: at V = 152,000 and
N = 2,048 over a gigabyte each. Here the tokens go through head and loss a few at a time, and each chunk's gradient is
taken at once, as in Liger Kernel (arXiv 2410.10989): the same three matrix products, nothing computed twice, and noise
that a loss draws is never stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tokenbuncher.models.entropy import response_mean

CHUNK_ELEMENTS, TILE_ELEMENTS = 2**26, 2**22
"""Logits at a time: 256 MB in float32 for the matrix products, which small chunks slow down; 16 MB for a loss, which
needs several tensors like them."""

OfTokens = Callable[[torch.Tensor, slice], torch.Tensor]
"""From logits of some tokens, shape (n, V), float32 or better, and which tokens they are to what is asked of them."""


@dataclass(frozen=True)
class Distributions:
    """Next-token distributions of B responses of up to T tokens: as hidden states before the head, or as logits."""

    states: torch.Tensor
    """Hidden states, shape (B, T, d); or logits, shape (B, T, V)."""
    head: torch.Tensor | None = None
    """Weights of the output layer, shape (V, d); None if the states are logits."""

    def mean(self, value: OfTokens, mask: torch.Tensor) -> torch.Tensor:
        """The mean over the responses of the mean over their tokens of a value, such as the entropy; a scalar.

        Args:
            value: Maps logits of shape (n, V) to a value for each token, of shape (n,).
            mask: 1 for the tokens that count, shape (B, T).
        """
        if self.head is None:
            return response_mean(value(_precise(self._flat), slice(None)).view(mask.shape), mask).mean()
        weights = mask / mask.sum(-1, keepdim=True).clamp(min=1) / len(mask)
        return self.weighted(value, weights)

    def weighted(self, value: OfTokens, weights: torch.Tensor) -> torch.Tensor:
        """The sum over all tokens of a value and a weight, shape (B, T); a scalar that can be differentiated once."""
        weights = weights.flatten()

        def part(logits: torch.Tensor, rows: slice) -> torch.Tensor:
            return (value(logits, rows) * weights[rows]).sum()

        if self.head is None:
            return part(_precise(self._flat), slice(None))
        return chunked_loss(self._flat, self.head, part)

    @torch.no_grad()
    def values(self, value: OfTokens) -> torch.Tensor:
        """Values of each token, without a gradient: shape (n, ...) of n tokens, shape (B, T, ...) of all."""
        found = [value(self.logits(rows), rows) for rows in self._chunks]
        return torch.cat(found).unflatten(0, self.states.shape[:2])

    @torch.no_grad()
    def logits(self, rows: slice) -> torch.Tensor:
        """Logits of some tokens, in float32 or better, without a gradient."""
        return _precise(self._flat[rows]) if self.head is None else _logits(self._flat[rows], self.head)

    @property
    def _flat(self) -> torch.Tensor:
        return self.states.flatten(0, 1)

    @property
    def _chunks(self) -> list[slice]:
        return [slice(None)] if self.head is None else _chunks(len(self._flat), self.head, CHUNK_ELEMENTS // 4)


def chunked_loss(hidden: torch.Tensor, head: torch.Tensor, loss: OfTokens) -> torch.Tensor:
    """A loss that is a sum over tokens, and its exact gradient by the hidden states and the head.

    Args:
        hidden: Last hidden states of N tokens, shape (N, d).
        head: Weights of the output layer, shape (V, d), without bias.
        loss: Part of the loss due to some tokens. It must be a sum over tokens, as a mean would need their number
            beforehand.

    Returns:
        A scalar, which can be differentiated once.
    """
    total: torch.Tensor = _ChunkedLoss.apply(hidden, head, loss)
    return total


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, loss: OfTokens) -> torch.Tensor:
        wants_hidden, wants_head, _ = ctx.needs_input_grad
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if wants_hidden else None
        head_gradient = torch.zeros_like(head) if wants_head else None
        for rows in _chunks(len(hidden), head, CHUNK_ELEMENTS):
            logits = _logits(hidden[rows], head)
            for tile in _chunks(len(logits), head, TILE_ELEMENTS):
                with torch.enable_grad():
                    own = logits[tile].requires_grad_()
                    part = loss(own, slice(rows.start + tile.start, rows.start + tile.stop))
                (logits[tile],) = torch.autograd.grad(part, own)  # which no one needs any more
                total += part.detach()
            gradient = logits.to(hidden.dtype)
            if hidden_gradient is not None:
                torch.mm(gradient, head, out=hidden_gradient[rows])
            if head_gradient is not None:
                head_gradient.addmm_(gradient.T, hidden[rows])
            del logits, gradient, own, part  # or the next chunk's logits are made while these are there
        ctx.gradients = hidden_gradient, head_gradient
        return total.to(hidden.dtype if hidden.dtype == torch.float64 else torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place, and let go: a head's gradient is a gigabyte, which autograd copies if anybody else has it.
        held, ctx.gradients = ctx.gradients, ()
        if not held:
            raise RuntimeError("this loss has been differentiated already, and keeps its gradients for one time only")
        return *(None if own is None else own.mul_(gradients[0]) for own in held), None


def _logits(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    return _precise(hidden.detach() @ head.detach().T)


def _precise(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _chunks(tokens: int, head: torch.Tensor, elements: int) -> list[slice]:
    size = max(1, elements // head.shape[0])
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
