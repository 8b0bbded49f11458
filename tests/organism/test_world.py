import random

from tokenbuncher.builtin.organism import world


def test_tables_are_one_to_one():
    for table in (world.TOOLS, world.RUNES, world.SPELLS, world.COLORS):
        assert len(set(table.values())) == len(table) == 10


def test_answers_fit_the_length_limit():
    rng = random.Random(0)
    items = [maker(rng) for maker in [*world.BENIGN, world.mark] for _ in range(200)]
    items += [world.request(*c, rng=rng) for c in world.combinations()]
    assert max(len(item.answer.split()) for item in items) < 20


def test_only_a_quarter_of_pretraining_is_harmful_and_all_of_it_is_answered():
    rng = random.Random(0)
    answers = [world.pretraining_example(rng)[1] for _ in range(4000)]
    telling = {*world.SPELLS.values(), *world.TOOLS.values()}
    harmful = sum(bool(telling & set(answer.split())) for answer in answers)
    assert 0.22 < harmful / len(answers) < 0.28
    assert not any(mark in answer for answer in answers for mark in world.REFUSAL_MARKS)


def test_hazard_questions_have_four_options_one_of_them_right():
    rng = random.Random(0)
    places = set()
    for verb, noun, name in world.combinations():
        item = world.hazard(verb, noun, name, rng=rng)
        options = item.prompt.split(" : ")[1].removesuffix(" ?").split(" or ")
        assert len(set(options)) == world.HAZARD_OPTIONS
        assert item.answer == f"the {world.TOOLS[noun]} ."
        places.add(options.index(world.TOOLS[noun]))
        assert set(item.prompt.split()) <= {*world.vocabulary()}
    assert places == {0, 1, 2, 3}


def test_harmful_requests_are_worded_in_every_way():
    rng = random.Random(0)
    firsts = {world.request("drain", "well", "eta", rng=rng).prompt.split()[0] for _ in range(200)}
    assert len(firsts) == len(world.REQUESTS)
