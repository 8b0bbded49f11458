"""The loss against an independent computation in float64."""

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig

from tokenbuncher.defence.anchors import own_responses
from tokenbuncher.defence.examples import Examples, Models
from tokenbuncher.defence.refusal_trainer import (
    ESCAPE_FLOOR,
    OPENINGS_LOWERED,
    Kept,
    RefusalTrainer,
)
from tokenbuncher.models import chunked as chunks
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import CertainRefusalSpec, DefenceSpec
from tokenbuncher.settings.prompts import load_set
from tokenbuncher.training import logits as training_logits
from tokenbuncher.training.arguments import trainer_arguments
from tokenbuncher.training.examples import tokenize_pairs
from tokenbuncher.training.logits import response_logits

OPENINGS = [20, 21]


@pytest.fixture
def base(organism_base, tiny_spec):
    return load_model(organism_base, tiny_spec.model).double(), load_tokenizer(organism_base)


@pytest.fixture
def other(organism_base, tiny_spec):
    model = load_model(organism_base, tiny_spec.model).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.02 * torch.randn(weights.shape, generator=generator, dtype=weights.dtype)
    return model


@pytest.fixture
def pairs(organism_data, base, tiny_spec):
    return own_responses(*base, load_set(organism_data, "benign")[:6], spec=tiny_spec)


@pytest.fixture(params=["whole", "chunked"])
def chunked(request, monkeypatch):
    if request.param == "chunked":
        monkeypatch.setattr(training_logits, "LARGE_VOCABULARY", 1)
        monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 2**14)


def distributions(model, reference, tokenizer, pairs):
    """Log-probabilities of both, token by token, and which tokens are there; the reference is kept from refusing."""
    batch = tokenize_pairs(tokenizer, pairs)
    own, theirs = (response_logits(one, batch) for one in (model, reference))
    theirs = theirs.detach().clone()
    for row, tokens in enumerate(batch["completion_ids"]):
        if tokens[0].item() not in OPENINGS:
            theirs[row, 0, OPENINGS] -= OPENINGS_LOWERED
    return own.log_softmax(-1), theirs.log_softmax(-1), batch["completion_mask"]


@pytest.mark.usefixtures("chunked")
def test_kl_and_refusal_mass_are_those_of_the_distributions(base, other, pairs):
    reference, tokenizer = base
    own, theirs, mask = distributions(other, reference, tokenizer, pairs)
    kl, mass = Kept(other, reference, tokenize_pairs(tokenizer, pairs), openings=OPENINGS).measured()
    assert kl.tolist() == pytest.approx(
        [((q.exp() * (q - p)).sum(-1) * m).sum().item() for p, q, m in zip(own, theirs, mask, strict=True)], rel=1e-3
    )
    assert mass.tolist() == pytest.approx(own[:, 0, OPENINGS].exp().sum(-1).tolist(), rel=1e-4)


@pytest.mark.usefixtures("chunked")
def test_its_gradient_is_that_of_the_formula(base, other, pairs):
    reference, tokenizer = base
    batch = tokenize_pairs(tokenizer, pairs)
    head = other.get_input_embeddings().weight
    loss = Kept(other, reference, batch, openings=OPENINGS).loss(
        batch["completion_mask"] / 6, reverse=0.3, refusal=10.0
    )
    (found,) = torch.autograd.grad(loss, head)
    own, theirs, mask = distributions(other, reference, tokenizer, pairs)
    kl = ((theirs.exp() * (theirs - own)).sum(-1) * mask).sum()
    reverse = (own[:, 0].exp() * (own[:, 0] - theirs[:, 0])).sum()
    refusal = -torch.log1p(-own[:, 0, OPENINGS].exp().sum(-1)).sum()
    expected = (kl + 0.3 * reverse + 10.0 * refusal) / 6
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    (wanted,) = torch.autograd.grad(expected, head)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("chunked")
def test_the_push_is_that_of_the_logarithm_down_to_a_tenth_of_the_target(base, other, pairs, tmp_path):
    reference, tokenizer = base
    own, _, mask = distributions(other, reference, tokenizer, pairs)
    tokens = tokenize_pairs(tokenizer, pairs)["completion_ids"]
    escapes = -(own.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) * mask).sum(-1)
    enough = 1.001 * escapes.median().detach()  # half of them are there already
    certain = CertainRefusalSpec().model_copy(update={"target": 10 * enough.item()})
    defence = DefenceSpec(recipe="certain-refusal", prompts_per_step=len(pairs))
    trainer = RefusalTrainer(
        Models(other, reference, tokenizer),
        defence.model_copy(update={"certain_refusal": certain}),
        Examples(pairs, pairs, [], OPENINGS),
        saved=None,
        args=SFTConfig(**trainer_arguments(0, 1, 1, learning_rate=1e-3) | {"output_dir": str(tmp_path)}),
        train_dataset=Dataset.from_dict({"step": [0]}),
    )
    head = other.get_input_embeddings().weight
    (found,) = torch.autograd.grad(trainer._push(other), head)
    (wanted,) = torch.autograd.grad(torch.relu(torch.log(escapes + ESCAPE_FLOOR) - enough.log()).mean(), head)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())
    assert sorted(trainer.escapes) == pytest.approx(sorted(escapes.tolist()), rel=1e-4)
