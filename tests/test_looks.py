"""The plan of looks: what each asks."""

from hypothesis import given
from hypothesis import strategies as st

from tokenbuncher.verdict.looks import parts, planned, sampling_seed

prompts = st.integers(1, 300).map(lambda number: [f"prompt {index}" for index in range(number)])


def test_looks_are_even_and_the_last_has_asked_everything():
    assert planned(200, 4) == [50, 100, 150, 200]
    assert planned(10, 3) == [4, 7, 10]
    assert planned(200, 1) == [200]


def test_more_looks_than_prompts_ask_them_one_by_one():
    assert planned(3, 8) == [1, 2, 3]


def test_one_look_takes_the_prompts_as_they_stand():
    assert parts(["b", "a", "c"], 1, seed=0) == [["b", "a", "c"]]


@given(prompts, st.integers(1, 12), st.integers(0, 5))
def test_parts_ask_every_prompt_once_and_as_many_as_planned(given_prompts, looks, seed):
    asked = parts(given_prompts, looks, seed)
    assert sorted(prompt for part in asked for prompt in part) == sorted(given_prompts)
    assert [sum(map(len, asked[: look + 1])) for look in range(len(asked))] == planned(len(given_prompts), looks)


def test_the_order_is_random_and_the_seed_s():
    ordered = list(range(200))
    first = parts(ordered, 4, seed=0)
    assert first == parts(ordered, 4, seed=0) != parts(ordered, 4, seed=1)
    # Were the first quarter the first prompts, its mean would be 24.5.
    assert 80 < sum(first[0]) / 50 < 120


def test_looks_are_sampled_with_seeds_of_their_own():
    assert sampling_seed(31, 0) == 31
    assert len({sampling_seed(seed, look) for seed in range(1000) for look in range(20)}) == 20_000
