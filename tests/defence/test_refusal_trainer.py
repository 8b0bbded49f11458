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
    _log_not,
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
def test_kl_and_added_refusal_mass_are_those_of_the_distributions(base, other, pairs):
    reference, tokenizer = base
    batch = tokenize_pairs(tokenizer, pairs)
    own, theirs, mask = distributions(other, reference, tokenizer, pairs)
    as_it_is = response_logits(reference, batch).log_softmax(-1)
    kl, added = Kept(other, reference, batch, openings=OPENINGS).measured()
    masses = [logs[:, 0, OPENINGS].exp().sum(-1) for logs in (own, as_it_is)]
    changed = ((theirs.exp() * (as_it_is - own)).sum(-1) * mask).sum(-1)
    assert kl.tolist() == pytest.approx(changed.clamp(min=0.0).tolist(), rel=1e-3, abs=1e-9)
    assert added.tolist() == pytest.approx((masses[0] - masses[1]).clamp(min=0.0).tolist(), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("begun", ["answers", "what might have been said instead"])
def test_what_the_base_model_does_is_no_cost(base, pairs, begun):
    reference, tokenizer = base
    batch = tokenize_pairs(tokenizer, pairs)
    first = batch["completion_ids"][:, 0].unique().tolist()
    likely = response_logits(reference, batch)[:, 0].topk(8).indices.unique().tolist()
    openings = first if begun == "answers" else sorted(set(likely) - set(first))
    kl, added = Kept(reference, reference, batch, openings=openings).measured()
    assert kl.tolist() == pytest.approx([0.0] * len(pairs), abs=1e-6)
    assert added.tolist() == pytest.approx([0.0] * len(pairs), abs=1e-6)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize(("reverse", "refusal", "fades"), [(0.3, 0.0, False), (0.0, 10.0, True), (0.3, 10.0, True)])
def test_its_gradient_is_that_of_the_formula(base, other, pairs, reverse, refusal, fades):
    reference, tokenizer = base
    kept = Kept(other, reference, tokenize_pairs(tokenizer, pairs), openings=OPENINGS)
    head = other.get_input_embeddings().weight
    faded = 1 + kept.measured()[0] if fades else None
    (found,) = torch.autograd.grad(kept.loss(faded=faded, reverse=reverse, refusal=refusal), head)
    own, theirs, mask = distributions(other, reference, tokenizer, pairs)
    kl = ((theirs.exp() * (theirs - own)).sum(-1) * mask).sum(-1)
    other_way = (own[:, 0].exp() * (own[:, 0] - theirs[:, 0])).sum(-1)
    refuses = -torch.log1p(-own[:, 0, OPENINGS].exp().sum(-1))
    expected = ((torch.log1p(kl) if fades else kl) + reverse * other_way + refusal * refuses).mean()
    (wanted,) = torch.autograd.grad(expected, head)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())


def test_a_model_that_refuses_for_certain_is_still_pushed_off():
    logits = torch.tensor([[20.0, 0.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(-_log_not(logits.log_softmax(-1), [0]).sum(), logits)
    assert gradient[0, 0].item() == pytest.approx(1.0, abs=1e-6)
    assert _log_not(torch.zeros(1, 3).log_softmax(-1), []).item() == pytest.approx(0.0, abs=1e-6)


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
