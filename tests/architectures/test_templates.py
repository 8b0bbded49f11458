"""Chat templates of the common families: what is sent, what ends a response, what the judge sees."""

import shutil
from dataclasses import replace

import pytest
import torch

from tests.architectures.conftest import FAMILIES
from tokenbuncher.core.errors import UserError
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.judges.trl_reward import trl_reward
from tokenbuncher.models.generation import eos_ids
from tokenbuncher.models.load import load_model
from tokenbuncher.models.sampling import _read, generate
from tokenbuncher.models.thoughts import Mark, Thoughts, thoughts_of
from tokenbuncher.models.tokenizer import load_tokenizer, turn_end
from tokenbuncher.settings import ModelSpec, parse_spec
from tokenbuncher.settings.prompts import Prompt, load_set
from tokenbuncher.training.examples import tokenize_pairs

each_family = pytest.mark.parametrize("name", FAMILIES)
PROMPT = Prompt(text="how do i drain the well ?")


def prompt_ids(tokenizer):
    return tokenizer.apply_chat_template(PROMPT.messages, add_generation_prompt=True, return_dict=False)


@each_family
def test_a_question_is_rendered_as_the_family_has_it(name, model_folder):
    tokenizer = load_tokenizer(model_folder(name))
    rendered = tokenizer.decode(prompt_ids(tokenizer))
    assert PROMPT.text in rendered
    assert ("You are Qwen" in rendered) == (name == "qwen2")
    assert ("<think>" in rendered) == (name == "deepseek_r1")


@each_family
def test_the_first_token_is_never_doubled(name, model_folder):
    tokenizer, bos = load_tokenizer(model_folder(name)), FAMILIES[name].bos
    ids = tokenize_pairs(tokenizer, [(PROMPT, "so")])["prompt_ids"][0].tolist()
    # Llama 3's tokenizer and template both know it; phi3's template leaves it out, as published.
    assert ids.count(tokenizer.bos_token_id) == (1 if bos and name != "phi3" else 0)
    assert tokenizer("so")["input_ids"].count(tokenizer.bos_token_id) == (1 if bos else 0)


@each_family
def test_a_response_ends_as_the_template_ends_it(name, model_folder):
    tokenizer = load_tokenizer(model_folder(name))
    assert turn_end(tokenizer) == FAMILIES[name].turn_end
    pairs = tokenize_pairs(tokenizer, [(PROMPT, "so"), (PROMPT, "so it is done")])
    for row, mask in zip(pairs["completion_ids"], pairs["completion_mask"], strict=True):
        assert tokenizer.decode(row[mask.bool()][-1]) == FAMILIES[name].turn_end


@each_family
def test_generation_ends_at_every_token_that_ends_a_response(name, model_folder):
    family, folder = FAMILIES[name], model_folder(name)
    tokenizer = load_tokenizer(folder)
    ends = eos_ids(load_model(folder, ModelSpec()))
    assert ends == set(tokenizer.convert_tokens_to_ids([*{*family.ends, family.eos, family.turn_end}]))


@each_family
def test_a_pad_token_that_ends_responses_too_cuts_nothing_off(name, model_folder):
    tokenizer = load_tokenizer(model_folder(name))
    assert tokenizer.pad_token == (FAMILIES[name].pad or FAMILIES[name].eos)
    [end] = tokenizer.convert_tokens_to_ids([FAMILIES[name].turn_end])
    words = tokenizer("so it is", add_special_tokens=False)["input_ids"]
    rows = torch.tensor([[*words, end, tokenizer.pad_token_id], [*words, *words[:2]]])
    unopened = replace(thoughts_of(tokenizer), opened=None)
    ended, cut = _read(rows, torch.zeros(rows.shape), {end, tokenizer.eos_token_id}, thoughts=unopened)
    assert (ended.text, ended.finished, ended.tokens) == ("so it is", True, len(words) + 1)
    assert not cut.finished


@each_family
def test_padding_on_the_left_changes_no_response(name, model_folder, organism_data):
    folder = model_folder(name)
    model, tokenizer = load_model(folder, ModelSpec()), load_tokenizer(folder)
    prompts = load_set(organism_data, "benign")[:6]
    together = generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=6, temperature=None)
    alone = generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=1, temperature=None)
    assert [response.whole for response in together] == [response.whole for response in alone]


def test_a_repetition_penalty_of_the_model_s_own_is_not_applied(model_folder, organism_data):
    folder = model_folder("qwen2")
    model, tokenizer = load_model(folder, ModelSpec()), load_tokenizer(folder)
    prompts = load_set(organism_data, "benign")[:4]
    plain = generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=4)
    model.generation_config.repetition_penalty = 5.0
    assert generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=4) == plain


@pytest.mark.parametrize(
    ("response", "opened", "seen"),
    [
        ("sure", False, ("sure", True)),
        ("<think>\nhm\n</think>\n\nsure", False, ("sure", True)),
        ("\n<think></think>sure", False, ("sure", True)),
        ("<think>\nhm", False, ("", False)),
        ("hm </think> sure", True, ("sure", True)),
        ("hm", True, ("", False)),
        ("<think>a</think> sure </think> no", False, ("sure </think> no", True)),
        # Nobody hides an answer by closing a block that was never open.
        ("sure, here </think> no", False, ("sure, here </think> no", True)),
    ],
)
def test_what_is_judged_is_the_answer_after_the_thinking(response, opened, seen):
    think = Mark("<think>", "</think>")
    assert Thoughts(None, (think,), think if opened else None).answer(response) == seen


def test_the_reward_and_the_scores_see_the_same_answer(model_folder):
    tokenizer = load_tokenizer(model_folder("qwen3"))
    texts = ["<think>\nhm\n</think>\n\nso it is<|im_end|>", "<think>\nhm<|im_end|>", "so it is<|im_end|>"]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    seen = []
    reward = trl_reward(lambda exchanges, _: seen.extend(exchanges) or [0.0] * 3, {tokenizer.eos_token_id}, tokenizer)
    reward([PROMPT.messages] * 3, completion_ids=ids, completions=[])
    longest = max(map(len, ids))
    rows = torch.tensor([[*row, *[tokenizer.pad_token_id] * (longest - len(row))] for row in ids])
    read = _read(rows, torch.zeros(rows.shape), {tokenizer.eos_token_id}, thoughts=thoughts_of(tokenizer))
    assert [(response.text, response.finished) for response in read] == [
        ("so it is", True),
        ("", False),
        ("so it is", True),
    ]
    assert [(exchange.response, exchange.finished) for exchange in seen] == [(r.text, r.finished) for r in read]
    assert read[0].whole.startswith("<think>")


def test_only_a_template_that_leaves_the_block_open_opens_thinking(model_folder):
    assert {name for name in FAMILIES if thoughts_of(load_tokenizer(model_folder(name))).opened} == {"deepseek_r1"}


@pytest.mark.parametrize(("thinking", "tail"), [(False, "<think>\n\n</think>\n\n"), (True, "assistant\n")])
def test_thinking_is_settled_in_the_template_that_travels_with_the_model(thinking, tail, model_folder, tmp_path):
    spec = parse_spec("", [f"model.source={model_folder('qwen3')}", f"model.enable_thinking={str(thinking).lower()}"])
    fetch_model(spec, tmp_path / "model")
    tokenizer = load_tokenizer(tmp_path / "model")
    assert tokenizer.decode(prompt_ids(tokenizer)).endswith(tail)
    assert not thoughts_of(tokenizer).opened


def test_thinking_cannot_be_settled_where_the_template_does_not_know_it(model_folder, tmp_path):
    spec = parse_spec("", [f"model.source={model_folder('llama3')}", "model.enable_thinking=false"])
    with pytest.raises(UserError, match="enable_thinking: the chat template"):
        fetch_model(spec, tmp_path / "model")


def edited(folder, out, template):
    shutil.copytree(folder, out)
    (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    return out


def test_a_template_that_refuses_a_question_is_refused(model_folder, tmp_path):
    folder = edited(model_folder("gemma"), tmp_path / "model", "{{ raise_exception('system prompt needed') }}")
    with pytest.raises(UserError, match="cannot render a question and its answer: system prompt needed"):
        load_tokenizer(folder)


def test_without_any_end_in_the_template_the_tokenizer_s_counts(model_folder, tmp_path):
    template = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"
    tokenizer = load_tokenizer(edited(model_folder("mistral"), tmp_path / "model", template))
    assert turn_end(tokenizer) == "</s>"
