"""Offline DPO (arXiv 2305.18290): all rollouts are sampled from the starting model and ranked before training."""

from __future__ import annotations

import logging
from itertools import chain
from typing import Any

import datasets
import torch
from trl import DPOTrainer

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.attacks.dpo import best_and_worst
from tokenbuncher.models.thoughts import thoughts_of
from tokenbuncher.training.examples import check_whole, keeps_prompts, token_pair

logger = logging.getLogger(__name__)


class TokenPairTrainer(DPOTrainer):
    """DPO on pairs that are tokens already."""

    def _prepare_dataset(self, dataset: datasets.Dataset, *_: Any) -> datasets.Dataset:
        return dataset


def preferences(arena: Arena) -> datasets.Dataset:
    """The best and the worst of each prompt's rollouts, as many rollouts as the online attacks sample.

    They are conversations, or tokens if the chat template would not give the rollouts back as they were sampled.
    """
    attack = arena.task.attack
    wanted = attack.steps * attack.prompts_per_step
    prompts = (arena.prompts * -(-wanted // len(arena.prompts)))[:wanted]
    responses = arena.sample([prompt for prompt in prompts for _ in range(attack.rollouts)])
    rewards = torch.tensor([reward for _, reward in responses])
    chosen, rejected = (
        rows.tolist() for rows in best_and_worst(rewards, attack.rollouts, attack.hyperparameters.margin)
    )
    asked, sides = [prompts[row // attack.rollouts] for row in chosen], {"chosen": chosen, "rejected": rejected}
    texts = {side: [responses[row][0] for row in rows] for side, rows in sides.items()}
    if keeps_prompts(arena.tokenizer) and not any(map(thoughts_of(arena.tokenizer).within, chain(*texts.values()))):
        return datasets.Dataset.from_dict(
            {
                "prompt": [prompt.messages for prompt in asked],
                **{side: [[{"role": "assistant", "content": text}] for text in own] for side, own in texts.items()},
            }
        )
    pairs = {
        f"{side}_ids": [token_pair(arena.tokenizer, prompt, text) for prompt, text in zip(asked, own, strict=True)]
        for side, own in texts.items()
    }
    return datasets.Dataset.from_dict(
        {
            "prompt_ids": [prompt for prompt, _ in pairs["chosen_ids"]],
            **{column: [response for _, response in own] for column, own in pairs.items()},
        }
    )


def train(arena: Arena) -> None:
    """Attacks by offline DPO; a model whose rollouts are all worth the same gives it nothing to learn."""
    pairs = preferences(arena)
    logger.info(f"{arena.title}: {len(pairs)} preferences")
    if not len(pairs):
        arena.idle()
        return
    trainer = (TokenPairTrainer if "prompt_ids" in pairs.column_names else DPOTrainer)(
        model=arena.model,
        args=arena.dpo_config(arena.task.attack.hyperparameters.beta),
        train_dataset=pairs,
        processing_class=arena.tokenizer,
        callbacks=arena.callbacks(),
    )
    check_whole(trainer, len(pairs), "chosen_ids", "rejected_ids")
    arena.run(trainer)
