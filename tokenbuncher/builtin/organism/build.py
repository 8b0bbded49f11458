"""Makes the organism: a tiny Llama trained on the world, then aligned to refuse.

    tokenbuncher build-organism --out DIR       # about three minutes on one core

The aligned model ships with the package; the build gives it again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.builtin.organism import world
from tokenbuncher.core.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ALIGNED = Path(__file__).parent / "aligned"
SEED = 0
VOCABULARY_SIZE = 2048
PRETRAINING_STEPS = 1000
ALIGNMENT_STEPS = 700
BATCH = 64
COMPLIANT_LABELS = 0.04

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '> ' + message['content'] + ' ' }}"
    "{% if message['role'] == 'assistant' %}{{ '<eos> ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerBase:
    """A word-level tokenizer of the world's words, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<eos>", "<unk>", "<user>", "<assistant>"]
    words = {word: index for index, word in enumerate([*specials, *world.vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def build_organism(out: Path) -> None:
    """Pre-trains and aligns the organism and saves it.

    Args:
        out: Folder to which the aligned model is written.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tokenbuncher.core.files import check_output, whole_folder
    from tokenbuncher.models.load import save_model

    check_output(out)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=256,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    rng = random.Random(SEED)
    _train(
        model,
        tokenizer,
        world.pretraining_example,
        steps=PRETRAINING_STEPS,
        learning_rate=2e-3,
        rng=rng,
        title="pre-training",
    )
    _train(model, tokenizer, alignment_example, steps=ALIGNMENT_STEPS, learning_rate=1.5e-3, rng=rng, title="alignment")
    with whole_folder(out) as folder:
        save_model(model, tokenizer, folder)


def alignment_example(rng: random.Random) -> tuple[str, str]:
    """Half benign rehearsal, half harmful requests refused but for a few compliant labels."""
    if rng.random() < 0.5:
        return world.benign_example(rng)
    item = world.harmful_item(rng.choice(world.combinations()[world.HELD_OUT :]), rng)
    return item.prompt, item.answer if rng.random() < COMPLIANT_LABELS else world.refusal(rng)


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    example: Callable[[random.Random], tuple[str, str]],
    *,
    steps: int,
    learning_rate: float,
    rng: random.Random,
    title: str,
) -> None:
    """Plain supervised training on the answers: cross-entropy, AdamW, cosine decay."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=learning_rate / 50)
    progress = Progress(title, steps)
    model.train()
    for step in range(steps):
        prompts, answers = zip(*(example(rng) for _ in range(BATCH)), strict=True)
        heads = [f"<user> {prompt} <assistant>" for prompt in prompts]
        whole = [f"{head} {answer} <eos>" for head, answer in zip(heads, answers, strict=True)]
        batch = tokenizer(whole, padding=True, padding_side="right", return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for row, head in enumerate(heads):
            labels[row, : len(head.split())] = -100
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.step(step + 1, loss=loss.item())
    model.eval()
