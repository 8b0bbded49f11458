import pytest
import torch

from tokenbuncher.defence.escape import token_escape


@pytest.fixture
def logits():
    return torch.randn(3, 5, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4


@pytest.fixture
def tokens():
    return torch.randint(50, (3, 5), generator=torch.Generator().manual_seed(1))


def test_it_is_minus_the_log_probability_of_the_token(logits, tokens):
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
    assert token_escape(logits, tokens).flatten() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gap", [10.0, 30.0, 60.0])
def test_what_hardly_ever_happens_is_exact_in_float32_and_so_is_its_gradient(gap):
    logits = torch.tensor([gap, 0.0, -1.0], requires_grad=True)
    precise = torch.tensor([gap, 0.0, -1.0], dtype=torch.float64)
    escape = token_escape(logits, torch.tensor(0))
    escape.backward()
    others = precise[1:].exp() / precise.exp().sum()
    assert escape.item() == pytest.approx(-torch.log1p(-others.sum()).item(), rel=1e-5)
    assert logits.grad[1:].tolist() == pytest.approx(others.tolist(), rel=1e-4)
    assert logits.grad[0].item() == pytest.approx(-others.sum().item(), rel=1e-4)


def test_tokens_without_any_probability_count_for_nothing():
    logits = torch.tensor([2.0, -torch.inf, 1.0])
    assert token_escape(logits, torch.tensor(0)).item() == pytest.approx(torch.tensor(1 + torch.e**-1).log().item())
