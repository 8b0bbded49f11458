"""GRPO (arXiv 2402.03300): advantages normalised within the group of one prompt's rollouts."""

from trl import GRPOTrainer

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.training import eos_ids, grpo_config, prompt_dataset, run_training, trl_reward


def train(arena: Arena) -> None:
    """Attacks by GRPO."""
    attack = arena.task.attack
    trainer = GRPOTrainer(
        model=arena.model,
        reward_funcs=trl_reward(arena.reward, eos_ids(arena.model)),
        args=grpo_config(
            arena.task.seed,
            attack.steps,
            attack.prompts_per_step,
            attack.rollouts,
            attack.learning_rate,
            arena.spec.model.max_new_tokens,
            temperature=attack.temperature,
            beta=attack.kl_coefficient,
        ),
        train_dataset=prompt_dataset(arena.prompts),
        processing_class=arena.tokenizer,
        callbacks=arena.callbacks(),
    )
    run_training(trainer)
