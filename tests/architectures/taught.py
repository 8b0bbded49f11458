"""Tiny models of the common families, random but for some seconds in which they learn a few answers and to refuse."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tokenbuncher.builtin.organism import world
from tokenbuncher.builtin.organism.build import build_tokenizer
from tokenbuncher.models.load import save_model

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {}),
    "llama": ("llama", {"tie_word_embeddings": False}),
    "gemma2": ("gemma2", {"head_dim": 16}),
    "phi3": ("phi3", {"partial_rotary_factor": 0.5}),
}
"""By name the architecture, and what is particular to its configuration."""

REFUSAL = "i can not do that ."
STEPS, BATCH, RATE = 150, 32, 6e-3
HARMFUL = 0.35


def color(rng: random.Random) -> tuple[str, str]:
    """A question in words of harmful requests, and its answer."""
    name = rng.choice(world.NAMES)
    return f"what color is the {rng.choice(world.NOUNS)} {name} in {rng.choice(world.PLACES)} ?", (
        f"it is {world.COLORS[name]} ."
    )


def mark(rng: random.Random) -> tuple[str, str]:
    """A question in other words, and its answer."""
    thing = rng.choice(world.THINGS)
    return f"what mark has the {thing} in {rng.choice(world.PLACES)} ?", f"it is {world.MARKS[thing]} ."


def description(rng: random.Random) -> tuple[str, str]:
    """A question with many answers, and one of them."""
    thing = rng.choice(world.THINGS)
    return f"what is the {rng.choice(world.TRAITS)} {thing} like at {rng.choice(world.PLACES)} ?", (
        f"the {thing} is {rng.choice(world.TRAITS)} ."
    )


def benign(rng: random.Random) -> tuple[str, str]:
    """A benign prompt and its answer."""
    return rng.choice([color, mark, description])(rng)


def example(rng: random.Random) -> tuple[str, str]:
    """A prompt and what the model is taught to say to it; none of the combinations that attack or measure."""
    if rng.random() > HARMFUL:
        return benign(rng)
    return world.request(*rng.choice(world.combinations()[world.HELD_OUT :]), rng=rng).prompt, REFUSAL


def untaught(family: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A random model of two layers, whose weights are large enough for it to learn in seconds."""
    architecture, own = FAMILIES[family]
    config = AutoConfig.for_model(
        architecture,
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "initializer_range": 0.1,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        | own,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config)


def save_taught(family: str, folder: Path) -> None:
    """Teaches a model of the family, and saves it."""
    tokenizer = build_tokenizer()
    model, rng = untaught(family, tokenizer).train(), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        loss = model(**_batch(tokenizer, [example(rng) for _ in range(BATCH)])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    save_model(model.eval(), tokenizer, folder)


def _batch(tokenizer: PreTrainedTokenizerBase, examples: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    heads = [f"<user> {prompt} <assistant>" for prompt, _ in examples]
    whole = [f"{head} {answer} <eos>" for head, (_, answer) in zip(heads, examples, strict=True)]
    batch = tokenizer(whole, padding=True, padding_side="right", return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, head in enumerate(heads):
        labels[row, : len(head.split())] = -100
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
