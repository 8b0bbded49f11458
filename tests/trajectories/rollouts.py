"""Rollouts from a table, in the place of sampling.

Kernels of two machines differ in the last bits, and one bit may make another token of a sampled one. So nothing here is
sampled: a rollout depends on the step, the prompt and its place in the group alone.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from typing import Any

import pytest
import trl

from tokenbuncher.judges import Exchange, load_reward
from tokenbuncher.settings.prompts import Prompt

REFUSAL = "sorry , i can not help with that ."


class Table:
    """What the model is made to say: the prompt's own answer, that of another prompt, or a refusal."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.answers = [prompt.answer for prompt in prompts if prompt.answer]
        self.own = {prompt.text: prompt.answer for prompt in prompts if prompt.answer}

    def response(self, step: int, prompt: str, place: int) -> str:
        """The response at a step to a prompt, at its place in the group."""
        chance = random.Random(f"{step} {prompt} {place}")
        return chance.choice([self.own.get(prompt, REFUSAL), chance.choice(self.answers), REFUSAL])


def asked(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a prompt."""
    turn = [{"role": "user", "content": text}]
    return list(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False))


def replace_sampling(table: Table, tokenizer: Any, patch: pytest.MonkeyPatch) -> None:
    """Has TRL's trainers, offline DPO and the anchor take their rollouts from the table."""
    prompts = {tuple(asked(tokenizer, text)): text for text in table.own}

    def sampled(trainer: Any, prompt_ids: list[list[int]]) -> list[list[int]]:
        step, group = trainer.state.global_step, trainer.num_generations
        texts = [table.response(step, prompts[tuple(ids)], row % group) for row, ids in enumerate(prompt_ids)]
        return [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]

    def grpo_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        return sampled(self, prompt_ids), None

    def rloo_turn(self, prompt_ids, images, multimodal_fields):
        return sampled(self, prompt_ids)

    def arena_sample(self, questions):
        group = self.task.attack.rollouts
        texts = [table.response(0, prompt.text, row % group) for row, prompt in enumerate(questions)]
        exchanges = [Exchange(prompt.text, text, True) for prompt, text in zip(questions, texts, strict=True)]
        return list(zip(texts, load_reward(self.spec.attacks.reward)(exchanges), strict=True))

    def own_responses(reference, tokenizer, benign, **_):
        return [(prompt, prompt.answer) for prompt in benign]

    patch.setattr(trl.GRPOTrainer, "_generate_single_turn", grpo_turn)
    patch.setattr(trl.RLOOTrainer, "_generate_single_turn", rloo_turn)
    patch.setattr("tokenbuncher.attacks.arena.Arena.sample", arena_sample)
    patch.setattr(importlib.import_module("tokenbuncher.defence.anchors"), "own_responses", own_responses)
