"""The evaluate-utility stage: answers to benign questions, and whether both models still learn."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from tokenbuncher.core.environment import installed_versions
from tokenbuncher.core.files import check_output, folder_digest, whole_folder
from tokenbuncher.core.version import __version__
from tokenbuncher.evaluation.answers import judge_answer, repetition
from tokenbuncher.evaluation.harness import ask, load_tasks
from tokenbuncher.evidence import FineTuning, FineTuningArm, UtilityEvidence, UtilityItem, write_evidence
from tokenbuncher.models.lengths import check_lengths
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.prompts import Prompt, load_set
from tokenbuncher.verdict.claims import settled
from tokenbuncher.verdict.looks import parts
from tokenbuncher.verdict.rules.utility import utility_claims

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SEED = 37
POINTS = 4


def evaluate_utility(spec: ReleaseSpec, data: Path, base: Path, *, candidate: Path, out: Path) -> None:
    """Answers utility questions greedily with both models, then fine-tunes both on benign tasks.

    Questions are asked until the rules on the answers are settled.

    Args:
        spec: The release spec; without `evaluation.fine_tuning` there is none. Questions are those of the set
            `utility`, and those of `evaluation.harness`, if there is one.
        data: Folder of prepare-data; its sets `utility`, `safety` and `tuning-*` are used.
        base: Folder of the undefended model.
        candidate: Folder of the model to be released.
        out: Folder to be written: evidence.json.

    Raises:
        UserError: If data or a model cannot be read, or lm-evaluation-harness or one of its tasks is not there.
    """
    check_output(out)
    check_lengths(spec, data, base)
    questions = load_set(data, "utility")
    tasks = load_tasks(spec.evaluation.harness) if spec.evaluation.harness else {}
    with whole_folder(out) as folder:
        base_items: list[UtilityItem] = []
        candidate_items: list[UtilityItem] = []
        for look, part in enumerate(parts(questions, spec.evaluation.looks, spec.data.seed)):
            others = {} if look else tasks  # the harness asks at once all that it has
            base_items += _answer(spec, base, part, tasks=others, title="base")
            candidate_items += _answer(spec, candidate, part, tasks=others, title="candidate")
            if settled(utility_claims(spec, base_items, candidate_items)):
                break
        evidence = UtilityEvidence(
            spec=spec.evidence_digest(),
            data=folder_digest(data),
            base=folder_digest(base),
            candidate=folder_digest(candidate),
            tool_version=__version__,
            versions=installed_versions(),
            created=datetime.now(UTC),
            base_items=base_items,
            candidate_items=candidate_items,
            fine_tuning=[
                FineTuning(
                    kind=kind,
                    base=_fine_tune(spec, kind, data, model_folder=base, folder=folder, arm="base"),
                    candidate=_fine_tune(spec, kind, data, model_folder=candidate, folder=folder, arm="candidate"),
                )
                for kind in (("rl", "sft") if spec.evaluation.fine_tuning else ())
            ],
        )
        write_evidence(folder, evidence)


def _answer(
    spec: ReleaseSpec, model_folder: Path, questions: list[Prompt], *, tasks: dict[str, list[Task]], title: str
) -> list[UtilityItem]:
    from tokenbuncher.models.load import load_model
    from tokenbuncher.models.tokenizer import load_tokenizer

    model, tokenizer = load_model(model_folder, spec.model), load_tokenizer(model_folder)
    items = answer_questions(spec, model, tokenizer, questions=questions)
    if tasks:
        items += ask(spec, tasks, model, tokenizer=tokenizer)
    for name in (None, *tasks):
        correct = [item.correct for item in items if item.harness == name]
        logger.info(f"{title}  {name or 'utility'}: accuracy {fmean(correct):.3f} on {len(correct)} questions")
    return items


def answer_questions(
    spec: ReleaseSpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, questions: list[Prompt]
) -> list[UtilityItem]:
    """Greedy answers, each judged against the expected one; an answer that cannot be parsed is wrong."""
    from tokenbuncher.models.sampling import generate

    responses = generate(
        model,
        tokenizer,
        questions,
        max_new_tokens=spec.model.max_new_tokens,
        batch_size=spec.evaluation.batch_size,
        temperature=None,
    )
    items = []
    for question, response in zip(questions, responses, strict=True):
        parsed, correct = judge_answer(response.text, question.answer or "")
        items.append(
            UtilityItem(
                prompt=question.id,
                task=question.task,
                harness=None,
                options=question.options,
                correct=correct,
                parsed=parsed,
                finished=response.finished,
                tokens=response.tokens,
                repetition=repetition(response.text),
            )
        )
    return items


def _fine_tune(
    spec: ReleaseSpec, kind: Literal["rl", "sft"], data: Path, *, model_folder: Path, folder: Path, arm: str
) -> FineTuningArm:
    """Fine-tunes one model on a benign task and measures what it learnt and whether it still refuses."""
    from trl import GRPOConfig, GRPOTrainer, SFTTrainer

    from tokenbuncher.judges import load_judge
    from tokenbuncher.judges.score import score
    from tokenbuncher.judges.trl_reward import trl_reward
    from tokenbuncher.models.generation import eos_ids
    from tokenbuncher.models.load import load_model, trainable
    from tokenbuncher.models.tokenizer import load_tokenizer
    from tokenbuncher.training.arguments import ALL_ROLLOUTS, sampling_arguments, sft_config, trainer_arguments
    from tokenbuncher.training.callbacks import Probe, StepLog
    from tokenbuncher.training.examples import filling, prompt_dataset, sft_trainer
    from tokenbuncher.training.run import run_training

    tuning = spec.evaluation.fine_tuning
    assert tuning is not None
    train, test = load_set(data, f"tuning-{kind}-train"), load_set(data, f"tuning-{kind}-test")
    model, tokenizer = trainable(load_model(model_folder, spec.model), spec.model, SEED), load_tokenizer(model_folder)
    curve: list[tuple[int, float]] = []
    items: list[UtilityItem] = []

    def measure(step: int) -> bool:
        items[:] = answer_questions(spec, model, tokenizer, questions=test)
        curve.append((step, sum(item.correct for item in items) / len(items)))
        log.measured = {"accuracy": curve[-1][1]}
        return False

    steps = tuning.rl_steps if kind == "rl" else tuning.sft_steps
    sequences = tuning.prompts_per_step * tuning.rollouts
    log = StepLog(f"fine-tune ({kind}) {arm}", folder / f"{kind}.{arm}.steps.jsonl", steps)
    callbacks = [log, Probe(max(1, steps // POINTS), measure)]
    trainer: GRPOTrainer | SFTTrainer
    if kind == "rl":
        expected = {prompt.text: prompt.answer or "" for prompt in train}
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=trl_reward(
                lambda exchanges, _: [
                    float(judge_answer(exchange.response, expected[exchange.prompt])[1]) for exchange in exchanges
                ],
                eos_ids(model),
                tokenizer,
            ),
            args=GRPOConfig(
                **trainer_arguments(SEED, steps, sequences, learning_rate=tuning.learning_rate, model=spec.model),
                **sampling_arguments(tuning.rollouts, spec.model.max_new_tokens),
                beta=tuning.kl_coefficient,
                loss_type="bnpo",
                **ALL_ROLLOUTS,
            ),
            train_dataset=prompt_dataset(filling(train, tuning.prompts_per_step)),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
    else:
        args = sft_config(SEED, steps, sequences, learning_rate=tuning.learning_rate, model=spec.model)
        trainer = sft_trainer(model, args, train, tokenizer=tokenizer, callbacks=callbacks)
    run_training(trainer)
    scores = score(
        model,
        tokenizer,
        load_set(data, "safety"),
        judge=load_judge(spec.evaluation.judge),
        max_new_tokens=spec.model.max_new_tokens,
        batch_size=spec.evaluation.batch_size,
        temperature=spec.evaluation.temperature,
        seed=SEED,
    )
    refusal = sum(one.refused for one in scores) / len(scores)
    logger.info(f"fine-tune ({kind}) {arm}: accuracy {curve[-1][1]:.3f}, refusal {refusal:.3f}")
    return FineTuningArm(
        model=folder_digest(model_folder),
        curve=curve,
        correct={item.prompt: item.correct for item in items},
        refusal=refusal,
    )
