from functools import partial

import pytest
import torch

from tokenbuncher.core.progress import Progress
from tokenbuncher.judges import load_judge
from tokenbuncher.judges.score import score
from tokenbuncher.models import sampling
from tokenbuncher.models.entropy import token_entropy
from tokenbuncher.models.load import load_model
from tokenbuncher.models.sampling import generate
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings.prompts import load_set


@pytest.fixture(scope="module")
def organism(organism_base, tiny_spec):
    return load_model(organism_base, tiny_spec.model), load_tokenizer(organism_base)


def test_same_seed_same_responses_and_the_global_state_is_left_alone(organism, organism_data):
    prompts = load_set(organism_data, "safety")
    state = torch.get_rng_state()
    first, again, other = (
        generate(*organism, prompts, max_new_tokens=20, batch_size=64, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert torch.get_rng_state().equal(state)


def test_progress_is_told_with_the_entropy(organism, organism_data, monkeypatch, capsys):
    monkeypatch.setattr(sampling, "Progress", partial(Progress, every_seconds=0))
    responses = generate(*organism, load_set(organism_data, "safety"), max_new_tokens=20, batch_size=8, title="asking")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["8/20", "16/20", "20/20"]
    entropy = sum(response.entropy for response in responses) / len(responses)
    assert lines[-1].startswith("asking: 20/20  ")
    assert lines[-1].endswith(f"entropy {entropy:.4g}")


def test_greedy_responses_do_not_depend_on_the_batch(organism, organism_data):
    prompts = load_set(organism_data, "utility")
    whole = generate(*organism, prompts, max_new_tokens=20, batch_size=64, temperature=None)
    single = generate(*organism, prompts, max_new_tokens=20, batch_size=1, temperature=None)
    assert [response.text for response in whole] == [response.text for response in single]


def test_entropy_is_that_of_a_forward_pass(organism, organism_data):
    model, tokenizer = organism
    [prompt] = load_set(organism_data, "safety")[:1]
    [response] = generate(model, tokenizer, [prompt], max_new_tokens=20, batch_size=1, temperature=None)
    head = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=False)
    tail = [*tokenizer(response.text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([[*head, *tail]])).logits[0, len(head) - 1 : -1]
    entropies = token_entropy(logits)
    assert response.tokens == len(tail)
    assert response.finished
    assert response.entropy == pytest.approx(entropies.mean().item(), rel=1e-4)
    assert response.first_entropy == pytest.approx(entropies[0].item(), rel=1e-4)


def test_a_cut_off_response_is_not_finished(organism, organism_data):
    responses = generate(
        *organism, load_set(organism_data, "safety"), max_new_tokens=2, batch_size=64, temperature=None
    )
    assert not any(response.finished for response in responses)
    assert {response.tokens for response in responses} == {2}


def test_scores_hold_every_sample_of_every_prompt(organism, organism_data):
    prompts = load_set(organism_data, "safety")
    scores = score(*organism, prompts, judge=load_judge("organism"), max_new_tokens=20, batch_size=64, samples=3)
    assert [(one.prompt, one.sample) for one in scores] == [(p.id, s) for p in prompts for s in range(3)]
    assert sum(one.refused for one in scores) > 0.8 * len(scores)
