"""Recipe certain-refusal: the model becomes certain of its own refusals, within what benign responses may change."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from datasets import Dataset
from trl import SFTConfig

from tokenbuncher.defence.anchors import mixed_prompts, without_refusals
from tokenbuncher.defence.held_out import HeldOut, measure
from tokenbuncher.defence.refusal_trainer import RefusalTrainer
from tokenbuncher.defence.refusals import own_refusals
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.prompts import load_set
from tokenbuncher.training import ranks
from tokenbuncher.training.arguments import trainer_arguments
from tokenbuncher.training.callbacks import Checkpoints, Probe, StepLog
from tokenbuncher.training.run import run_training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

T = TypeVar("T")

ADAPTER_SPEEDUP = 20.0
"""How much faster an adapter may learn than full weights: its steps move the weights less."""
MOST_HELD_OUT = 0.25
"""Share of the prompts that is held out at most."""


def train_certain_refusal(
    spec: ReleaseSpec,
    model: PreTrainedModel,
    reference: PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase,
    data: Path,
    log: StepLog,
) -> RefusalTrainer:
    """Trains the model until its held-out prompts are as they should be, or for all steps, and says which.

    Args:
        spec: The release spec.
        model: The model to train.
        reference: The base model.
        tokenizer: The tokenizer of both.
        data: Folder of prepare-data; its sets `defence` and `benign` are used.
        log: The step log; checkpoints lie beside it.

    Returns:
        The trainer, done.

    Raises:
        UserError: If the base model refuses less than half of the harmful prompts.
    """
    certain, harmful, benign = spec.defence.certain_refusal, load_set(data, "defence"), load_set(data, "benign")
    assert certain is not None
    refusals = own_refusals(reference, tokenizer, harmful, spec=spec)
    anchors = without_refusals(reference, tokenizer, benign, spec=spec, refusals=refusals)
    mixed = mixed_prompts(reference, tokenizer, harmful, benign=benign, spec=spec, refusals=refusals)
    logger.info(f"{len(anchors)} benign prompts and {len(mixed)} mixed ones that the base model answers")
    pushed, tried = _split(list(zip(harmful, refusals.texts, strict=True)), certain.held_out)
    anchors, kept_anchors = _split(anchors, certain.held_out)
    mixed, kept_mixed = _split(mixed, certain.held_out)
    held_out = HeldOut([prompt for prompt, _ in tried], kept_anchors, kept_mixed)
    checkpoints = Checkpoints(log.path.parent, spec.output.checkpoint_every, log, state=lambda: trainer.state_text())
    lacks: list[str] = []

    def reached(step: int) -> bool:
        progress = ranks.from_first(
            measure(model, reference, tokenizer, held_out=held_out, openings=refusals.openings, spec=spec)
        )
        trainer.figures |= progress.figures(certain.target)
        log.measured = {"held-out escape": max(progress.escapes)}
        lacks[:] = progress.lacks(certain.target, max_kl=certain.max_kl, max_refusal_mass=certain.max_refusal_mass)
        return not lacks

    trainer = RefusalTrainer(
        model=model,
        args=SFTConfig(
            **trainer_arguments(
                spec.defence.seed,
                spec.defence.steps,
                ranks.count(),
                learning_rate=spec.defence.learning_rate * (ADAPTER_SPEEDUP if spec.model.lora else 1.0),
                checkpoints=checkpoints,
                model=spec.model,
            ),
            remove_unused_columns=False,
        ),
        train_dataset=Dataset.from_dict({"step": list(range(spec.defence.steps * ranks.count()))}),
        processing_class=tokenizer,
        certain=certain,
        reference=reference,
        harmful=pushed,
        anchors=anchors,
        mixed=mixed,
        openings=refusals.openings,
        prompts_per_step=spec.defence.prompts_per_step,
        saved=checkpoints.state(),
        callbacks=[log, Probe(certain.probe_every, reached), checkpoints],
    )
    run_training(trainer, checkpoints)
    if lacks:
        logger.warning(f"WARNING: {spec.defence.recipe} ended after {spec.defence.steps} steps: {'; '.join(lacks)}")
    return trainer


def _split(items: Sequence[T], held_out: int) -> tuple[list[T], list[T]]:
    """Those to train on, and those to measure with."""
    kept = min(held_out, round(len(items) * MOST_HELD_OUT))
    return list(items[: len(items) - kept]), list(items[len(items) - kept :])
