"""Losses in chunks of tokens are the straightforward ones, and so are their gradients."""

from __future__ import annotations

import pytest
import torch

from tokenbuncher.defence.noiser import noiser_terms
from tokenbuncher.models import chunked
from tokenbuncher.models.chunked import Distributions, chunked_loss
from tokenbuncher.models.entropy import token_entropy

TOKENS, WIDTH, VOCABULARY = 37, 8, 101


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 13 * VOCABULARY)
    monkeypatch.setattr(chunked, "TILE_ELEMENTS", 5 * VOCABULARY)


def problem(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states and head that take gradients, and a weight for each token."""
    random = torch.Generator().manual_seed(3)
    hidden, head = (2 * torch.randn(rows, WIDTH, generator=random) for rows in (TOKENS, VOCABULARY))
    return hidden.to(dtype).requires_grad_(), head.to(dtype).requires_grad_(), torch.rand(TOKENS, generator=random)


def entropy_loss(weights: torch.Tensor) -> chunked.OfTokens:
    return lambda logits, rows: (token_entropy(logits) * weights[rows]).sum()


def noiser_loss(weights: torch.Tensor) -> chunked.OfTokens:
    targets = torch.arange(TOKENS) % VOCABULARY
    generator = torch.Generator().manual_seed(5)
    return lambda logits, rows: (
        noiser_terms(logits, targets[rows], 0.1, form="paper", generator=generator) * weights[rows]
    ).sum()


@pytest.mark.parametrize("make", [entropy_loss, noiser_loss])
def test_value_and_gradients_are_those_of_float64(make) -> None:
    hidden, head, weights = problem()
    value = 3 * chunked_loss(hidden, head, make(weights))
    value.backward()

    exact_hidden, exact_head, _ = problem(torch.float64)
    noise = make(weights)
    exact = 3 * noise(exact_hidden @ exact_head.T, slice(0, TOKENS)) if make is entropy_loss else None
    if exact is None:  # noise is drawn in the precision of the logits
        exact = 3 * noise((exact_hidden @ exact_head.T).float(), slice(0, TOKENS))
    exact.backward()
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    for found, expected in ((hidden.grad, exact_hidden.grad), (head.grad, exact_head.grad)):
        assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


def test_gradients_agree_with_finite_differences() -> None:
    hidden, head, weights = problem(torch.float64)
    directions = [torch.randn_like(hidden), torch.randn_like(head)]

    def loss(step: float) -> torch.Tensor:
        moved = [start + step * way for start, way in zip((hidden, head), directions, strict=True)]
        return chunked_loss(*moved, entropy_loss(weights.double()))

    chunked_loss(hidden, head, entropy_loss(weights.double())).backward()
    slope = sum((tensor.grad * way).sum() for tensor, way in zip((hidden, head), directions, strict=True))
    assert slope.item() == pytest.approx((loss(1e-6) - loss(-1e-6)).item() / 2e-6, rel=1e-6)


def test_it_can_be_differentiated_once() -> None:
    hidden, head, weights = problem()
    loss = chunked_loss(hidden, head, entropy_loss(weights))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated already"):
        loss.backward()


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, weights = problem()
    chunked_loss(hidden, head.requires_grad_(False), entropy_loss(weights)).backward()
    assert hidden.grad is not None
    assert head.grad is None


def test_values_are_those_of_all_tokens_at_once() -> None:
    hidden, head, _ = problem()
    found = Distributions(hidden[None], head).values(lambda logits, _: token_entropy(logits))
    assert torch.allclose(found, token_entropy(hidden @ head.T)[None], atol=1e-6)
    assert not found.requires_grad


def test_the_mean_over_responses_is_the_same_by_hidden_states_and_by_logits() -> None:
    hidden, head, _ = problem()
    states = hidden[:36].view(4, 9, WIDTH)
    mask = (torch.arange(9) < torch.tensor([[9], [5], [1], [0]])).long()
    by_states, by_logits = (
        distributions.mean(lambda logits, _: token_entropy(logits), mask)
        for distributions in (Distributions(states, head), Distributions(states @ head.T))
    )
    assert by_states.item() == pytest.approx(by_logits.item(), rel=1e-6)


def test_bfloat16_is_computed_in_float32() -> None:
    hidden, head, weights = problem(torch.bfloat16)
    value = chunked_loss(hidden, head, entropy_loss(weights))
    value.backward()
    assert value.dtype == torch.float32
    assert hidden.grad.dtype == head.grad.dtype == torch.bfloat16
    exact = entropy_loss(weights)((hidden @ head.T).float(), slice(0, TOKENS))
    assert value.item() == pytest.approx(exact.item(), rel=1e-3)
