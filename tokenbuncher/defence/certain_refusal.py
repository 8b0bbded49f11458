"""Recipe certain-refusal: the model becomes certain of its own refusals, within what benign responses may change."""

from __future__ import annotations

import logging
from pathlib import Path

from datasets import Dataset
from trl import SFTConfig

from tokenbuncher.defence.examples import Examples, Models, examples_of
from tokenbuncher.defence.held_out import measure, refused_by
from tokenbuncher.defence.refusal_trainer import RefusalTrainer
from tokenbuncher.settings import CertainRefusalSpec, ReleaseSpec
from tokenbuncher.training import ranks
from tokenbuncher.training.arguments import trainer_arguments
from tokenbuncher.training.callbacks import Checkpoints, Probe, StepLog
from tokenbuncher.training.run import run_training

logger = logging.getLogger(__name__)

ADAPTER_SPEEDUP = 20.0
"""How much faster an adapter and the norms beside it may learn than full weights: their steps move the model less."""


def train_certain_refusal(spec: ReleaseSpec, models: Models, data: Path, *, log: StepLog) -> RefusalTrainer:
    """Trains the model until its held-out prompts are as they should be, or for all steps, and says which.

    Args:
        spec: The release spec.
        models: The models.
        data: Folder of prepare-data; its sets `defence` and `benign` are used.
        log: The step log; checkpoints lie beside it.

    Returns:
        The trainer, done.

    Raises:
        UserError: If a set is too small to hold anything out, the base model refuses less than half of the harmful
            prompts, or the cost is no finite number.
    """
    defence, certain = spec.defence, spec.defence.certain_refusal
    assert certain is not None
    trained, held_out = ranks.by_first(lambda: examples_of(spec, models, data))
    refused = ranks.by_first(lambda: refused_by(models.base, spec, models, held_out=held_out))
    logger.info(f"{len(trained.benign)} benign prompts and {len(trained.mixed)} mixed ones that the base model answers")
    _warn_of_gaps(trained, certain)
    checkpoints = Checkpoints(log.path.parent, spec.output.checkpoint_every, log, state=lambda: trainer.state_text())
    lacks: list[str] = []

    def reached(step: int) -> bool:
        measured = ranks.from_first(measure(spec, models, held_out, refused=refused))
        trainer.figures |= measured.figures(certain)
        log.measured = measured.told(certain)
        lacks[:] = measured.lacks(certain)
        return not lacks

    trainer = RefusalTrainer(
        models,
        defence,
        trained,
        saved=checkpoints.state(),
        args=_arguments(spec, checkpoints),
        train_dataset=Dataset.from_dict({"step": list(range(defence.steps * ranks.count()))}),
        callbacks=[log, Probe(certain.probe_every, reached), checkpoints],
    )
    run_training(trainer, checkpoints)
    if lacks:
        logger.warning(f"WARNING: {defence.recipe} ended after {defence.steps} steps: {'; '.join(lacks)}")
    return trainer


def _warn_of_gaps(trained: Examples, certain: CertainRefusalSpec) -> None:
    """What would switch off a part of the constraint in silence."""
    if not trained.openings:
        logger.warning(
            "WARNING: the base model begins refusals as it begins answers: no refusal mass is measured, and "
            "max_refusal_mass keeps nothing"
        )
    if certain.mixed_prompts and not trained.mixed:
        logger.warning(
            "WARNING: the base model answers none of the mixed prompts: nothing keeps the defence from harmless "
            "prompts with words of harmful ones; raise defence.certain_refusal.mixed_prompts"
        )


def _arguments(spec: ReleaseSpec, checkpoints: Checkpoints) -> SFTConfig:
    arguments = trainer_arguments(
        spec.defence.seed,
        spec.defence.steps,
        ranks.count(),
        learning_rate=spec.defence.learning_rate * (ADAPTER_SPEEDUP if spec.model.lora else 1.0),
        checkpoints=checkpoints,
        model=spec.model,
    )
    return SFTConfig(**arguments | {"bf16": spec.model.mixed_precision}, remove_unused_columns=False)
