"""Supervised fine-tuning on harmful answers: the comparison, an attacker who has the answers already."""

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.core.errors import UserError
from tokenbuncher.training.examples import sft_trainer


def train(arena: Arena) -> None:
    """Attacks by SFT.

    Raises:
        UserError: If the attack prompts have no answers.
    """
    if not all(prompt.answer for prompt in arena.prompts):
        raise UserError("attack sft needs harmful answers; name their column in data.harmful.answer or drop it")
    arena.run(
        sft_trainer(
            arena.model, arena.sft_config(), arena.prompts, tokenizer=arena.tokenizer, callbacks=arena.callbacks()
        )
    )
