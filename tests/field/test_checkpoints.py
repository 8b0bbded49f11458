"""Checkpoints as people save, mix and publish them: what is not the model that is measured is told or refused."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.judges.tiny_models import HARMFUL, HARMLESS, answering_model, classifier
from tokenbuncher.core.errors import UserError
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.judges import load_reward
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.judges import ClassifierSpec, HarmBenchSpec
from tokenbuncher.settings.prompts import Prompt


@pytest.fixture
def checkpoint(organism_base, tmp_path):
    return shutil.copytree(organism_base, tmp_path / "checkpoint")


@pytest.fixture
def fetch(checkpoint, tmp_path):
    def fetched(*overrides):
        fetch_model(parse_spec("", [f"model.source={checkpoint}", *overrides]), tmp_path / "out")
        return tmp_path / "out"

    return fetched


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def edit_weights(folder, **tensors):
    weights = {**load_file(folder / "model.safetensors"), **tensors}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def sharded(folder):
    """Saves the weights anew, in several files."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="400KB")
    return sorted(path.name for path in folder.glob("*.safetensors"))


# Tokens and rows


@pytest.fixture
def snug(checkpoint):
    """The checkpoint with a row for each token, and no more."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.resize_token_embeddings(len(load_tokenizer(checkpoint)))
    model.save_pretrained(checkpoint)
    return checkpoint


def add_tokens(folder, *tokens, **roles):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(tokens))
    tokenizer.add_special_tokens(roles)
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_a_pad_token_added_without_resizing(snug, fetch):
    tokenizer = add_tokens(snug, pad_token="[PAD]")
    with pytest.raises(UserError, match=rf"1 more: \[PAD\] \({len(tokenizer) - 1}\).*resize_token_embeddings"):
        fetch()


def test_tokens_for_tools_added_without_resizing(snug, fetch):
    add_tokens(snug, "<tool_call>", "</tool_call>")
    with pytest.raises(UserError, match="2 more: <tool_call>"):
        fetch()


def test_tokens_added_with_resizing_are_fine(snug, fetch):
    tokenizer = add_tokens(snug, "<tool_call>", pad_token="[PAD]")
    model = AutoModelForCausalLM.from_pretrained(snug)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(snug)
    assert load_tokenizer(fetch()).pad_token == "[PAD]"


def test_a_pad_token_only_in_tokenizer_config(snug, fetch):
    change(snug / "tokenizer_config.json", pad_token="[PAD]")
    with pytest.raises(UserError, match=r"1 more: \[PAD\]"):
        fetch()


def test_more_rows_than_tokens_are_padding(checkpoint, fetch):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.resize_token_embeddings(len(load_tokenizer(checkpoint)), pad_to_multiple_of=64)
    model.save_pretrained(checkpoint)
    fetch()


def test_a_placeholder_for_images_needs_no_row(snug, fetch):
    add_tokens(snug, "<image_here>")
    change(snug / "tokenizer_config.json", image_token="<image_here>")
    fetch()


def test_a_config_of_before_the_embeddings_were_resized(checkpoint, fetch):
    config = (checkpoint / "config.json").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.resize_token_embeddings(512)
    model.save_pretrained(checkpoint)
    (checkpoint / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(UserError, match=r"vocab_size in config.json is .* has 512 rows"):
        fetch()


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id", "pad_token_id"])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("number", [100_000, [1, 100_000], -2, "</s>"])
def test_an_id_of_another_model(checkpoint, fetch, file, name, number):
    change(checkpoint / file, **{name: number})
    with pytest.raises(UserError, match=rf"{file}: {name} is .*the model has tokens 0 to"):
        fetch()


def test_a_pad_id_of_minus_one_means_none(checkpoint, fetch):
    change(checkpoint / "config.json", pad_token_id=-1)
    fetch()


# Padding and truncation in tokenizer.json

LONG = "how do i drain the well eta in dusk ? " * 30


def leave_on(folder, what):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    if what == "padding to a length":
        tokenizer.enable_padding(length=64, pad_id=0, pad_token="[PAD]" if "judge" in str(folder) else "<pad>")
    elif what == "padding to a multiple":
        tokenizer.enable_padding(direction="left", pad_to_multiple_of=16)
    else:
        tokenizer.enable_truncation(4, direction=what.rpartition(" ")[2])
    tokenizer.save(str(folder / "tokenizer.json"))


left_on = pytest.mark.parametrize(
    "what", ["padding to a length", "padding to a multiple", "truncation right", "truncation left"]
)


@left_on
def test_a_tokenizer_saved_with(checkpoint, fetch, capsys, what):
    leave_on(checkpoint, what)
    folder = fetch()
    assert f"tokenizer.json was saved with {what.split()[0]} on" in capsys.readouterr().out
    tokenizer = load_tokenizer(folder)
    expected = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    expected.no_padding()
    expected.no_truncation()
    assert tokenizer(LONG, add_special_tokens=False)["input_ids"] == expected.encode(LONG).ids
    messages = Prompt(text=LONG).messages
    assert LONG.strip() in tokenizer.decode(tokenizer.apply_chat_template(messages, return_dict=False))


@left_on
def test_a_judge_s_tokenizer_saved_with(tmp_path, what):
    plain, saved = classifier(tmp_path / "judge", ["fine", "loot"]), tmp_path / "saved-judge"
    shutil.copytree(plain, saved)
    leave_on(saved, what)
    of = [
        load_reward(ClassifierSpec(kind="classifier", model=str(folder), harmful_labels=["loot"]))
        for folder in (plain, saved)
    ]
    assert of[0]([HARMFUL, HARMLESS]) == of[1]([HARMFUL, HARMLESS])


@left_on
def test_a_harmbench_judge_s_tokenizer_saved_with(tmp_path, what):
    plain, saved = answering_model(tmp_path / "judge"), tmp_path / "saved-judge"
    shutil.copytree(plain, saved)
    leave_on(saved, what)
    of = [load_reward(HarmBenchSpec(kind="harmbench", model=str(folder))) for folder in (plain, saved)]
    assert of[0]([HARMFUL, HARMLESS]) == of[1]([HARMFUL, HARMLESS])


def test_a_judge_with_a_pad_token_added_without_resizing(tmp_path):
    folder = classifier(tmp_path / "judge", ["fine", "loot"])
    add_tokens(folder, pad_token="[NEWPAD]")
    with pytest.raises(UserError, match=r"the judge .*1 more: \[NEWPAD\]"):
        load_reward(ClassifierSpec(kind="classifier", model=str(folder), harmful_labels=["loot"]))


# Files of weights


def test_shards_with_their_index_are_the_same_model(checkpoint, fetch, organism_base, tiny_spec):
    shards = sharded(checkpoint)
    folder = fetch()
    assert shards == sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 1
    one, other = load_model(organism_base, tiny_spec.model), load_model(folder, tiny_spec.model)
    assert all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def lose_a_shard(folder):
    (folder / sharded(folder)[0]).unlink()


def lose_the_index(folder):
    sharded(folder)
    (folder / "model.safetensors.index.json").unlink()


def keep_a_shard_of_another_save(folder):
    shutil.copy(folder / sharded(folder)[0], folder / "model-00009-of-00009.safetensors")


def keep_the_weights_of_before(folder):
    shutil.copy(folder / "model.safetensors", folder / "before")
    sharded(folder)
    (folder / "before").rename(folder / "model.safetensors")


def keep_shards_without_index(folder):
    keep_the_weights_of_before(folder)
    (folder / "model.safetensors.index.json").unlink()


def name_the_weights_otherwise(folder):
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


def an_index_that_leads_out(folder):
    sharded(folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../model.safetensors"}}), encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("damage", "telling"),
    [
        (lose_a_shard, "is incomplete: model.safetensors.index.json names model-00001"),
        (lose_the_index, "has neither model.safetensors nor model.safetensors.index.json, but model-00001"),
        (keep_a_shard_of_another_save, "has model-00009-of-00009.safetensors, which .* does not name"),
        (keep_the_weights_of_before, "holds weights twice"),
        (keep_shards_without_index, "holds weights twice"),
        (name_the_weights_otherwise, "has neither .* but consolidated.safetensors"),
        (an_index_that_leads_out, "is no index of weights"),
    ],
)
def test_weights_that_programs_take_differently(checkpoint, fetch, tmp_path, damage, telling):
    damage(checkpoint)
    with pytest.raises(UserError, match=telling):
        fetch()
    assert not (tmp_path / "out").exists()


def test_other_copies_of_the_weights_stay_behind_and_are_told(checkpoint, fetch, capsys):
    others = ["consolidated.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "optimizer.pt"]
    for name in others:
        (checkpoint / name).write_bytes(b"{}")
    folder = fetch()
    assert not any((folder / name).exists() for name in others)
    assert f"left out, as no part of the model that is measured: {', '.join(sorted(others))}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["v_head.summary.weight", "score.weight", "optimizer.state", "lm_head.bias"])
def test_tensors_that_the_model_does_not_use(checkpoint, fetch, name):
    edit_weights(checkpoint, **{name: torch.zeros(1, 4)})
    with pytest.raises(UserError, match=f"1 tensors that .* does not use: {name}"):
        fetch()


def test_an_output_layer_that_the_configuration_denies(checkpoint, fetch):
    embedding = load_file(checkpoint / "model.safetensors")["model.embed_tokens.weight"]
    edit_weights(checkpoint, **{"lm_head.weight": embedding + 1})
    with pytest.raises(UserError, match="has an output layer of its own, and tie_word_embeddings"):
        fetch()


def test_an_output_layer_that_is_the_embedding_is_fine(checkpoint, fetch):
    embedding = load_file(checkpoint / "model.safetensors")["model.embed_tokens.weight"]
    edit_weights(checkpoint, **{"lm_head.weight": embedding.clone()})
    fetch()


def test_buffers_that_every_loader_leaves_out_are_fine(checkpoint, fetch):
    edit_weights(checkpoint, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)})
    fetch()


# Adapters


@pytest.mark.parametrize("with_adapter_weights", [True, False])
def test_a_stray_adapter_config_beside_whole_weights(checkpoint, fetch, with_adapter_weights):
    config = {"peft_type": "LORA", "base_model_name_or_path": str(checkpoint), "r": 4}
    (checkpoint / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    if with_adapter_weights:
        save_file({"x": torch.zeros(1)}, checkpoint / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"holds whole weights and adapter_config.json.* remove adapter_config.json"):
        fetch()


def adapter_of(base, folder):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules=["q_proj"]))
    model.save_pretrained(folder)
    return folder


def name_otherwise(name):
    return name.replace("layers.1", "layers.7")


def of_another_prefix(name):
    return name.replace("base_model.model.", "base_model.model.language_")


@pytest.mark.parametrize("renamed", [name_otherwise, of_another_prefix])
def test_an_adapter_whose_tensors_have_no_place(checkpoint, tmp_path, renamed):
    folder = adapter_of(checkpoint, tmp_path / "adapter")
    path = folder / "adapter_model.safetensors"
    save_file({renamed(name): tensor for name, tensor in load_file(path).items()}, path)
    spec = parse_spec("", [f"model.source={folder}", f"model.adapter_base={checkpoint}"])
    with pytest.raises(UserError, match=r"cannot be merged .* it is of another model: .* have no counterpart"):
        fetch_model(spec, tmp_path / "out")


def test_an_adapter_that_fits_is_merged(checkpoint, tmp_path):
    folder = adapter_of(checkpoint, tmp_path / "adapter")
    fetch_model(parse_spec("", [f"model.source={folder}", f"model.adapter_base={checkpoint}"]), tmp_path / "out")
    assert not (tmp_path / "out" / "adapter_config.json").exists()


# Number formats


def test_weights_in_another_number_format_are_told(checkpoint, fetch, capsys):
    AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(checkpoint)
    fetch()
    assert "model.dtype is float32, and the source stores bfloat16" in capsys.readouterr().out


def test_weights_in_the_format_of_the_spec_need_no_word(checkpoint, fetch, capsys):
    AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(checkpoint)
    fetch("model.dtype=bfloat16", "model.lora={}")
    assert "model.dtype" not in capsys.readouterr().out


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8", "mxfp4"])
def test_a_quantised_checkpoint(checkpoint, fetch, method):
    change(checkpoint / "config.json", quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(UserError, match=f"is quantised .*{method}.* dequantise"):
        fetch()


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_a_quantised_checkpoint_that_another_file_tells(checkpoint, fetch, file):
    (checkpoint / file).write_text('{"bits": 4}', encoding="utf-8")
    with pytest.raises(UserError, match=f"is quantised .{file}"):
        fetch()


def test_weights_of_eight_bits_that_no_configuration_tells(checkpoint, fetch):
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(checkpoint, **{name: load_file(checkpoint / "model.safetensors")[name].to(torch.float8_e4m3fn)})
    with pytest.raises(UserError, match=f"is quantised .{name} as F8_E4M3"):
        fetch()


# Chat templates

ENDLESS = {
    "nested loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "much text": "{% for a in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
    "a text that doubles": "{% set ns = namespace(x='a') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}",
    "a number without end": "{{ 9 ** (9 ** 9) }}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_chat_template_without_end(checkpoint, fetch, template):
    path = checkpoint / "chat_template.jinja"
    path.write_text(template + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match=r"the chat template in .* does not come to an end"):
        fetch()


@pytest.mark.parametrize(
    "template", ["{% for a in range(10 ** 9) %}{% endfor %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"]
)
def test_a_chat_template_that_fails(checkpoint, fetch, template):
    path = checkpoint / "chat_template.jinja"
    path.write_text(template + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match=r"the chat template in .* cannot render"):
        fetch()


@pytest.mark.parametrize("template", ["{{ ['a', 'b'] | random }}", "{{ lipsum() }}"])
def test_a_chat_template_that_draws_lots(checkpoint, fetch, template):
    path = checkpoint / "chat_template.jinja"
    path.write_text(template + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match="gives another text each time"):
        fetch()


DATES = {
    "Llama's": "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = "
    "strftime_now('%d %b %Y') %}{% endif %}{% endif %}Today Date: {{ date_string }}\n",
    "in a macro": "{% macro today() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}It is {{ today() }}.",
    "of another format": "{% set form = '%B %-d, %Y %H:%M' %}{{ strftime_now(form) }}",
}


@pytest.mark.parametrize("prefix", DATES.values(), ids=DATES)
@pytest.mark.parametrize("begin", ["", "\n", "  "])
def test_a_date_in_the_chat_template(checkpoint, fetch, capsys, prefix, begin):
    path = checkpoint / "chat_template.jinja"
    path.write_text(begin + prefix + path.read_text(encoding="utf-8"), encoding="utf-8")
    folder = fetch()
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
    assert "takes it for 01 January 2025" in capsys.readouterr().out
    tokenizer = load_tokenizer(folder)
    rendered = tokenizer.apply_chat_template(Prompt(text="hello").messages, tokenize=False)
    assert "2025" in rendered
    assert "%" not in rendered
    given = AutoTokenizer.from_pretrained(checkpoint)
    given.chat_template = (
        path.read_text(encoding="utf-8")
        .replace("strftime_now('%d %b %Y')", "'01 Jan 2025'")
        .replace("strftime_now('%Y-%m-%d')", "'2025-01-01'")
        .replace("strftime_now(form)", "'January 1, 2025 00:00'")
    )
    assert rendered == given.apply_chat_template(Prompt(text="hello").messages, tokenize=False)
