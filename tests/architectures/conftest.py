"""Tiny random models of the common families, each with its chat template and a tokenizer with its special tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tokenbuncher.models.load import save_model
from tokenbuncher.settings.prompts import load_set

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Family:
    """What is particular to a family; `ends` is its generation_config's eos_token_id, as published or poorer."""

    architecture: str
    specials: tuple[str, ...]
    eos: str
    turn_end: str
    ends: tuple[str, ...]
    bos: str | None = None
    pad: str | None = None


FAMILIES = {
    "qwen2": Family(
        "qwen2",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
        turn_end="<|im_end|>",
        ends=("<|im_end|>", "<|endoftext|>"),
        pad="<|endoftext|>",
    ),
    "qwen3": Family(
        "qwen3",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
        turn_end="<|im_end|>",
        ends=("<|im_end|>", "<|endoftext|>"),
        pad="<|endoftext|>",
    ),
    "llama3": Family(
        "llama",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        turn_end="<|eot_id|>",
        ends=("<|end_of_text|>",),
    ),
    "mistral": Family("mistral", ("<s>", "</s>"), bos="<s>", eos="</s>", turn_end="</s>", ends=("</s>",)),
    "gemma": Family(
        "gemma2",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        turn_end="<end_of_turn>",
        ends=("<eos>",),
    ),
    "phi3": Family(
        "phi3",
        ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        bos="<s>",
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        turn_end="<|end|>",
        ends=("<|endoftext|>",),
    ),
    "deepseek_r1": Family(
        "qwen2",
        ("<|begin▁of▁sentence|>", "<|end▁of▁sentence|>", "<|User|>", "<|Assistant|>"),
        bos="<|begin▁of▁sentence|>",
        eos="<|end▁of▁sentence|>",
        turn_end="<|end▁of▁sentence|>",
        ends=("<|end▁of▁sentence|>",),
    ),
}


def build_tokenizer(name: str, texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the family's special tokens; it puts the BOS first, as the families' own do."""
    family = FAMILIES[name]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=list(family.specials))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in ("<think>", "</think>")])
    if family.bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, tokenizer.token_to_id(family.bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.pad,
        chat_template=(TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"),
    )


def build_model(name: str, tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    """A random model of the family, of two layers."""
    family = FAMILIES[name]
    ids = tokenizer.convert_tokens_to_ids(list(family.ends))
    config = AutoConfig.for_model(
        family.architecture,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ids if len(ids) > 1 else ids[0],
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="session")
def model_folder(organism_data, tmp_path_factory):
    """The folder of a family's tiny model."""
    texts = [
        f"{p.text} {p.answer or ''}" for name in ("defence", "benign", "attack") for p in load_set(organism_data, name)
    ]
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "model"
            tokenizer = build_tokenizer(name, texts)
            save_model(build_model(name, tokenizer), tokenizer, made[name])
        return made[name]

    return folder
