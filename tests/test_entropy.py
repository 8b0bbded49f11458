import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tokenbuncher.models.entropy import response_mean, token_entropy


@settings(max_examples=50)
@given(hnp.arrays(np.float64, (2, 3, 7), elements=st.floats(-40, 40)))
def test_token_entropy_is_the_entropy_of_the_softmax(logits):
    exponent = np.exp(logits - logits.max(-1, keepdims=True))
    expected = scipy.stats.entropy(exponent, axis=-1)
    np.testing.assert_allclose(token_entropy(torch.tensor(logits)), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("logits", "expected"), [([0.0] * 8, np.log(8)), ([0.0, -np.inf], 0.0), ([900.0, 0.0], 0.0)])
def test_token_entropy_at_its_ends(logits, expected):
    assert token_entropy(torch.tensor(logits)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gap", [10.0, 20.0, 30.0, 60.0])
def test_tiny_entropies_and_their_gradients_are_exact_in_single_precision(gap):
    logits = torch.tensor([0.0, -gap, -gap - 1.0], requires_grad=True)
    entropy = token_entropy(logits)
    entropy.backward()
    gaps = np.array([0.0, gap, gap + 1.0])
    odds = np.exp(-gaps)
    expected = np.log1p(odds[1:].sum()) + (odds * gaps).sum() / odds.sum()
    assert entropy.item() == pytest.approx(expected, rel=1e-5)
    # dH/dx_v = -p_v (log p_v + H), for the unlikely tokens
    shares = odds / odds.sum()
    slopes = -shares * (-gaps - np.log1p(odds[1:].sum()) + expected)
    assert logits.grad[1:].tolist() == pytest.approx(slopes[1:].tolist(), rel=1e-4)


def test_token_entropy_of_half_precision_is_computed_in_full():
    logits = torch.randn(4, 50, dtype=torch.bfloat16)
    assert token_entropy(logits).dtype == torch.float32


def test_response_mean_counts_valid_tokens_only():
    values = torch.tensor([[1.0, 3.0, 100.0], [2.0, 100.0, 100.0], [5.0, 5.0, 5.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert response_mean(values, mask).tolist() == [2.0, 2.0, 0.0]
