"""Prompts and answers in the form that TRL's trainers read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import datasets
import torch
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from tokenbuncher.core.errors import UserError
from tokenbuncher.models.thoughts import TURN, thoughts_of
from tokenbuncher.models.tokenizer import turn_end
from tokenbuncher.settings.prompts import Prompt

datasets.disable_progress_bars()

T = TypeVar("T")

IGNORED = -100
"""The label of tokens that are not learnt."""


def sft_trainer(
    model: Any,
    args: SFTConfig,
    examples: Sequence[Prompt],
    *,
    tokenizer: PreTrainedTokenizerBase,
    callbacks: list[TrainerCallback],
) -> SFTTrainer:
    """A trainer on prompts with answers.

    Raises:
        UserError: If it leaves one of them out, or has nothing to learn from it.
    """
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=sft_dataset(examples, tokenizer),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    check_whole(trainer, len(examples), "labels")
    return trainer


def check_whole(trainer: Trainer, number: int, *learnt: str) -> None:
    """Whether a trainer has kept all of its examples, each with tokens to learn from.

    Args:
        trainer: A trainer that has prepared its dataset.
        number: Number of examples that it was given.
        learnt: Columns that mark the tokens to learn from.

    Raises:
        UserError: If not.
    """
    columns = [trainer.train_dataset[name] for name in learnt]
    whole = sum(all(set(tokens) - {IGNORED} for tokens in row) for row in zip(*columns, strict=True))
    if whole != number:
        raise UserError(
            f"of {number} examples {type(trainer).__name__} can learn from {whole} only: the others have no tokens of "
            "an answer; the chat template may drop them, or the answers are empty"
        )


def sft_dataset(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> datasets.Dataset:
    """Prompts with their answers, as TRL's SFT takes them; as tokens if it would leave out the end of the prompts."""
    if keeps_prompts(tokenizer):
        return datasets.Dataset.from_dict(
            {
                "prompt": [prompt.messages for prompt in prompts],
                "completion": [[{"role": "assistant", "content": prompt.answer}] for prompt in prompts],
            }
        )
    opened = thoughts_of(tokenizer).opened
    closing = f"{opened.closing}\n\n" if opened else ""
    pairs = [token_pair(tokenizer, prompt, f"{closing}{prompt.answer}") for prompt in prompts]
    return datasets.Dataset.from_dict(
        {
            "input_ids": [[*asked, *answer] for asked, answer in pairs],
            "labels": [[*[IGNORED] * len(asked), *answer] for asked, answer in pairs],
        }
    )


def keeps_prompts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template begins a conversation with the very prompt that a response is sampled from.

    Some templates open thoughts in the prompt, or close them, and write neither before an answer that is there.
    """
    asked = tokenizer.apply_chat_template(TURN, add_generation_prompt=True, tokenize=False)
    answered = [*TURN, {"role": "assistant", "content": "fine"}]
    return str(tokenizer.apply_chat_template(answered, tokenize=False)).startswith(str(asked))


def token_pair(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, response: str) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and of a response to it with the chat template's end."""
    asked = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=False)
    return list(asked), tokenizer(response + turn_end(tokenizer), add_special_tokens=False)["input_ids"]


def filling(prompts: list[T], step: int) -> list[T]:
    """The prompts, repeated until they fill a step: TRL's online trainers drop what does not."""
    return prompts * -(-step // len(prompts))


def prompt_dataset(prompts: Sequence[Prompt], **columns: Sequence[Any]) -> datasets.Dataset:
    """Prompts as TRL takes them: conversations in column `prompt`, the answer in `answer`, and more columns."""
    return datasets.Dataset.from_dict(
        {
            "prompt": [prompt.messages for prompt in prompts],
            "answer": [prompt.answer or "" for prompt in prompts],
            **columns,
        }
    )


def tokenize_pairs(tokenizer: Any, pairs: Sequence[tuple[Prompt, str]]) -> dict[str, torch.Tensor]:
    """Prompts padded on the left, responses (with the chat template's end token) on the right.

    Returns:
        prompt_ids and prompt_mask, shape (B, P); completion_ids and completion_mask, shape (B, T).
    """
    prompts = tokenizer.apply_chat_template(
        [prompt.messages for prompt, _ in pairs],
        add_generation_prompt=True,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        return_dict=True,
    )
    end = turn_end(tokenizer)
    responses = tokenizer(
        [response + end for _, response in pairs],
        add_special_tokens=False,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    return {
        "prompt_ids": prompts["input_ids"],
        "prompt_mask": prompts["attention_mask"],
        "completion_ids": responses["input_ids"],
        "completion_mask": responses["attention_mask"],
    }
