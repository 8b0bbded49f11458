"""The defend stage: base model and prompts in, hardened model out."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import check_output, folder_digest, whole_folder
from tokenbuncher.core.version import __version__
from tokenbuncher.models.lengths import check_lengths
from tokenbuncher.settings import DefenceSpec, ReleaseSpec
from tokenbuncher.settings.prompts import Prompt, load_set
from tokenbuncher.training import ranks

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import GRPOConfig

    from tokenbuncher.training.callbacks import Checkpoints

logger = logging.getLogger(__name__)

STEPS = "steps.jsonl"


def defend(spec: ReleaseSpec, data: Path, base: Path, *, out: Path) -> None:
    """Hardens the base model by the recipe of the spec.

    Args:
        spec: The release spec.
        data: Folder of prepare-data; its sets `defence` and `benign` are used.
        base: Folder of the base model.
        out: Folder to which the hardened model is written; with `recipe: none`, a copy of the base model. The
            step log is written beside it, to `<out>.steps.jsonl`.

    An interrupted defence resumes from its last checkpoint, in `checkpoints/` below `spec.output.root`. With
    `compute.kind: trainjob` it runs on a cluster; see `tokenbuncher.training.cluster`.

    Raises:
        UserError: If data or model cannot be read, a prompt is too long for the model, nothing is learnt, another
            process runs this very defence, or its TrainJob fails.
    """
    check_lengths(spec, data, base)
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
            shutil.copyfile(work / STEPS, out.with_name(f"{out.name}.{STEPS}"))


def _train(spec: ReleaseSpec, data: Path, base: Path, *, folder: Path, work: Path) -> None:
    from tokenbuncher.models.load import load_model, trainable
    from tokenbuncher.models.tokenizer import load_tokenizer

    harmful, benign = load_set(data, "defence"), load_set(data, "benign")
    tokenizer, model, reference = (
        load_tokenizer(base),
        trainable(load_model(base, spec.model), spec.model, spec.defence.seed),
        load_model(base, spec.model),
    )

    from tokenbuncher.defence.trainer import TokenBuncherTrainer
    from tokenbuncher.training.callbacks import Checkpoints, StepLog
    from tokenbuncher.training.run import run_training, save_trained

    defence = spec.defence
    log = StepLog(defence.recipe, work / STEPS, defence.steps)
    checkpoints = Checkpoints(work, spec.output.checkpoint_every, log)
    trainer = TokenBuncherTrainer(
        model=model,
        args=_arguments(spec, model, checkpoints),
        train_dataset=_rows(defence, harmful, benign),
        processing_class=tokenizer,
        defence=defence,
        reference=reference,
        anchors=own_responses(reference, tokenizer, benign, spec=spec) if defence.anchor else [],
        callbacks=[log, checkpoints],
    )
    run_training(trainer, checkpoints)
    if not log.learnt:
        raise UserError("the defence learnt nothing: it had no gradient in any step; see its step log, and the spec")
    save_trained(trainer, tokenizer, folder, base=base, model=spec.model)


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
        ),
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


def own_responses(
    reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, benign: list[Prompt], *, spec: ReleaseSpec
) -> list[tuple[Prompt, str]]:
    """Benign prompts with the base model's own sampled responses.

    Those cut off at `model.max_new_tokens` are anchors too: the KL compares the models at every token they have.
    """
    from tokenbuncher.models.sampling import generate

    responses = generate(
        reference,
        tokenizer,
        benign,
        max_new_tokens=spec.model.max_new_tokens,
        batch_size=spec.evaluation.batch_size,
        seed=spec.defence.seed,
    )
    return [(prompt, response.whole) for prompt, response in zip(benign, responses, strict=True)]
