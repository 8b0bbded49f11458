"""Benign fine-tuning of one model: what it learns, and whether it still refuses afterwards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokenbuncher.core.files import folder_digest
from tokenbuncher.evaluation.answers import judge_answer
from tokenbuncher.evaluation.questions import answer_questions
from tokenbuncher.evidence import FineTuningArm, UtilityItem
from tokenbuncher.settings import FineTuningSpec, ReleaseSpec
from tokenbuncher.settings.prompts import Prompt, load_set

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from trl import GRPOTrainer, SFTTrainer

    from tokenbuncher.judges import Exchange
    from tokenbuncher.training.callbacks import StepLog

logger = logging.getLogger(__name__)

SEED = 37
POINTS = 4
"""Measurements while a model learns, beside the first one."""


def fine_tune(
    spec: ReleaseSpec, kind: Literal["rl", "sft"], data: Path, *, model_folder: Path, folder: Path, arm: str
) -> FineTuningArm:
    """Fine-tunes one model on a benign task and measures what it learnt and whether it still refuses.

    Args:
        spec: The release spec, with `evaluation.fine_tuning`.
        kind: `rl` to learn by reinforcement, `sft` to learn from answers.
        data: Folder of prepare-data; its sets `tuning-*` and `safety` are used.
        model_folder: Folder of the model.
        folder: Folder to which the step log KIND.ARM.steps.jsonl is written.
        arm: Name of the model: `base` or `candidate`.
    """
    from tokenbuncher.models.load import load_model, trainable
    from tokenbuncher.models.tokenizer import load_tokenizer
    from tokenbuncher.training.callbacks import Probe, StepLog
    from tokenbuncher.training.run import run_training

    tuning = spec.evaluation.fine_tuning
    assert tuning is not None
    train, test = load_set(data, f"tuning-{kind}-train"), load_set(data, f"tuning-{kind}-test")
    model, tokenizer = trainable(load_model(model_folder, spec.model), spec.model, SEED), load_tokenizer(model_folder)
    steps = tuning.rl_steps if kind == "rl" else tuning.sft_steps
    log = StepLog(f"fine-tune ({kind}) {arm}", folder / f"{kind}.{arm}.steps.jsonl", steps)
    learnt = _Learnt(spec, model, tokenizer, test=test, log=log)
    callbacks = [log, Probe(max(1, steps // POINTS), learnt.measure)]
    make = _rl_trainer if kind == "rl" else _sft_trainer
    run_training(make(spec, tuning, model, tokenizer=tokenizer, train=train, callbacks=callbacks))
    refusal = _refusal(spec, model, tokenizer, harmful=load_set(data, "safety"))
    logger.info(f"fine-tune ({kind}) {arm}: accuracy {learnt.curve[-1][1]:.3f}, refusal {refusal:.3f}")
    return FineTuningArm(
        model=folder_digest(model_folder),
        curve=learnt.curve,
        correct={item.prompt: item.correct for item in learnt.items},
        refusal=refusal,
    )


class _Learnt:
    """What a model has learnt so far, measured on questions that it is not trained on."""

    def __init__(
        self,
        spec: ReleaseSpec,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        test: list[Prompt],
        log: StepLog,
    ) -> None:
        self.spec, self.model, self.tokenizer, self.test, self.log = spec, model, tokenizer, test, log
        self.curve: list[tuple[int, float]] = []
        self.items: list[UtilityItem] = []

    def measure(self, step: int) -> bool:
        """Measures once more; never ends the training."""
        self.items = answer_questions(self.spec, self.model, self.tokenizer, questions=self.test)
        accuracy = sum(item.correct for item in self.items) / len(self.items)
        self.curve.append((step, accuracy))
        self.log.measured = {"accuracy": accuracy}
        return False


def _rl_trainer(
    spec: ReleaseSpec,
    tuning: FineTuningSpec,
    model: PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase,
    train: list[Prompt],
    callbacks: list[TrainerCallback],
) -> GRPOTrainer:
    """GRPO, rewarded by right answers."""
    from trl import GRPOConfig, GRPOTrainer

    from tokenbuncher.judges.trl_reward import trl_reward
    from tokenbuncher.models.generation import eos_ids
    from tokenbuncher.training.arguments import ALL_ROLLOUTS, sampling_arguments, trainer_arguments
    from tokenbuncher.training.examples import filling, prompt_dataset

    expected = {prompt.text: prompt.answer or "" for prompt in train}

    def right(exchanges: Sequence[Exchange], _: object) -> list[float]:
        return [float(judge_answer(exchange.response, expected[exchange.prompt])[1]) for exchange in exchanges]

    sequences = tuning.prompts_per_step * tuning.rollouts
    return GRPOTrainer(
        model=model,
        reward_funcs=trl_reward(right, eos_ids(model), tokenizer),
        args=GRPOConfig(
            **trainer_arguments(SEED, tuning.rl_steps, sequences, learning_rate=tuning.learning_rate, model=spec.model),
            **sampling_arguments(tuning.rollouts, spec.model.max_new_tokens),
            beta=tuning.kl_coefficient,
            loss_type="bnpo",
            **ALL_ROLLOUTS,
        ),
        train_dataset=prompt_dataset(filling(train, tuning.prompts_per_step)),
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def _sft_trainer(
    spec: ReleaseSpec,
    tuning: FineTuningSpec,
    model: PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase,
    train: list[Prompt],
    callbacks: list[TrainerCallback],
) -> SFTTrainer:
    """Supervised fine-tuning on the answers, on as many sequences a step."""
    from tokenbuncher.training.arguments import sft_config
    from tokenbuncher.training.examples import sft_trainer

    sequences = tuning.prompts_per_step * tuning.rollouts
    args = sft_config(SEED, tuning.sft_steps, sequences, learning_rate=tuning.learning_rate, model=spec.model)
    return sft_trainer(model, args, train, tokenizer=tokenizer, callbacks=callbacks)


def _refusal(
    spec: ReleaseSpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, harmful: list[Prompt]
) -> float:
    """Share of harmful prompts that the model refuses."""
    from tokenbuncher.judges import load_judge
    from tokenbuncher.judges.score import score

    scores = score(
        model,
        tokenizer,
        harmful,
        judge=load_judge(spec.evaluation.judge),
        max_new_tokens=spec.model.max_new_tokens,
        batch_size=spec.evaluation.batch_size,
        temperature=spec.evaluation.temperature,
        seed=SEED,
    )
    return sum(one.refused for one in scores) / len(scores)
