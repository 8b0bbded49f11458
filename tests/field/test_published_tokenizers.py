"""Tokenizers as they are published, whose class or model type transformers takes for another tokenizer."""

import json
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.field.test_thoughts import PLAIN, saved, tokenizer_with
from tokenbuncher.core.errors import UserError
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.models.generation import eos_ids
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import PROBE, load_tokenizer, turn_end
from tokenbuncher.settings import parse_spec
from tokenbuncher.training.run import save_trained

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
SHAPES = {
    "DeepSeek R1 Distill Llama": ("LlamaTokenizerFast", BYTES),
    "the same by the slow name": ("LlamaTokenizer", BYTES),
    "SmolLM2": (
        "GPT2Tokenizer",
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
    ),
}


def published(folder, kind, pre_tokenizer):
    """A small Llama with a tokenizer of bytes and such a name."""
    own = Tokenizer(models.BPE())
    own.pre_tokenizer, own.decoder = BYTES, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>", "<|pad|>", "<|endoftext|>"],
    )
    own.train_from_iterator(["how do i drain the well of 1217 ? so it is done in 1984 or 2024"] * 3, trainer)
    own.pre_tokenizer = pre_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, eos_token="<|end|>", pad_token="<|pad|>", chat_template=PLAIN, model_max_length=2048
    )
    saved(folder, tokenizer)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": kind}
    settings["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    path.write_text(json.dumps(settings), encoding="utf-8")
    return folder


def text_ids(folder):
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return own.encode(PROBE, add_special_tokens=False).ids


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def source(request, tmp_path):
    return published(tmp_path / "source", *request.param)


@pytest.fixture
def base(source, tmp_path):
    fetch_model(parse_spec("", [f"model.source={source}"]), tmp_path / "base")
    return tmp_path / "base"


def test_transformers_takes_it_for_another(source):
    """If this fails, transformers has learnt better, and less is to be done here."""
    assert AutoTokenizer.from_pretrained(source)(PROBE, add_special_tokens=False)["input_ids"] != text_ids(source)


def test_it_reads_text_as_its_own_file_does(base, capsys):
    assert load_tokenizer(base)(PROBE, add_special_tokens=False)["input_ids"] == text_ids(base)


def test_its_settings_count(base):
    tokenizer = load_tokenizer(base)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.model_max_length) == ("<|end|>", "<|pad|>", 2048)
    assert tokenizer.chat_template == PLAIN
    assert tokenizer.decode(tokenizer(PROBE, add_special_tokens=False)["input_ids"]) == PROBE


def test_that_is_told(source, tmp_path, capsys):
    fetch_model(parse_spec("", [f"model.source={source}"]), tmp_path / "base")
    assert capsys.readouterr().out.count("tokenizer.json itself is used") == 1


def test_settings_by_which_it_still_reads_otherwise(source):
    path = source / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    strips = {"content": "Well", "lstrip": True, "rstrip": True, "special": True}
    settings["added_tokens_decoder"] = {"290": {**strips, "normalized": False, "single_word": False}}
    path.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError, match="does not read text as it does alone"):
        load_tokenizer(source)


@pytest.mark.parametrize("lora", [None, "{rank: 8}"])
def test_the_candidate_has_it_as_it_came(source, base, tmp_path, lora):
    spec = parse_spec("", [f"model.lora={lora}"] if lora else [])
    model, tokenizer, out = load_model(base, spec.model), load_tokenizer(base), tmp_path / "candidate"
    if lora:
        from tokenbuncher.models.load import trainable

        model = trainable(model, spec.model, 0)
    out.mkdir()
    save_trained(SimpleNamespace(is_fsdp_enabled=False, model=model), tokenizer, out, base=base, model=spec.model)
    for path in source.glob("*tokeni*"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in source.iterdir()}
    again = load_tokenizer(out)
    assert again(PROBE)["input_ids"] == tokenizer(PROBE)["input_ids"]
    assert again.chat_template == tokenizer.chat_template
    load_model(out, spec.model)


def test_a_class_that_saving_would_rename_stays(tmp_path):
    """Older libraries, which serve many a model, have no TokenizersBackend."""
    source = saved(tmp_path / "source", tokenizer_with(PLAIN))
    path = source / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")
    spec, out = parse_spec("", []), tmp_path / "out"
    out.mkdir()
    trainer = SimpleNamespace(is_fsdp_enabled=False, model=load_model(source, spec.model))
    save_trained(trainer, load_tokenizer(source), out, base=source, model=spec.model)
    assert (out / path.name).read_bytes() == path.read_bytes()


# What ends a response

BLANK = PLAIN.replace("'<|end|>'", "'\n\n'")


def with_ends(folder, *ends):
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(content | {"eos_token_id": list(ends)}), encoding="utf-8")


def test_a_blank_line_ends_no_response(tmp_path):
    folder = saved(tmp_path / "model", tokenizer_with(BLANK, (), ("\n\n",)))
    tokenizer = load_tokenizer(folder)
    assert turn_end(tokenizer) == "<|end|>"
    assert eos_ids(load_model(folder, parse_spec("", []).model)) == {tokenizer.eos_token_id}


def test_a_blank_line_before_the_end_ends_no_response(tmp_path):
    template = PLAIN.replace("'<|end|>'", "'\n\n<|stop|>'")
    folder = saved(tmp_path / "model", tokenizer_with(template, ("<|stop|>",), ("\n\n",)))
    assert turn_end(load_tokenizer(folder)) == "<|stop|>"


def test_a_token_that_the_model_s_files_call_an_end_is_one(tmp_path):
    tokenizer = tokenizer_with(PLAIN.replace("<|end|>", "<stop>"), (), ("<stop>",))
    folder = saved(tmp_path / "model", tokenizer)
    with_ends(folder, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<stop>"))
    assert turn_end(load_tokenizer(folder)) == "<stop>"
    assert tokenizer.convert_tokens_to_ids("<stop>") in eos_ids(load_model(folder, parse_spec("", []).model))


def test_what_ends_responses_is_told(tmp_path, capsys):
    tokenizer = tokenizer_with(PLAIN.replace("<|end|>", "<|stop|>"), ("<|stop|>",))
    fetch_model(parse_spec("", [f"model.source={saved(tmp_path / 'model', tokenizer)}"]), tmp_path / "out")
    assert 'responses end with "<|end|>", "<|stop|>"' in capsys.readouterr().out
