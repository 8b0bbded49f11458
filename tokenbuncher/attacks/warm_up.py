"""What an attacker may do before the attack proper: noise on the weights, a little supervised fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tokenbuncher.errors import UserError
from tokenbuncher.settings import WarmUpSpec
from tokenbuncher.training import StepLog, run_training, sft_config, sft_trainer

if TYPE_CHECKING:
    from tokenbuncher.attacks.arena import Arena


@torch.no_grad()
def add_noise(model: torch.nn.Module, share: float, seed: int) -> None:
    """Moves a model off the flat spot where a defence has left it, in place.

    Args:
        model: The model.
        share: Standard deviation of the noise on each weight, as a share of its tensor's own.
        seed: Of the noise.
    """
    if not share:
        return
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        weight.add_(noise * share * weight.std(correction=0))


def warm_up(arena: Arena, stage: WarmUpSpec) -> None:
    """Fine-tunes the model before the attack proper; not measured, as the attack starts from it.

    Raises:
        UserError: If the prompts have no answers.
    """
    examples = (arena.benign if stage.answers == "benign" else arena.prompts)[: stage.examples]
    if not all(prompt.answer for prompt in examples):
        raise UserError(f"attack {arena.task.key}: a warm-up on {stage.answers} answers needs prompts with answers")
    trainer = sft_trainer(
        arena.model,
        sft_config(arena.task.seed, stage.steps, len(examples), stage.learning_rate, model=arena.spec.model),
        examples,
        arena.tokenizer,
        [StepLog(f"{arena.title} warm-up", arena.work / "warm-up.steps.jsonl", stage.steps)],
    )
    run_training(trainer)
