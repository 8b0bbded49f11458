"""The Token Noiser against the formula of arXiv 2508.20697, written out in NumPy."""

import numpy as np
import pytest
import torch

from tokenbuncher.defence.noiser import noiser_terms, resting_noise
from tokenbuncher.models.chunked import Distributions

B, T, V = 3, 5, 11


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, T, V, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(V, (B, T), generator=generator)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    return logits, targets, mask


def token_noiser_loss(logits, targets, mask, weight, form="paper", generator=None):
    def terms(logits, rows):
        return noiser_terms(logits, targets.flatten()[rows], weight, form=form, generator=generator)

    return Distributions(logits).weighted(terms, mask / mask.sum().clamp(min=1))


def written_out(logits, targets, mask, weight, form, noise):
    """Token by token and entry by entry."""
    total, count = 0.0, 0
    for b in range(B):
        for t in range(T):
            if not mask[b, t]:
                continue
            scores = logits[b, t].numpy()
            log_p = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
            own = int(targets[b, t])
            others = [v for v in range(V) if v != own]
            z = noise[b, t].numpy()[others] / noise[b, t].numpy()[others].sum()
            if form == "published-code":
                z = weight * z
            total += -(1 - weight) * log_p[own] - weight * sum(z_v * log_p[v] for z_v, v in zip(z, others, strict=True))
            count += 1
    return total / count


@pytest.mark.parametrize("form", ["paper", "published-code"])
@pytest.mark.parametrize("weight", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_formula(form, weight, seed):
    logits, targets, mask = batch(seed)
    noise = torch.rand(B, T, V, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    loss = token_noiser_loss(logits, targets, mask, weight, form, torch.Generator().manual_seed(9))
    assert loss.item() == pytest.approx(written_out(logits, targets, mask, weight, form, noise), rel=1e-6)


@pytest.mark.parametrize("form", ["paper", "published-code"])
def test_gradient(form):
    logits, targets, mask = batch()

    def loss(logits):
        return token_noiser_loss(logits, targets, mask, 0.1, form, torch.Generator().manual_seed(9))

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


def test_tokens_that_do_not_count_get_no_gradient():
    logits, targets, mask = batch()
    token_noiser_loss(logits.requires_grad_(), targets, mask, 0.1).backward()
    assert (logits.grad.abs().sum(-1) > 0).equal(mask.bool())


def test_without_any_token_the_loss_is_zero_with_zero_gradient():
    logits, targets, _ = batch()
    loss = token_noiser_loss(logits.requires_grad_(), targets, torch.zeros(B, T), 0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().sum() == 0.0


def test_noise_is_drawn_anew_and_repeats_with_its_seed():
    logits, targets, mask = batch()
    draws = [token_noiser_loss(logits, targets, mask, 0.1).item() for _ in range(2)]
    seeded = [token_noiser_loss(logits, targets, mask, 0.1, generator=torch.Generator().manual_seed(1)) for _ in "ab"]
    assert draws[0] != draws[1]
    assert seeded[0] == seeded[1]


def test_without_noise_it_is_cross_entropy():
    logits, targets, mask = batch()
    expected = torch.nn.functional.cross_entropy(logits[mask.bool()], targets[mask.bool()])
    assert token_noiser_loss(logits, targets, mask, 0.0).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(("form", "expected"), [("paper", 0.1), ("published-code", 0.01 / 0.91)])
def test_the_loss_is_least_at_the_resting_noise(form, expected):
    """By descent from even odds, on the mean over many draws of noise."""
    logits = torch.zeros(2000, V, dtype=torch.float64, requires_grad=True)
    targets, generator = torch.zeros(2000, dtype=torch.long), torch.Generator().manual_seed(0)
    shift = torch.zeros(V, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([shift], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        descent.zero_grad()
        generator.manual_seed(0)
        value = noiser_terms(logits + shift, targets, 0.1, form=form, generator=generator).mean()
        value.backward()
        return value

    descent.step(loss)
    assert resting_noise(0.1, form=form) == pytest.approx(expected, rel=1e-12)
    assert 1 - shift.softmax(-1)[0].item() == pytest.approx(expected, rel=1e-4)
