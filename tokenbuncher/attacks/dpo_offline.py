"""Offline DPO (arXiv 2305.18290): all rollouts are sampled from the starting model and ranked before training."""

from __future__ import annotations

import datasets
import torch
from trl import DPOTrainer

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.attacks.dpo import BETA, best_and_worst
from tokenbuncher.training import check_whole


def preferences(arena: Arena) -> datasets.Dataset:
    """The best and the worst of each prompt's rollouts, as many rollouts as the online attacks sample."""
    attack = arena.task.attack
    wanted = attack.steps * attack.prompts_per_step
    prompts = (arena.prompts * -(-wanted // len(arena.prompts)))[:wanted]
    responses = arena.sample([prompt for prompt in prompts for _ in range(attack.rollouts)])
    rewards = torch.tensor([reward for _, reward in responses])
    chosen, rejected = best_and_worst(rewards, attack.rollouts)
    return datasets.Dataset.from_dict(
        {
            "prompt": [prompts[row // attack.rollouts].messages for row in chosen.tolist()],
            "chosen": [[{"role": "assistant", "content": responses[row][0]}] for row in chosen.tolist()],
            "rejected": [[{"role": "assistant", "content": responses[row][0]}] for row in rejected.tolist()],
        }
    )


def train(arena: Arena) -> None:
    """Attacks by offline DPO; a model whose rollouts are all worth the same gives it nothing to learn."""
    pairs = preferences(arena)
    print(f"{arena.title}: {len(pairs)} preferences", flush=True)
    if not len(pairs):
        arena.idle()
        return
    trainer = DPOTrainer(
        model=arena.model,
        args=arena.dpo_config(BETA),
        train_dataset=pairs,
        processing_class=arena.tokenizer,
        callbacks=arena.callbacks(),
    )
    check_whole(trainer, len(pairs), "chosen_ids", "rejected_ids")
    arena.run(trainer)
