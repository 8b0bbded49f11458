"""Answers of a model to the questions of a prompt set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbuncher.evaluation.answers import judge_answer, repetition
from tokenbuncher.evidence import UtilityItem
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
