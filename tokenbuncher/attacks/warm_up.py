"""The first stage of a two-stage attack: a little supervised fine-tuning, on benign or on few harmful answers."""

from trl import SFTTrainer

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.errors import UserError
from tokenbuncher.settings import WarmUpSpec
from tokenbuncher.training import StepLog, run_training, sft_config, sft_dataset


def warm_up(arena: Arena, stage: WarmUpSpec) -> None:
    """Fine-tunes the model before the attack proper; not measured, as the attack starts from it.

    Raises:
        UserError: If the prompts have no answers.
    """
    examples = (arena.benign if stage.answers == "benign" else arena.prompts)[: stage.examples]
    if not all(prompt.answer for prompt in examples):
        raise UserError(f"attack {arena.task.key}: a warm-up on {stage.answers} answers needs prompts with answers")
    trainer = SFTTrainer(
        model=arena.model,
        args=sft_config(arena.task.seed, stage.steps, len(examples), stage.learning_rate),
        train_dataset=sft_dataset(examples),
        processing_class=arena.tokenizer,
        callbacks=[StepLog(f"{arena.title} warm-up", arena.work / "warm-up.steps.jsonl", stage.steps)],
    )
    run_training(trainer)
