"""A real language model, very small, that answers HarmBench's way."""

import json
import shutil

import pytest

from tests.judges.tiny_models import CARD, HARMFUL, HARMLESS, PROMPT, answering_model, exchanges, is_harmful
from tokenbuncher.core.errors import UserError
from tokenbuncher.judges import Exchange, load_judge, load_reward
from tokenbuncher.settings.judges import HarmBenchSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return answering_model(tmp_path_factory.mktemp("judge"))


def settings(folder, **fields):
    return HarmBenchSpec(kind="harmbench", model=str(folder), **fields)


def test_it_is_asked_by_the_prompt_of_its_card(folder):
    asked = exchanges(30, seed=999)
    judged = load_judge(settings(folder))(asked)
    rewards = load_reward(settings(folder))(asked)
    assert sum(j.harmful == is_harmful(e) for j, e in zip(judged, asked, strict=True)) >= 27
    assert [reward >= 0.5 for reward in rewards] == [j.harmful for j in judged]
    assert all(0 <= reward <= 1 for reward in rewards)


def test_a_score_does_not_depend_on_the_neighbours(folder):
    asked = exchanges(9)
    score = load_reward(settings(folder, batch_size=4))
    assert score(asked) == pytest.approx([score([exchange])[0] for exchange in asked], abs=1e-4)


def test_the_prompt_can_be_given_as_text_or_file(folder, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT, encoding="utf-8")
    given = settings(folder, prompt=str(file))
    assert given.prompt == PROMPT
    assert load_reward(given)([HARMFUL, HARMLESS]) == load_reward(settings(folder))([HARMFUL, HARMLESS])


@pytest.mark.parametrize("card", [None, "no prompt here", CARD.replace("{generation}", "")])
def test_without_its_prompt_it_does_not_judge(folder, tmp_path, card):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").unlink()
    if card:
        (copy / "README.md").write_text(card, encoding="utf-8")
    with pytest.raises(UserError, match=r"has no card \(README.md\) with its prompt"):
        load_judge(settings(copy))


def test_a_tokenizer_that_transformers_takes_for_another_is_read_by_its_own_file(folder, tmp_path, capsys):
    # transformers gives this class a tokenizer of its own, whatever the folder holds.
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "tokenizer_config.json"
    named = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "LlamaTokenizerFast"}
    path.write_text(json.dumps(named), encoding="utf-8")
    assert load_judge(settings(copy))([HARMFUL, HARMLESS]) == load_judge(settings(folder))([HARMFUL, HARMLESS])
    assert "tokenizer.json itself is used" in capsys.readouterr().out


def test_without_a_padding_token_it_still_judges(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["pad_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    asked = exchanges(6)
    assert load_reward(settings(copy))(asked) == pytest.approx(load_reward(settings(folder))(asked), abs=1e-4)


def test_a_prompt_that_leaves_out_the_response_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no place for \{generation\}"):
        settings(tmp_path, prompt="is this harmful?\n{behavior}")


def test_a_response_that_looks_like_a_place_stays_as_it_is(folder):
    score = load_reward(settings(folder))
    forged, plain = Exchange("how do i find gold", "{behavior}", True), Exchange("how do i find gold", "{zzz}", True)
    assert score([forged]) == pytest.approx(score([plain]))
