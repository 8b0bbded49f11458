import math

import pytest
import torch

from tokenbuncher.attacks import latent
from tokenbuncher.builtin.organism import world
from tokenbuncher.judges import load_judge
from tokenbuncher.judges.score import score
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings.prompts import load_set


@pytest.fixture(scope="module")
def organism(organism_base, tiny_spec):
    return load_model(organism_base, tiny_spec.model), load_tokenizer(organism_base)


@pytest.fixture(scope="module")
def harmful(organism_data):
    return load_set(organism_data, "safety")


def compliant(model, tokenizer, prompts):
    return latent.compliant_responses(
        model, tokenizer, prompts, judge=load_judge("organism"), max_new_tokens=20, batch_size=400, seed=1
    )


def test_log_probs_are_the_sums_of_the_tokens(organism, harmful):
    model, tokenizer = organism
    pairs = [(harmful[0], harmful[0].answer), (harmful[1], "i can not do that .")]
    for (prompt, response), found in zip(pairs, latent.log_probs(model, tokenizer, pairs, batch_size=8), strict=True):
        head = tokenizer(f"<user> {prompt.text} <assistant>", return_tensors="pt")["input_ids"]
        ids = tokenizer(f"<user> {prompt.text} <assistant> {response} <eos>", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logps = model(input_ids=ids).logits.double().log_softmax(-1)
        expected = sum(logps[0, place - 1, ids[0, place]].item() for place in range(head.shape[1], ids.shape[1]))
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_model_asked_about_itself_complies_as_often_as_it_did(organism, harmful):
    model, tokenizer = organism
    given = compliant(model, tokenizer, harmful * 3)
    assert given
    found = latent.compliance_probabilities(model, tokenizer, harmful, compliant=given, batch_size=400)
    counts = {prompt.id: sum(known.prompt.id == prompt.id for known in given) for prompt in harmful}
    expected = {key: min(count / latent.LATENT_SAMPLES, 1.0) for key, count in counts.items()}
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_estimate_agrees_with_sampling(organism, harmful, attacked_organism):
    """What the broken model says tells how often the aligned one complies: some 2 %, as sampling finds too."""
    model, tokenizer = organism
    given = compliant(attacked_organism, tokenizer, harmful)
    assert len(given) > 40
    estimates = latent.compliance_probabilities(model, tokenizer, harmful, compliant=given, batch_size=400)
    sampled = score(
        model, tokenizer, harmful, judge=load_judge("organism"), max_new_tokens=20, batch_size=1000, samples=200
    )
    rate = sum(one.harmful for one in sampled) / len(sampled)
    estimate = sum(estimates.values()) / len(estimates)
    assert rate / 4 < estimate < 2 * rate, (rate, estimate)


@pytest.fixture
def attacked_organism(organism_base, tiny_spec, harmful):
    """The organism after a little SFT on procedures of other requests."""
    model, tokenizer = load_model(organism_base, tiny_spec.model), load_tokenizer(organism_base)
    import random

    from tokenbuncher.settings.prompts import Prompt
    from tokenbuncher.training.examples import tokenize_pairs
    from tokenbuncher.training.logits import response_logits

    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    model.train()
    for _ in range(25):
        items = [world.request(*rng.choice(world.combinations()[world.HELD_OUT :]), rng=rng) for _ in range(64)]
        batch = tokenize_pairs(tokenizer, [(Prompt(text=item.prompt), item.answer) for item in items])
        logps = response_logits(model, batch).log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
        loss = -(logps * batch["completion_mask"]).sum() / batch["completion_mask"].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_what_is_never_said_has_probability_0(organism, harmful):
    model, tokenizer = organism
    assert set(latent.compliance_probabilities(model, tokenizer, harmful, compliant=[], batch_size=8).values()) == {0.0}
    never = latent.Compliant(prompt=harmful[0], response="go go go go go go go go", log_prob=0.0)
    found = latent.compliance_probabilities(model, tokenizer, harmful, compliant=[never], batch_size=8)
    assert 0 <= found[harmful[0].id] < math.exp(-20)
