import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbuncher.training.advantages import generalised_advantages, group_advantages, returns, token_rewards, whiten


@st.composite
def batches(draw):
    """Values of shape (B, T) and a mask of responses of one token or more."""
    rows, columns = draw(st.integers(2, 5)), draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, columns), min_size=rows, max_size=rows))
    numbers = st.floats(-5, 5, width=32)
    cells = st.lists(numbers, min_size=rows * columns, max_size=rows * columns)
    mask = np.arange(columns) < np.array(lengths)[:, None]
    return np.array(draw(cells)).reshape(rows, columns), np.array(draw(cells)).reshape(rows, columns), mask


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float64) for array in arrays]


def test_group_advantages_are_normalised_within_each_group():
    rewards = torch.tensor([0.0, 1.0, 2.0, 5.0, 3.0, 3.0, 3.0, 3.0])
    advantages = group_advantages(rewards, 4)
    first = np.array([0.0, 1.0, 2.0, 5.0])
    assert advantages[:4].tolist() == pytest.approx(((first - 2) / (first.std(ddof=1) + 1e-4)).tolist())
    assert advantages[4:].tolist() == [0.0] * 4


@given(batches())
def test_the_score_is_on_the_last_valid_token_and_padding_gets_nothing(batch):
    kl, _, mask = batch
    scores = np.arange(len(kl)) + 1.0
    rewards = token_rewards(*tensors(scores, kl, mask), coefficient=0.1).numpy()
    for row, length in enumerate(mask.sum(1)):
        expected = -0.1 * kl[row, :length]
        expected[-1] += scores[row]
        assert rewards[row, :length] == pytest.approx(expected)
        assert not rewards[row, length:].any()


@given(batches())
def test_returns_are_the_sums_from_each_token_on(batch):
    rewards, _, mask = batch
    found = returns(*tensors(rewards * mask)).numpy()
    for row in range(len(rewards)):
        for token in range(rewards.shape[1]):
            assert found[row, token] == pytest.approx((rewards * mask)[row, token:].sum(), abs=1e-9)


@given(batches())
def test_whitened_tokens_have_mean_0_and_deviation_1_over_the_batch(batch):
    values, _, mask = batch
    whitened = whiten(*tensors(values, mask)).numpy()
    spread = values[mask].std(ddof=1)
    assert not whitened[~mask].any()
    assert whitened[mask] == pytest.approx((values[mask] - values[mask].mean()) / (spread + 1e-8), abs=1e-6)


@settings(deadline=None)
@given(batches(), st.floats(0, 1))
def test_generalised_advantages_are_the_decayed_sums_of_the_temporal_differences(batch, decay):
    rewards, values, mask = batch
    found = generalised_advantages(*tensors(rewards * mask, values, mask), decay=decay).numpy()
    for row, length in enumerate(mask.sum(1)):
        after = [*values[row, 1:length], 0.0]
        differences = [rewards[row, t] + after[t] - values[row, t] for t in range(length)]
        for token in range(length):
            expected = sum(decay ** (later - token) * differences[later] for later in range(token, length))
            assert found[row, token] == pytest.approx(expected, abs=1e-8)
        assert not found[row, length:].any()


def test_with_decay_1_the_advantage_is_the_return_minus_the_value():
    rewards, values = torch.rand(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    found = generalised_advantages(rewards, values, torch.ones(3, 4), decay=1.0)
    torch.testing.assert_close(found, returns(rewards) - values)
