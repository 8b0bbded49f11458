"""Supervised fine-tuning on harmful answers: the comparison, an attacker who has the answers already."""

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.training.examples import sft_trainer


def train(arena: Arena) -> None:
    """Attacks by SFT."""
    arena.run(
        sft_trainer(
            arena.model, arena.sft_config(), arena.prompts, tokenizer=arena.tokenizer, callbacks=arena.callbacks()
        )
    )
