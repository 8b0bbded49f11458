"""Utility questions of lm-evaluation-harness: its benchmarks, or tasks of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.progress import Progress
from tokenbuncher.evaluation.answers import repetition
from tokenbuncher.evidence import UtilityItem
from tokenbuncher.models.lengths import room_of
from tokenbuncher.models.thoughts import Thoughts, thoughts_of
from tokenbuncher.settings import HarnessSpec, ReleaseSpec

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 37
METRICS = ("exact_match", "acc")
UNBOUNDED = 10**9
"""Context length of a model whose configuration states none; the harness would assume 2,048."""
# What a filter of the harness leaves of a response in which it finds no answer.
UNREAD = ("", "[invalid]")


def load_tasks(harness: HarnessSpec) -> dict[str, list[Task]]:
    """The tasks with their questions, by the name that the spec gives; several for a group or a tag.

    Raises:
        UserError: If the harness is not installed, a task is unknown or cannot be loaded, runs code that the model
            writes, or has no single metric that says whether an answer is right.
    """
    if harness.include and not harness.include.is_dir():
        raise UserError(f"evaluation.harness.include: {harness.include} is not a folder")
    manager = _manager(harness.include)
    loaded = {name: _load(manager, name) for name in harness.tasks}
    names = [task.task_name for tasks in loaded.values() for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"evaluation.harness.tasks: {name} is in several of {', '.join(harness.tasks)}; name one")
    for name, tasks in loaded.items():
        for task in tasks:
            _metric_and_filter(task, harness.metric.get(name))
    return loaded


@cache
def _manager(include: Path | None) -> TaskManager:
    """An index of all tasks there are, which takes seconds to make."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f"evaluation.harness needs lm-evaluation-harness ({error}): pip install 'tokenbuncher[lm-eval]'"
        ) from error
    return TaskManager(include_path=include)


def _load(manager: TaskManager, name: str) -> list[Task]:
    if name not in manager.all_tasks:
        raise UserError(
            f"evaluation.harness.tasks: lm-evaluation-harness has no task {name}; `lm-eval ls tasks` lists those it "
            "has, and evaluation.harness.include is the folder of your own"
        )
    try:
        tasks = list(manager.load([name])["tasks"].values())
    except Exception as error:
        raise UserError(
            f"evaluation.harness.tasks: {name} cannot be loaded: {error}; data of the hub needs HF_HUB_OFFLINE=0"
        ) from error
    for task in tasks:
        if getattr(task, "UNSAFE_CODE", False):
            raise UserError(f"evaluation.harness.tasks: {task.task_name} runs code that the model writes; leave it out")
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"evaluation.harness.tasks: {task.task_name} asks about more than text; leave it out")
    return tasks


def _metric_and_filter(task: Task, given: str | None) -> tuple[str, str]:
    """The metric that says whether an answer is right, and the filter that reads the answer.

    Raises:
        UserError: If the task does not have it, has several filters and none is given, or less is better.
    """
    where = f"evaluation.harness.metric: {task.task_name}"
    better, filters = task.higher_is_better(), [each.name for each in task._filters]
    metric, _, reader = (given or "").partition(",")
    metric = metric or next((name for name in METRICS if name in better), "")
    if not better.get(metric):
        raise UserError(
            f"{where} has no metric {metric or ' or '.join(METRICS)} of which more is better; it has "
            f"{', '.join(better)}; name one that is 0 or 1 for each question"
        )
    if reader not in filters and (reader or len(filters) > 1):
        raise UserError(f"{where} reads answers by {', '.join(filters)}; name one of them, like {metric},{filters[0]}")
    return metric, reader or filters[0]


def ask(
    spec: ReleaseSpec,
    tasks: Mapping[str, Sequence[Task]],
    model: PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase,
) -> list[UtilityItem]:
    """One item for each question of each task, put to the model in its chat template.

    Responses are at most `model.max_new_tokens` long, whatever the task says, and read after their thoughts. The tokens
    of an answer are counted anew from the text; one that has fewer counts as finished, if there is an answer. Of
    several options the likeliest counts, and nothing is generated.

    Args:
        spec: The release spec, with `evaluation.harness`.
        tasks: Tasks as `load_tasks` returns them.
        model: The model, in evaluation mode.
        tokenizer: The model's tokenizer, with a chat template.

    Raises:
        UserError: If a metric is not 0 or 1 for some question, or the model has no room for one.
    """
    from lm_eval import evaluate
    from transformers import set_seed

    harness, longest = spec.evaluation.harness, spec.model.max_new_tokens
    assert harness is not None
    set_seed(SEED)
    reader = _reporting_model()(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=spec.evaluation.batch_size,
        max_length=room_of(model.config) or UNBOUNDED,
    )
    results = evaluate(
        reader,
        {"tasks": {task.task_name: _prepared(task, longest) for own in tasks.values() for task in own}},
        limit=harness.limit,
        bootstrap_iters=0,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    assert results is not None  # as it is in processes that help another one
    samples = results["samples"]
    items = []
    for name, own in tasks.items():
        for task in own:
            metric, filtered = _metric_and_filter(task, harness.metric.get(name))
            for sample in samples[task.task_name]:
                if sample["filter"] == filtered:
                    items.append(_item(name, task, sample, metric=metric, thoughts=reader.thoughts, longest=longest))
    return items


@cache
def _reporting_model() -> Any:
    """The harness's class of models, which reports its progress batch by batch."""
    from lm_eval.models.huggingface import HFLM

    class ReportingModel(HFLM):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.thoughts = thoughts_of(arguments["tokenizer"])

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
            text = self.thoughts.text(tokens) if skip_special_tokens else ""
            if self.thoughts.within(text):
                return self.thoughts.answer(text)[0]
            return super().tok_decode(tokens, skip_special_tokens)

        def _begin(self, requests: Sequence[Any]) -> None:
            self.progress, self.done = Progress("lm-evaluation-harness", len(requests), brief=True), 0

        def _step(self, requests: int) -> None:
            self.done += requests
            self.progress.step(self.done)

        def generate_until(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            self._begin(requests)
            asked = (request.args for request in requests)
            _check_room(self, [len(self.tok_encode(text)) + settings["max_gen_toks"] for text, settings in asked])
            return super().generate_until(requests, *args, **kwargs)

        def _model_generate(self, context: Any, *args: Any, stop: Any, **kwargs: Any) -> Any:
            # What ends an answer may stand within thoughts; the text is cut there anyway.
            stop = [] if self.thoughts.marks else stop
            generated = super()._model_generate(context, *args, stop=stop, **kwargs)
            self._step(len(context))
            return generated

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            self._begin(requests)
            _check_room(self, [len(asked) + len(option) - 1 for _, asked, option in requests])
            return super()._loglikelihood_tokens(requests, *args, **kwargs)

        def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
            logits = super()._model_call(inps, *args, **kwargs)
            self._step(len(inps))
            return logits

    return ReportingModel


def _check_room(model: Any, needed: Sequence[int]) -> None:
    """Refuses questions that the model cannot read whole with their responses."""
    if max(needed, default=0) > model.max_length:
        raise UserError(
            f"lm-evaluation-harness asks a question that takes {max(needed)} tokens with its response, and the model "
            f"reads {model.max_length} at most; leave the task out, give it fewer examples (num_fewshot) or lower "
            "model.max_new_tokens; nothing is cut here"
        )


def _prepared(task: Task, longest: int) -> Task:
    """The task as `lm_eval.simple_evaluate` would prepare it."""
    if task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
    if task.OUTPUT_TYPE == "generate_until":
        task.set_config("generation_kwargs", {"max_gen_toks": longest}, update=True)
    task.set_fewshot_seed(SEED)
    return task


def _item(
    name: str, task: Task, sample: dict[str, Any], *, metric: str, thoughts: Thoughts, longest: int
) -> UtilityItem:
    score = sample.get(metric)
    if score not in (0, 1):
        raise UserError(
            f"evaluation.harness.metric: {metric} of {task.task_name} is not 0 or 1 for every question; name a metric "
            "that says right or wrong"
        )
    generated = task.OUTPUT_TYPE == "generate_until"
    response = sample["resps"][0][0] if generated else ""
    tokens = len(thoughts.tokenizer(response, add_special_tokens=False)["input_ids"])
    parsed = not generated or str(sample["filtered_resps"][0]).strip() not in UNREAD
    return UtilityItem(
        prompt=f"{task.task_name}/{sample['doc_id']}/{sample['doc_hash'][:16]}",
        task=task.task_name,
        harness=name,
        options=None if generated else len(sample["resps"]),
        correct=parsed and bool(score),
        parsed=parsed,
        finished=tokens < longest and (bool(response) or not (generated and thoughts.marks)),
        tokens=tokens,
        repetition=repetition(response),
    )
