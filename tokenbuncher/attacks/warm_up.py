"""A little supervised fine-tuning before the attack proper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings import WarmUpSpec
from tokenbuncher.training.arguments import sft_config
from tokenbuncher.training.callbacks import StepLog
from tokenbuncher.training.examples import sft_trainer
from tokenbuncher.training.run import run_training

if TYPE_CHECKING:
    from tokenbuncher.attacks.arena import Arena


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
        sft_config(
            arena.task.seed, stage.steps, len(examples), learning_rate=stage.learning_rate, model=arena.spec.model
        ),
        examples,
        tokenizer=arena.tokenizer,
        callbacks=[StepLog(f"{arena.title} warm-up", arena.work / "warm-up.steps.jsonl", stage.steps)],
    )
    run_training(trainer)
