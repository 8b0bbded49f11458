import random

import pytest

from tokenbuncher.core.errors import UserError
from tokenbuncher.defence.anchors import MOST_REFUSAL_MASS, mixed, mixed_prompts, refusal_masses, without_refusals
from tokenbuncher.defence.refusals import own_refusals, refusal_judge, refusing, respond, taught
from tokenbuncher.judges import Exchange
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.prompts import Prompt, load_set


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


def test_openings_are_those_of_sampled_refusals_too(base, harmful, refusals, spec):
    def firsts(temperature):
        responses = respond(*base, harmful, spec=spec, temperature=temperature)
        refused = refusing(harmful, responses, refusal_judge(spec))
        said = [response.whole for response, refuses in zip(responses, refused, strict=True) if refuses]
        return {base[1](text, add_special_tokens=False)["input_ids"][0] for text in said}

    greedy, sampled = firsts(None), firsts(1.0)
    assert greedy < set(refusals.openings) <= greedy | sampled


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (["no.", "no.", "never.", None], ["no."] * 4),
        (["no.", "no.", "a", "b", "c", "d", "e", "f", None], ["no."] * 9),
        (["no.", "no.", "a", "b", "c", "d", "e", "f", "g", None], ["no.", "no.", *"abcdefg", "no."]),
        (["a", "b", "c", "d"], ["a", "b", "c", "d"]),
        (["no.", None], ["no.", "no."]),
    ],
)
def test_a_stock_refusal_is_taught_for_all_and_others_for_their_own_prompts(own, expected):
    assert taught(own) == expected


def test_a_model_that_answers_has_no_refusal_to_make_certain(base, benign, spec):
    with pytest.raises(UserError, match=r"refuses 0 of the \d+ harmful prompts .* align it first"):
        own_refusals(*base, benign, spec=spec)


def test_prompts_beside_the_list_do_not_hide_that_a_model_answers_it(base, harmful, benign, spec):
    sizes = spec.data.sizes.model_copy(update={"more_harmful": len(harmful)})
    more = spec.model_copy(update={"data": spec.data.model_copy(update={"sizes": sizes})})
    few = benign[: len(harmful) // 4]
    with pytest.raises(UserError, match=rf"refuses 0 of the {len(few)} harmful prompts"):
        own_refusals(*base, [*harmful, *few], spec=more)


def test_no_response_begins_with_a_banned_token(base, harmful, refusals, spec):
    _, tokenizer = base
    responses = respond(*base, harmful, spec=spec, banned=refusals.openings)
    begun = {tokenizer(response.whole, add_special_tokens=False)["input_ids"][0] for response in responses}
    assert not begun & set(refusals.openings)


def test_responses_that_refuse_are_sampled_anew(base, harmful, refusals, spec):
    responses = list(zip(harmful, respond(*base, harmful, spec=spec), strict=True))
    refused = refusing(harmful, [response for _, response in responses], refusal_judge(spec))
    anew = without_refusals(*base, responses, spec=spec, refused=refused, openings=refusals.openings)
    answered = [pair for pair, refuses in zip(responses, refused, strict=True) if not refuses]
    own = [(prompt, response.whole) for prompt, response in answered]
    assert [pair for pair in anew if pair in own] == own
    others = [Exchange(prompt.text, text, True) for prompt, text in anew if (prompt, text) not in own]
    assert not any(judged.refused for judged in refusal_judge(spec)(others))
    assert 0 < len(others) < sum(refused)  # what is refused even so is left out


def test_what_begins_answers_too_is_no_opening(base, harmful, refusals, spec):
    own = own_refusals(*base, harmful, spec=spec, answers=refusals.texts)
    begins_answers = base[1](refusals.texts[0], add_special_tokens=False)["input_ids"][0]
    assert own.openings == [token for token in refusals.openings if token != begins_answers] != refusals.openings
    assert own.texts == refusals.texts


def test_a_refusal_that_was_cut_off_is_none(base, harmful, spec):
    short = spec.model_copy(update={"model": spec.model.model_copy(update={"max_new_tokens": 3})})
    with pytest.raises(UserError, match="refuses 0 of"):
        own_refusals(*base, harmful, spec=short)


def test_a_mixed_prompt_has_words_of_a_harmful_and_of_a_benign_one(harmful, benign):
    words = [{word for prompt in prompts for word in prompt.text.split()} for prompts in (harmful, benign)]
    made = [mixed(random.Random(seed), harmful, benign).text.split() for seed in range(50)]
    assert all(set(text) <= words[0] | words[1] for text in made)
    assert sum(bool(set(text) & words[0]) and bool(set(text) & words[1]) for text in made) > 40
    assert max(map(len, made)) <= max(len(prompt.text.split()) for prompt in [*harmful, *benign])


def test_prompts_without_words_can_be_mixed():
    blank = [Prompt(text="  ")]
    assert all(mixed(random.Random(seed), blank, blank).text for seed in range(10))


def test_mixed_prompts_are_those_that_the_base_model_answers(base, harmful, benign, refusals, spec):
    def made(apart_from=()):
        return mixed_prompts(
            *base, (harmful, benign), apart_from=apart_from, number=200, spec=spec, openings=refusals.openings
        )

    found = made()
    prompts = [prompt for prompt, _ in found]
    assert 10 < len(found) < 200
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert not any(refusing(prompts, respond(*base, prompts, spec=spec, temperature=None), refusal_judge(spec)))
    assert max(refusal_masses(*base, prompts, openings=refusals.openings, batch=64)) < MOST_REFUSAL_MASS
    assert found == made()
    turned_round = Prompt(text=" ".join(reversed(prompts[0].text.split())))
    assert [prompt for prompt, _ in made([turned_round])] == prompts[1:]
