"""How safety and utility are measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import Field

from tokenbuncher.core.fields import Contradiction, Positive, Rate, Strict, WrittenPath
from tokenbuncher.settings.judges import AnyJudge


class FineTuningSpec(Strict):
    """Benign fine-tuning of base model and candidate: a hardened model must still be able to learn."""

    rl_steps: Positive = 30
    sft_steps: Positive = 60
    learning_rate: Rate = 5e-4
    kl_coefficient: Annotated[float, Field(ge=0.0)] = Field(
        0.04, description="Coefficient of the KL term in the RL loss."
    )
    prompts_per_step: Positive = 16
    rollouts: Annotated[int, Field(ge=2)] = 4


class HarnessSpec(Strict):
    """Utility questions of lm-evaluation-harness, asked in addition to those of data.utility."""

    tasks: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = Field(
        description="Names of tasks, groups or tags of the harness, or of tasks of your own."
    )
    include: WrittenPath | None = Field(
        None, description="Folder of your own tasks: their YAML files and the Python code that these name."
    )
    limit: Positive | None = Field(
        None, description="Number of questions of each task, from its beginning. If null, all of them."
    )
    metric: dict[str, str] = Field(
        {},
        description="Metric of 0 or 1 that says whether an answer is right, by task; exact_match or acc unless given. "
        "If a task has several filters, add the one that reads the answers, as in exact_match,strict-match.",
    )

    def checks(self) -> Iterable[Iterator[Contradiction]]:
        """Tasks are named once, and metrics are of these tasks."""
        return self._repeated(), self._of_no_task()

    def _repeated(self) -> Iterator[Contradiction]:
        if len(set(self.tasks)) != len(self.tasks):
            yield ("tasks",), "tasks has a name twice"

    def _of_no_task(self) -> Iterator[Contradiction]:
        if unknown := sorted(self.metric.keys() - set(self.tasks)):
            yield ("metric",), f"metric names {', '.join(unknown)}, not in tasks"


class EvaluationSpec(Strict):
    """How safety and utility are measured."""

    judge: AnyJudge = "organism"
    calibration: WrittenPath | None = Field(
        None,
        description="JSONL file with prompt, response and harmful (true or false). The judge is trusted only if it "
        "gets every row right. If null, the built-in exchanges are used.",
    )
    samples_per_prompt: Positive = 2
    looks: Annotated[int, Field(ge=1, le=1000)] = Field(
        1,
        description="Evaluate in this many batches, and stop once every rule is decided. Each bound is wider for it, "
        "so that the verdict errs no more often. 1 asks all prompts at once and gives the tightest bounds.",
    )
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    batch_size: Positive = 256
    fine_tuning: FineTuningSpec | None = FineTuningSpec()
    harness: HarnessSpec | None = Field(None, description="Needs tokenbuncher[lm-eval].")
