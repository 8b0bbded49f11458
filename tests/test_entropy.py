import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tokenbuncher.entropy import response_mean, token_entropy


@settings(max_examples=50)
@given(hnp.arrays(np.float64, (2, 3, 7), elements=st.floats(-40, 40)))
def test_token_entropy_is_the_entropy_of_the_softmax(logits):
    exponent = np.exp(logits - logits.max(-1, keepdims=True))
    expected = scipy.stats.entropy(exponent, axis=-1)
    np.testing.assert_allclose(token_entropy(torch.tensor(logits)), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("logits", "expected"), [([0.0] * 8, np.log(8)), ([0.0, -np.inf], 0.0), ([900.0, 0.0], 0.0)])
def test_token_entropy_at_its_ends(logits, expected):
    assert token_entropy(torch.tensor(logits)).item() == pytest.approx(expected, abs=1e-6)


def test_token_entropy_of_half_precision_is_computed_in_full():
    logits = torch.randn(4, 50, dtype=torch.bfloat16)
    assert token_entropy(logits).dtype == torch.float32


def test_response_mean_counts_valid_tokens_only():
    values = torch.tensor([[1.0, 3.0, 100.0], [2.0, 100.0, 100.0], [5.0, 5.0, 5.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert response_mean(values, mask).tolist() == [2.0, 2.0, 0.0]
