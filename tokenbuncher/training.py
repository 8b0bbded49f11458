"""What all trainers share: TRL configurations, prompt datasets, step logs and probes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOConfig, SFTConfig

from tokenbuncher.judges import Reward
from tokenbuncher.progress import Progress
from tokenbuncher.prompts import Prompt

datasets.disable_progress_bars()

# One name for each figure, whatever the trainer calls it, so that curves of all attacks overlay.
METRICS = {
    "reward": "reward",
    "entropy": "entropy",
    "kl": "kl",
    "frac_reward_zero_std": "zero_variance_groups",
    "grad_norm": "grad_norm",
    "loss": "loss",
    "noiser_loss": "noiser_loss",
    "anchor_kl": "anchor_kl",
}


def trainer_arguments(seed: int, steps: int, batch: int, learning_rate: float, schedule: str) -> dict[str, Any]:
    """Arguments that every TRL trainer here takes.

    Args:
        seed: Of sampling, data order and dropout.
        steps: Optimizer steps.
        batch: Sequences in each step.
        learning_rate: Peak learning rate of AdamW (betas 0.9, 0.99; no weight decay, no warm-up).
        schedule: constant, linear or cosine.
    """
    return {
        "output_dir": str(Path(tempfile.gettempdir()) / "tokenbuncher-trainer"),
        "seed": seed,
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate": learning_rate,
        "lr_scheduler_type": schedule,
        "warmup_steps": 0,
        "adam_beta2": 0.99,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": False,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
    }


def grpo_config(
    seed: int,
    steps: int,
    prompts_per_step: int,
    rollouts: int,
    learning_rate: float,
    max_new_tokens: int,
    schedule: str = "constant",
    temperature: float = 1.0,
    beta: float = 0.0,
) -> GRPOConfig:
    """On-policy GRPO: each step samples anew, advantages normalised by group, one update.

    Args:
        seed: Of sampling and data order.
        steps: Optimizer steps.
        prompts_per_step: Prompts in each step.
        rollouts: Responses sampled for each prompt, the group.
        learning_rate: See `trainer_arguments`.
        max_new_tokens: Longest response.
        schedule: constant, linear or cosine.
        temperature: Of the sampling.
        beta: Weight of the KL to the starting model in the loss.
    """
    return GRPOConfig(
        **trainer_arguments(seed, steps, prompts_per_step * rollouts, learning_rate, schedule),
        num_generations=rollouts,
        max_completion_length=max_new_tokens,
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        beta=beta,
        loss_type="bnpo",
        scale_rewards="group",
    )


def sft_config(seed: int, steps: int, batch: int, learning_rate: float, schedule: str = "constant") -> SFTConfig:
    """Supervised fine-tuning on the answers only; see `trainer_arguments`."""
    return SFTConfig(**trainer_arguments(seed, steps, batch, learning_rate, schedule), completion_only_loss=True)


def sft_dataset(prompts: Sequence[Prompt]) -> datasets.Dataset:
    """Prompts with their answers, as TRL's SFT takes them."""
    return datasets.Dataset.from_dict(
        {
            "prompt": [prompt.messages for prompt in prompts],
            "completion": [[{"role": "assistant", "content": prompt.answer}] for prompt in prompts],
        }
    )


def prompt_dataset(prompts: Sequence[Prompt], **columns: Sequence[Any]) -> datasets.Dataset:
    """Prompts as TRL takes them: conversations in column `prompt`, the answer in `answer`, and more columns."""
    return datasets.Dataset.from_dict(
        {
            "prompt": [prompt.messages for prompt in prompts],
            "answer": [prompt.answer or "" for prompt in prompts],
            **columns,
        }
    )


def trl_reward(reward: Reward, eos_token_ids: set[int]) -> Callable[..., list[float]]:
    """A TRL reward function from ours: prompt, response and whether it ended to a number."""

    def attacker_reward(
        prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **_: Any
    ) -> list[float]:
        return [
            reward(prompt[-1]["content"], completion[-1]["content"].strip(), bool(eos_token_ids & set(ids)))
            for prompt, completion, ids in zip(prompts, completions, completion_ids, strict=True)
        ]

    return attacker_reward


def eos_ids(model: Any) -> set[int]:
    """Token ids that end a response."""
    ends = model.generation_config.eos_token_id
    return set(ends if isinstance(ends, list) else [ends])


def run_training(trainer: Trainer) -> None:
    """Runs a trainer; progress is told by the callbacks here, not by transformers' own."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()


class StepLog(TrainerCallback):
    """Writes one JSON line a step and shows progress; `rows` keeps them."""

    def __init__(self, title: str, path: Path, steps: int) -> None:
        self.rows: list[dict[str, float]] = []
        self.path = path
        self.progress = Progress(title, steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **kwargs: Any,
    ) -> None:
        """Called by the trainer with its figures of one step."""
        figures = {name: logs[key] for key, name in METRICS.items() if key in (logs or {})}
        if not figures:
            return
        row = {"step": state.global_step, **figures}
        self.rows.append(row)
        with self.path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        shown = {key: figures[key] for key in ("reward", "entropy", "loss") if key in figures}
        self.progress.step(state.global_step, **shown)


class Probe(TrainerCallback):
    """Calls a measurement before the first step, every n steps and at the last; it may end the training."""

    def __init__(self, every: int, measure: Callable[[int], bool]) -> None:
        """
        Args:
            every: Steps between two measurements.
            measure: Takes the step; returns whether to stop.
        """
        self.every = every
        self.measure = measure

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures before any step."""
        self.measure(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measures at multiples of `every` and at the last step."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            control.should_training_stop = self.measure(state.global_step) or control.should_training_stop
