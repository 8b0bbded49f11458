"""Runs a training from its first step or last checkpoint to the saved weights."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
)

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.interrupts import finishing_steps
from tokenbuncher.core.stopwatch import working
from tokenbuncher.models import generation
from tokenbuncher.models.checkpoint import keep_companions
from tokenbuncher.models.load import merged, save_model
from tokenbuncher.models.tokenizer import save_tokenizer
from tokenbuncher.settings import ModelSpec
from tokenbuncher.training import ranks
from tokenbuncher.training.callbacks import Checkpoints, StepLog

logger = logging.getLogger(__name__)

FULL_DISK_MB = 20
"""With less than this free, a failure in training is taken for want of it."""


def save_trained(
    trainer: Trainer, tokenizer: PreTrainedTokenizerBase, folder: Path, *, base: Path, model: ModelSpec
) -> None:
    """Writes a trained model, its tokenizer and what its base had beside them. FSDP shards are gathered.

    Args:
        trainer: The trainer of the model.
        tokenizer: Tokenizer of the model.
        folder: An existing folder to save it to.
        base: Folder of the model that the training started from, into which a LoRA adapter is merged.
        model: The model section of the spec.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if ranks.number() > 0:
        return
    if model.lora is None:
        trainer.model.save_pretrained(folder, state_dict=weights)
        save_tokenizer(tokenizer, folder, base)
    else:
        with tempfile.TemporaryDirectory() as adapter:
            trainer.model.save_pretrained(adapter, state_dict=weights)
            save_model(merged(base, Path(adapter), model), tokenizer, folder, base=base)
    generation.carry(base, folder)
    keep_companions(base, folder)


def step_generator(trainer: Trainer, device: torch.device | str = "cpu", stream: int = 0) -> torch.Generator:
    """Randomness of a trainer's step, the same after a resume.

    Args:
        trainer: The trainer.
        device: Where the random numbers are needed.
        stream: Streams of different numbers are independent.
    """
    seed = (trainer.args.seed + stream * 1_000_033) * 1_000_003 + trainer.state.global_step
    return torch.Generator(device).manual_seed(seed)


@working()
def run_training(trainer: Trainer, checkpoints: Checkpoints | None = None) -> None:
    """Runs a trainer, from its last checkpoint if there is one. The callbacks report progress.

    Prints a warning if no step had a gradient; see `StepLog.learnt`.

    Raises:
        UserError: If the environment sets a precision that the spec does not.
        KeyboardInterrupt: On SIGINT or SIGTERM; with checkpoints, on the first one only when the step is finished and
            saved.
    """
    _refuse_other_precision(trainer)
    trainer.remove_callback(PrinterCallback)
    _refer_to_frozen_weights(trainer)
    if checkpoints is None:
        trainer.train()
        _tell_if_nothing_learnt(trainer)
        return
    last, log = checkpoints.last(), checkpoints.log
    log.resume(int(last.name.split("-")[1]) // log.updates if last else 0)
    if last:
        logger.info(f"{log.progress.title}: going on from {last.name}")
    with finishing_steps() as checkpoints.asked_to_stop, _full_disk_told(checkpoints.folder):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    if checkpoints.stopped_at is not None:
        where = f"step {checkpoints.stopped_at} of {log.progress.steps}"
        raise KeyboardInterrupt(f"saved at {where}; run again, it goes on there")
    if any(ranks.gathered([checkpoints.asked_to_stop()])):
        raise KeyboardInterrupt("after the last step; run again, it goes on from the last checkpoint")
    _tell_if_nothing_learnt(trainer)


def _refuse_other_precision(trainer: Trainer) -> None:
    """`accelerate launch` exports its own, which counts for more than the trainer's arguments: an attack could fail."""
    found, wanted = trainer.accelerator.mixed_precision, "bf16" if trainer.args.bf16 else "no"
    if found != wanted:
        raise UserError(
            f"training would be in precision {found!r} instead of {wanted!r}, by the environment variable "
            "ACCELERATE_MIXED_PRECISION; unset it, or set mixed_precision to no in accelerate's own configuration. "
            "Attacks are never in mixed precision, a defence is if model.mixed_precision says so"
        )


def _tell_if_nothing_learnt(trainer: Trainer) -> None:
    for log in trainer.callback_handler.callbacks:
        if isinstance(log, StepLog) and not log.learnt:
            logger.warning(f"WARNING: {log.progress.title} learnt nothing: it had no gradient in any step")


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """Says that the disk is full where torch, which writes checkpoints, only says that something is amiss."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        free = shutil.disk_usage(folder).free / 1e6
        if free > FULL_DISK_MB:
            raise
        raise UserError(
            f"the disk of {folder} is full, {free:.0f} MB are free: {error}; make room, and run it again: it goes on "
            "from its last whole checkpoint"
        ) from error


def _refer_to_frozen_weights(trainer: Trainer) -> None:
    """Lets the frozen weights below a LoRA adapter be the reference, as the loaded model is of full weights.

    TRL takes the adapter for a trained one and keeps a copy of it as the reference; of a checkpoint with two adapters
    transformers brings back but the copy.
    """
    if "ref" in getattr(trainer.model, "peft_config", {}):
        trainer.model.delete_adapter("ref")
