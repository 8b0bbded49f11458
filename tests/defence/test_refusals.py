import random

import pytest

from tokenbuncher.core.errors import UserError
from tokenbuncher.defence.anchors import MOST_REFUSAL_MASS, mixed, mixed_prompts, refusal_masses, without_refusals
from tokenbuncher.defence.refusals import own_refusals, refusal_judge, refusing, respond
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.prompts import load_set


@pytest.fixture(scope="module")
def spec(tiny_spec):
    return parse_spec(tiny_spec.to_yaml(), ["defence={recipe: certain-refusal, certain_refusal: {mixed_prompts: 200}}"])


@pytest.fixture(scope="module")
def base(organism_base, spec):
    return load_model(organism_base, spec.model), load_tokenizer(organism_base)


@pytest.fixture(scope="module")
def harmful(organism_data):
    return load_set(organism_data, "defence")


@pytest.fixture(scope="module")
def benign(organism_data):
    return load_set(organism_data, "benign")


@pytest.fixture(scope="module")
def refusals(base, harmful, spec):
    return own_refusals(*base, harmful, spec=spec)


def test_refusals_are_the_base_model_s_own(base, harmful, refusals, spec):
    greedy = respond(*base, harmful, spec=spec, temperature=None)
    refused = refusing(harmful, greedy, refusal_judge(spec))
    own = [response.whole for response, refuses in zip(greedy, refused, strict=True) if refuses]
    assert [text for text, refuses in zip(refusals.texts, refused, strict=True) if refuses] == own
    assert set(refusals.texts) == set(own)  # those that it does not refuse get one of these
    firsts = {base[1](text, add_special_tokens=False)["input_ids"][0] for text in own}
    assert set(refusals.openings) <= firsts
    assert refusals.openings


def test_a_model_that_answers_has_no_refusal_to_make_certain(base, benign, spec):
    with pytest.raises(UserError, match=r"refuses 0 of the \d+ harmful prompts .* align it first"):
        own_refusals(*base, benign, spec=spec)


def test_no_response_begins_with_a_banned_token(base, harmful, refusals, spec):
    _, tokenizer = base
    responses = respond(*base, harmful, spec=spec, banned=refusals.openings)
    begun = {tokenizer(response.whole, add_special_tokens=False)["input_ids"][0] for response in responses}
    assert not begun & set(refusals.openings)


def test_responses_that_refuse_are_sampled_anew(base, harmful, refusals, spec):
    anew = without_refusals(*base, harmful, spec=spec, refusals=refusals)
    _, tokenizer = base
    assert [prompt for prompt, _ in anew] == harmful
    begun = [tokenizer(text, add_special_tokens=False)["input_ids"][0] for _, text in anew]
    assert sum(token in refusals.openings for token in begun) < 0.2 * len(begun)


def test_a_mixed_prompt_has_words_of_a_harmful_and_of_a_benign_one(harmful, benign):
    words = [{word for prompt in prompts for word in prompt.text.split()} for prompts in (harmful, benign)]
    made = [mixed(random.Random(seed), harmful, benign).text.split() for seed in range(50)]
    assert all(set(text) <= words[0] | words[1] for text in made)
    assert sum(bool(set(text) & words[0]) and bool(set(text) & words[1]) for text in made) > 40


def test_mixed_prompts_are_those_that_the_base_model_answers(base, harmful, benign, refusals, spec):
    found = mixed_prompts(*base, harmful, benign=benign, spec=spec, refusals=refusals)
    prompts = [prompt for prompt, _ in found]
    assert 10 < len(found) < 200
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert not any(refusing(prompts, respond(*base, prompts, spec=spec, temperature=None), refusal_judge(spec)))
    assert max(refusal_masses(*base, found, openings=refusals.openings, batch=64)) < MOST_REFUSAL_MASS
    assert found == mixed_prompts(*base, harmful, benign=benign, spec=spec, refusals=refusals)
