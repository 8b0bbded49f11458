"""Arguments of TRL's trainers, set so that nothing is cut, dropped or masked."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

from trl import SFTConfig
from trl.import_utils import is_vllm_available

from tokenbuncher.core.errors import UserError
from tokenbuncher.models.load import device_of
from tokenbuncher.settings import ModelSpec, VllmSpec
from tokenbuncher.training import ranks
from tokenbuncher.training.callbacks import Checkpoints

# Here TRL must not cut, drop or mask anything. What is too long for a model is refused beforehand.
WHOLE_ANSWERS = {"completion_only_loss": True, "max_length": None, "packing": False, "padding_free": False}
"""For SFT: the loss covers the answers only, of all examples."""

WHOLE_PAIRS = {"max_length": None, "padding_free": False}
"""For DPO."""

ALL_ROLLOUTS = {
    "mask_truncated_completions": False,
    "top_entropy_quantile": 1.0,
    "vllm_importance_sampling_mode": "token_truncate",
}
"""For GRPO and trainers derived from it: every rollout counts, and every token of it."""


ALWAYS = {
    "warmup_steps": 0,
    "adam_beta2": 0.99,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "ddp_find_unused_parameters": False,
    "bf16": False,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "dataloader_pin_memory": False,
    "dataloader_drop_last": False,
    "dataloader_num_workers": 0,
    "gradient_accumulation_steps": 1,
    "pad_to_multiple_of": None,
    "report_to": [],
    "disable_tqdm": True,
    "save_total_limit": 2,
}
"""For every trainer."""


def trainer_arguments(
    seed: int,
    steps: int,
    batch: int,
    *,
    learning_rate: float,
    schedule: str = "constant",
    checkpoints: Checkpoints | None = None,
    updates: int = 1,
    adam_epsilon: float = 1e-8,
    group: int = 1,
    model: ModelSpec | None = None,
) -> dict[str, Any]:
    """Arguments that every TRL trainer here takes.

    Args:
        seed: Seed of sampling, data order and dropout.
        steps: Number of batches to learn from.
        batch: Sequences in each step, distributed among the processes.
        learning_rate: Peak learning rate of AdamW (betas 0.9, 0.99; no weight decay, no warm-up).
        schedule: Learning rate schedule: constant, linear or cosine.
        checkpoints: Where checkpoints are saved. Without them, the training cannot be resumed.
        updates: Optimizer updates in each step.
        adam_epsilon: Term that Adam adds to the square root of its second moment.
        group: Sequences of one prompt. A process gets all of them or none.
        model: Settings of device and gradient checkpointing. Defaults to those of `ModelSpec`.

    Raises:
        UserError: If the processes cannot have equal shares.
    """
    model = model or ModelSpec()
    return {
        **deepcopy(ALWAYS),
        "output_dir": str(checkpoints.folder if checkpoints else Path(tempfile.gettempdir()) / "tokenbuncher-trainer"),
        "seed": seed,
        "max_steps": steps * updates,
        "per_device_train_batch_size": group * ranks.share(batch // group, "prompts in a step"),
        "learning_rate": learning_rate,
        "lr_scheduler_type": schedule,
        "adam_epsilon": adam_epsilon,
        "gradient_checkpointing": model.gradient_checkpointing,
        "use_cpu": device_of(model) == "cpu",
        "logging_steps": updates,
        "save_strategy": "steps" if checkpoints else "no",
        "save_steps": checkpoints.every * updates if checkpoints else 500,
    }


def sampling_arguments(rollouts: int, max_new_tokens: int, temperature: float = 1.0) -> dict[str, Any]:
    """Arguments of TRL's online trainers: responses are sampled from the whole distribution.

    Args:
        rollouts: Responses sampled for each prompt, which form a group.
        max_new_tokens: Length limit of a response, in tokens.
        temperature: Sampling temperature.
    """
    return {
        "num_generations": rollouts,
        "max_completion_length": max_new_tokens,
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "remove_unused_columns": False,
    }


def vllm_arguments(vllm: VllmSpec | None, ends: set[int]) -> dict[str, Any]:
    """Arguments of TRL's online trainers for sampling responses by vLLM; empty without vLLM.

    Args:
        vllm: Settings of vLLM; None to sample without it.
        ends: Token ids that end a response. vLLM itself knows only those of the model's own files.

    Raises:
        UserError: If vLLM is not installed.
    """
    if vllm is None:
        return {}
    if not is_vllm_available():
        raise UserError("compute.vllm: vLLM is not installed here; pip install 'trl[vllm]' on a machine with GPUs")
    return {
        "use_vllm": True,
        "vllm_mode": vllm.mode,
        "vllm_gpu_memory_utilization": vllm.gpu_memory_utilization,
        "generation_kwargs": {"stop_token_ids": sorted(ends)},
    }


def sft_config(
    seed: int,
    steps: int,
    batch: int,
    *,
    learning_rate: float,
    schedule: str = "constant",
    model: ModelSpec | None = None,
) -> SFTConfig:
    """Supervised fine-tuning on the answers only; see `trainer_arguments`."""
    arguments = trainer_arguments(seed, steps, batch, learning_rate=learning_rate, schedule=schedule, model=model)
    return SFTConfig(**arguments, **WHOLE_ANSWERS)
