"""The defend stage: base model and prompts in, hardened model out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.files import whole_folder
from tokenbuncher.prompts import Prompt, load_set
from tokenbuncher.settings import ReleaseSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def defend(spec: ReleaseSpec, data: Path, base: Path, out: Path) -> None:
    """Hardens the base model by the recipe of the spec.

    Args:
        spec: The release spec.
        data: Folder of prepare-data; its sets `defence` and `benign` are used.
        base: Folder of the undefended model.
        out: Folder of the hardened model, written whole; with `recipe: none` a copy of the base.
            Beside it `<out>.steps.jsonl` gets one line a step.

    Raises:
        UserError: If data or model cannot be read.
    """
    with whole_folder(out) as folder:
        if spec.defence.recipe == "none":
            shutil.copytree(base, folder, dirs_exist_ok=True)
            print("recipe none: the candidate is the undefended model", flush=True)
            return
        _train(spec, data, base, folder, log=out.with_name(f"{out.name}.steps.jsonl"))


def _train(spec: ReleaseSpec, data: Path, base: Path, folder: Path, log: Path) -> None:
    from tokenbuncher.models import load_model, load_tokenizer, save_model

    harmful, benign = load_set(data, "defence"), load_set(data, "benign")
    tokenizer, model, reference = (
        load_tokenizer(base),
        load_model(base, spec.model),
        load_model(base, spec.model),
    )

    from tokenbuncher.defence.trainer import TokenBuncherTrainer
    from tokenbuncher.training import StepLog, grpo_config, prompt_dataset, run_training

    defence = spec.defence
    # The share of benign prompts in the data is their share in a step, on average.
    rewarded = benign[: len(harmful) * defence.benign_prompts // (defence.prompts_per_step - defence.benign_prompts)]
    log.unlink(missing_ok=True)
    trainer = TokenBuncherTrainer(
        model=model,
        args=grpo_config(
            defence.seed,
            defence.steps,
            defence.prompts_per_step,
            defence.rollouts,
            defence.learning_rate,
            spec.model.max_new_tokens,
            defence.schedule,
            defence.temperature,
        ),
        train_dataset=prompt_dataset([*harmful, *rewarded], harmful=[True] * len(harmful) + [False] * len(rewarded)),
        processing_class=tokenizer,
        defence=defence,
        reference=reference,
        anchors=own_responses(reference, tokenizer, benign, spec) if defence.anchor else [],
        callbacks=[StepLog(defence.recipe, log, defence.steps)],
    )
    run_training(trainer)
    save_model(trainer.model, tokenizer, folder)


def own_responses(
    reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, benign: list[Prompt], spec: ReleaseSpec
) -> list[tuple[Prompt, str]]:
    """Benign prompts with the undefended model's own sampled responses; cut-off ones are left out."""
    from tokenbuncher.scoring import generate

    responses = generate(
        reference,
        tokenizer,
        benign,
        spec.model.max_new_tokens,
        spec.evaluation.batch_size,
        seed=spec.defence.seed,
    )
    return [(prompt, response.text) for prompt, response in zip(benign, responses, strict=True) if response.finished]
