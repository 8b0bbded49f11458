"""The evaluate-utility stage: answers to benign questions, and whether both models still learn."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from tokenbuncher.core.environment import installed_versions
from tokenbuncher.core.files import check_output, folder_digest, whole_folder
from tokenbuncher.core.version import __version__
from tokenbuncher.evaluation.fine_tuning import fine_tune
from tokenbuncher.evaluation.harness import ask, load_tasks
from tokenbuncher.evaluation.questions import answer_questions
from tokenbuncher.evidence import FineTuning, UtilityEvidence, UtilityItem, write_evidence
from tokenbuncher.models.lengths import check_lengths
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.prompts import Prompt, load_set
from tokenbuncher.verdict.claims import settled
from tokenbuncher.verdict.looks import parts
from tokenbuncher.verdict.rules.utility import utility_claims

if TYPE_CHECKING:
    from lm_eval.api.task import Task

logger = logging.getLogger(__name__)


def evaluate_utility(spec: ReleaseSpec, data: Path, base: Path, *, candidate: Path, out: Path) -> None:
    """Answers utility questions greedily with both models, then fine-tunes both on benign tasks.

    Questions are asked until the rules on the answers are settled.

    Args:
        spec: The release spec. Without `evaluation.fine_tuning` nothing is fine-tuned. The questions are those of
            the set `utility`, and of `evaluation.harness` if it is given.
        data: Folder of prepare-data; its sets `utility`, `safety` and `tuning-*` are used.
        base: Folder of the base model.
        candidate: Folder of the model to be released.
        out: Folder to which evidence.json is written.

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
                    base=fine_tune(spec, kind, data, model_folder=base, folder=folder, arm="base"),
                    candidate=fine_tune(spec, kind, data, model_folder=candidate, folder=folder, arm="candidate"),
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
