"""Entropy as reward against arXiv 2508.20697, written out in NumPy."""

import numpy as np
import pytest
import torch

from tokenbuncher.defence.rewards import entropy_reward
from tokenbuncher.models.chunked import Distributions

B, T, V = 4, 6, 9


def log_softmax(scores):
    return scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    logits, reference = (torch.randn(B, T, V, generator=generator, dtype=torch.float64) * 2 for _ in range(2))
    tokens = torch.randint(V, (B, T), generator=generator)
    mask = torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0], [1] * 6, [1, 1, 1, 1, 0, 0]])
    harmful = torch.tensor([True, True, False, False])
    return logits, reference, tokens, mask, harmful


def reward(logits, reference, tokens, mask, harmful, kl_coefficient):
    models = Distributions(logits), Distributions(reference)
    return entropy_reward(*models, tokens, mask=mask, harmful=harmful, kl_coefficient=kl_coefficient)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_formula(seed):
    logits, reference, tokens, mask, harmful = batch(seed)
    rewards = reward(logits, reference, tokens, mask, harmful, kl_coefficient=0.01)
    for row in range(B):
        valid = int(mask[row].sum())
        p = [log_softmax(logits[row, t].numpy()) for t in range(valid)]
        q = [log_softmax(reference[row, t].numpy()) for t in range(valid)]
        if harmful[row]:
            entropy = np.mean([-sum(np.exp(lp) * lp for lp in p[t]) for t in range(valid)])
            ratio = sum(p[t][tokens[row, t]] - q[t][tokens[row, t]] for t in range(valid))
            expected = -entropy - 0.01 * ratio
        else:
            expected = -np.mean([sum(np.exp(p[t]) * (p[t] - q[t])) for t in range(valid)])
        assert rewards[row].item() == pytest.approx(expected, rel=1e-6)


def test_padding_does_not_count():
    logits, reference, tokens, mask, harmful = batch(0)
    changed = logits.masked_fill((mask == 0).unsqueeze(-1), 3.0)
    before, after = (reward(x, reference, tokens, mask, harmful, 0.01) for x in (logits, changed))
    torch.testing.assert_close(before, after)


def test_a_certain_response_has_the_highest_reward():
    logits, reference, tokens, mask, _ = batch(0)
    certain = torch.full_like(logits, -50.0).scatter(-1, tokens.unsqueeze(-1), 50.0)
    harmful = torch.ones(B, dtype=torch.bool)
    assert (reward(certain, reference, tokens, mask, harmful, 0.0).abs() < 1e-12).all()
    assert (reward(logits, reference, tokens, mask, harmful, 0.0) < 0).all()
