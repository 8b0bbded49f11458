"""The defend stage: base model and prompts in, hardened model out."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import check_output, folder_digest, whole_folder
from tokenbuncher.core.version import __version__
from tokenbuncher.evidence import DEFENCE_STEPS
from tokenbuncher.models.lengths import check_lengths
from tokenbuncher.settings import DefenceSpec, ReleaseSpec
from tokenbuncher.settings.defence import WATCHED_EVERY
from tokenbuncher.settings.prompts import Prompt, load_set
from tokenbuncher.training import ranks

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, Trainer
    from trl import GRPOConfig

    from tokenbuncher.defence.examples import Models
    from tokenbuncher.training.callbacks import Checkpoints, StepLog

logger = logging.getLogger(__name__)

STEPS = "steps.jsonl"


def defend(spec: ReleaseSpec, data: Path, base: Path, *, out: Path, steps: Path | None = None) -> None:
    """Hardens the base model by the recipe of the spec.

    Args:
        spec: The release spec.
        data: Folder of prepare-data; its sets `defence` and `benign` are used.
        base: Folder of the base model.
        out: Folder to which the hardened model is written; with `recipe: none`, a copy of the base model. The
            step log is written beside it, to `<out>.steps.jsonl`.
        steps: Folder to which the step log is written as well, as `register` and `gate` take it; empty with
            `recipe: none`.

    An interrupted defence resumes from its last checkpoint, in `checkpoints/` below `spec.output.root`. With
    `compute.kind: trainjob` it runs on a cluster; see `tokenbuncher.training.cluster`.

    Raises:
        UserError: If data or model cannot be read, a prompt is too long for the model, nothing is learnt, another
            process runs this very defence, or its TrainJob fails.
    """
    check_lengths(spec, data, base)
    if steps:
        check_output(steps)
    _harden(spec, data, base, out=out)
    if steps and ranks.number() == 0:
        with whole_folder(steps) as folder:
            (folder / DEFENCE_STEPS).touch()
            if spec.defence.recipe != "none":
                shutil.copyfile(_beside(out), folder / DEFENCE_STEPS)


def _harden(spec: ReleaseSpec, data: Path, base: Path, *, out: Path) -> None:
    if spec.defence.recipe == "none":
        with whole_folder(out) as folder:
            shutil.copytree(base, folder, dirs_exist_ok=True)
        logger.info("recipe none: the candidate is the base model")
        return
    check_output(out)
    identity = __version__, spec.evidence_digest(), folder_digest(data), folder_digest(base)
    if spec.compute.kind == "trainjob":
        from tokenbuncher.training.cluster.run import run_stage

        run_stage(spec, "defend", {"data": data, "base": base}, out=out, identity=identity)
        return
    with ranks.stage_folders(spec.output.root / "checkpoints", identity, out) as (work, folder):
        _train(spec, data, base, folder=folder, work=work)
        if ranks.number() == 0:
            shutil.copyfile(work / STEPS, _beside(out))


def _beside(out: Path) -> Path:
    return out.with_name(f"{out.name}.{STEPS}")


def _train(spec: ReleaseSpec, data: Path, base: Path, *, folder: Path, work: Path) -> None:
    from tokenbuncher.defence.examples import Models
    from tokenbuncher.models.load import load_model, trainable
    from tokenbuncher.models.tokenizer import load_tokenizer
    from tokenbuncher.training.callbacks import StepLog
    from tokenbuncher.training.run import save_trained

    tokenizer = load_tokenizer(base)
    model = trainable(
        load_model(base, spec.model), spec.model, spec.defence.seed, norms=spec.defence.certain_refusal is not None
    )
    models = Models(model, load_model(base, spec.model), tokenizer)
    log = StepLog(spec.defence.recipe, work / STEPS, spec.defence.steps)
    if spec.defence.certain_refusal:
        from tokenbuncher.defence.certain_refusal import train_certain_refusal

        trainer: Trainer = train_certain_refusal(spec, models, data, log=log)
    else:
        trainer = _train_entropy(spec, models, data, log=log)
    if not log.learnt:
        raise UserError("the defence learnt nothing: it had no gradient in any step; see its step log, and the spec")
    save_trained(trainer, tokenizer, folder, base=base, model=spec.model)


def _train_entropy(spec: ReleaseSpec, models: Models, data: Path, *, log: StepLog) -> Trainer:
    """Trains the model by its entropy, and returns its trainer."""
    from tokenbuncher.defence.anchors import own_responses
    from tokenbuncher.defence.kept_refusals import KeptRefusals
    from tokenbuncher.defence.trainer import TokenBuncherTrainer
    from tokenbuncher.training.callbacks import Checkpoints, Probe
    from tokenbuncher.training.run import run_training

    harmful, benign = load_set(data, "defence"), load_set(data, "benign")
    _warn_of_noise(spec.defence)
    refusals = KeptRefusals(spec, models, spec.data.judged_by(harmful))
    checkpoints = Checkpoints(log.path.parent, spec.output.checkpoint_every, log)

    def watch(step: int) -> bool:
        refused = refusals.share(step)
        trainer.log_refused(refused)
        log.measured = {"refused": refused}
        return False

    trainer = TokenBuncherTrainer(
        model=models.model,
        args=_arguments(spec, models.model, checkpoints),
        train_dataset=_rows(spec.defence, harmful, benign),
        processing_class=models.tokenizer,
        defence=spec.defence,
        reference=models.base,
        anchors=own_responses(models.base, models.tokenizer, benign, spec=spec) if spec.defence.anchor else [],
        callbacks=[log, Probe(WATCHED_EVERY, watch), checkpoints],
    )
    run_training(trainer, checkpoints)
    return trainer


def _warn_of_noise(defence: DefenceSpec) -> None:
    from tokenbuncher.defence.noiser import resting_noise

    noiser = defence.noiser
    if noiser and round(noiser.stop * defence.steps) == defence.steps:
        logger.warning(
            "WARNING: the noiser goes on to the last step. Where rewards do not differ any more, it alone moves the "
            f"model, to where each token of a refusal is another one with a probability of "
            f"{resting_noise(noiser.weight, form=noiser.form):.2g}; lower defence.noiser.stop"
        )


def _arguments(spec: ReleaseSpec, model: PreTrainedModel, checkpoints: Checkpoints) -> GRPOConfig:
    from trl import GRPOConfig

    from tokenbuncher.models.generation import eos_ids
    from tokenbuncher.training.arguments import ALL_ROLLOUTS, sampling_arguments, trainer_arguments, vllm_arguments

    defence = spec.defence
    return GRPOConfig(
        **trainer_arguments(
            defence.seed,
            defence.steps,
            defence.prompts_per_step * defence.rollouts,
            learning_rate=defence.learning_rate,
            schedule=defence.schedule,
            checkpoints=checkpoints,
            group=defence.rollouts,
            model=spec.model,
        )
        | {"bf16": spec.model.mixed_precision},
        **sampling_arguments(defence.rollouts, spec.model.max_new_tokens, defence.temperature),
        **vllm_arguments(spec.compute.vllm, eos_ids(model)),
        **ALL_ROLLOUTS,
        beta=0.0,
        loss_type="dapo",
    )


def _rows(defence: DefenceSpec, harmful: list[Prompt], benign: list[Prompt]) -> Dataset:
    """The prompts to train on. Their share of benign ones is that of a step, on average."""
    from tokenbuncher.training.examples import filling, prompt_dataset

    rewarded = benign[: len(harmful) * defence.benign_prompts // (defence.prompts_per_step - defence.benign_prompts)]
    rows = [*((prompt, True) for prompt in harmful), *((prompt, False) for prompt in rewarded)]
    prompts, is_harmful = zip(*filling(rows, defence.prompts_per_step), strict=True)
    return prompt_dataset(prompts, harmful=is_harmful)
