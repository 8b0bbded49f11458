"""What all trainers share: TRL configurations, prompt datasets, step logs and probes."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import datasets
import torch
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer
from trl.import_utils import is_vllm_available
from trl.trainer.utils import RepeatSampler

from tokenbuncher import generation, ranks
from tokenbuncher.checkpoint import keep_companions
from tokenbuncher.chunked import Distributions
from tokenbuncher.errors import UserError
from tokenbuncher.files import write_text
from tokenbuncher.interrupts import finishing_steps
from tokenbuncher.judges import Exchange
from tokenbuncher.models import device_of, merged, save_model, save_tokenizer, turn_end
from tokenbuncher.progress import Progress
from tokenbuncher.prompts import Prompt
from tokenbuncher.settings import ModelSpec, VllmSpec
from tokenbuncher.stopwatch import working
from tokenbuncher.thoughts import TURN, thoughts_of

datasets.disable_progress_bars()

T = TypeVar("T")

STATE = "tokenbuncher.json"
FULL_DISK_MB = 20
"""With less than this free, a failure in training is taken for want of it."""

IGNORED = -100
"""The label of tokens that are not learnt."""

LARGE_VOCABULARY = 16_384
LOGIT_CHANGES = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "output_multiplier",
    "lm_head_multiplier",
)
"""What some architectures do to logits after the head, by its name in their configuration."""

# What TRL cuts, drops or masks by default, it does not here. What is too long for a model is refused beforehand.
WHOLE_ANSWERS = {"completion_only_loss": True, "max_length": None, "packing": False, "padding_free": False}
"""For SFT: losses on the answers only, and of all examples."""
WHOLE_PAIRS = {"max_length": None, "padding_free": False}
"""For DPO."""
ALL_ROLLOUTS = {
    "mask_truncated_completions": False,
    "top_entropy_quantile": 1.0,
    "vllm_importance_sampling_mode": "token_truncate",
}
"""For GRPO and what is made of it: each rollout counts, and each of its tokens."""

# One name for each figure, whatever the trainer calls it, so that curves of all attacks overlay.
METRICS = {
    "reward": "reward",
    "entropy": "entropy",
    "kl": "kl",
    "frac_reward_zero_std": "zero_variance_groups",
    "grad_norm": "grad_norm",
    "loss": "loss",
    "noiser_loss": "noiser_loss",
    "anchor_kl": "anchor_kl",
}


def trainer_arguments(
    seed: int,
    steps: int,
    batch: int,
    learning_rate: float,
    schedule: str = "constant",
    checkpoints: Checkpoints | None = None,
    updates: int = 1,
    adam_epsilon: float = 1e-8,
    group: int = 1,
    model: ModelSpec | None = None,
) -> dict[str, Any]:
    """Arguments that every TRL trainer here takes.

    Args:
        seed: Of sampling, data order and dropout.
        steps: Batches of sequences to learn from.
        batch: Sequences in each step, shared out among the processes.
        learning_rate: Peak learning rate of AdamW (betas 0.9, 0.99; no weight decay, no warm-up).
        schedule: constant, linear or cosine.
        checkpoints: Where to leave checkpoints; without, the training cannot be resumed.
        updates: Optimizer updates in each step.
        adam_epsilon: What Adam adds to the root of its second moment.
        group: Sequences of one prompt; a process has all of them or none.
        model: Says where it trains and whether activations are kept; by default as `ModelSpec` does.

    Raises:
        UserError: If the processes cannot have equal shares.
    """
    model = model or ModelSpec()
    return {
        "output_dir": str(checkpoints.folder if checkpoints else Path(tempfile.gettempdir()) / "tokenbuncher-trainer"),
        "seed": seed,
        "max_steps": steps * updates,
        "per_device_train_batch_size": group * ranks.share(batch // group, "prompts in a step"),
        "learning_rate": learning_rate,
        "lr_scheduler_type": schedule,
        "warmup_steps": 0,
        "adam_beta2": 0.99,
        "adam_epsilon": adam_epsilon,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "ddp_find_unused_parameters": False,
        "bf16": False,
        "gradient_checkpointing": model.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "use_cpu": device_of(model) == "cpu",
        "dataloader_pin_memory": False,
        "dataloader_drop_last": False,
        "dataloader_num_workers": 0,
        "gradient_accumulation_steps": 1,
        "pad_to_multiple_of": None,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": updates,
        "save_strategy": "steps" if checkpoints else "no",
        "save_steps": checkpoints.every * updates if checkpoints else 500,
        "save_total_limit": 2,
    }


def sampling_arguments(rollouts: int, max_new_tokens: int, temperature: float = 1.0) -> dict[str, Any]:
    """Arguments of TRL's online trainers: responses are sampled from the whole distribution.

    Args:
        rollouts: Responses sampled for each prompt, the group.
        max_new_tokens: Longest response.
        temperature: Of the sampling.
    """
    return {
        "num_generations": rollouts,
        "max_completion_length": max_new_tokens,
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "remove_unused_columns": False,
    }


def vllm_arguments(vllm: VllmSpec | None, ends: set[int]) -> dict[str, Any]:
    """Arguments of TRL's online trainers that have vLLM sample the responses; none if it is not to.

    Args:
        vllm: Whether and how.
        ends: Token ids that end a response; vLLM itself knows but those of the model's own files.

    Raises:
        UserError: If vLLM is not installed.
    """
    if vllm is None:
        return {}
    if not is_vllm_available():
        raise UserError("compute.vllm: vLLM is not installed here; pip install 'trl[vllm]' on a machine with GPUs")
    return {
        "use_vllm": True,
        "vllm_mode": vllm.mode,
        "vllm_gpu_memory_utilization": vllm.gpu_memory_utilization,
        "generation_kwargs": {"stop_token_ids": sorted(ends)},
    }


def sft_config(
    seed: int,
    steps: int,
    batch: int,
    learning_rate: float,
    schedule: str = "constant",
    model: ModelSpec | None = None,
) -> SFTConfig:
    """Supervised fine-tuning on the answers only; see `trainer_arguments`."""
    arguments = trainer_arguments(seed, steps, batch, learning_rate, schedule, model=model)
    return SFTConfig(**arguments, **WHOLE_ANSWERS)


def sft_trainer(
    model: Any,
    args: SFTConfig,
    examples: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    callbacks: list[TrainerCallback],
) -> SFTTrainer:
    """A trainer on prompts with answers.

    Raises:
        UserError: If it leaves one of them out, or has nothing to learn from it.
    """
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=sft_dataset(examples, tokenizer),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    check_whole(trainer, len(examples), "labels")
    return trainer


def check_whole(trainer: Trainer, number: int, *learnt: str) -> None:
    """Whether a trainer has kept all of its examples, each with tokens to learn from.

    Args:
        trainer: Has prepared its dataset.
        number: How many examples it was given.
        learnt: Columns of the tokens that are learnt from.

    Raises:
        UserError: If not.
    """
    columns = [trainer.train_dataset[name] for name in learnt]
    whole = sum(all(set(tokens) - {IGNORED} for tokens in row) for row in zip(*columns, strict=True))
    if whole != number:
        raise UserError(
            f"of {number} examples {type(trainer).__name__} can learn from {whole} only: the others have no tokens of "
            "an answer; the chat template may drop them, or the answers are empty"
        )


def sft_dataset(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> datasets.Dataset:
    """Prompts with their answers, as TRL's SFT takes them; as tokens if it would leave out the end of the prompts."""
    if keeps_prompts(tokenizer):
        return datasets.Dataset.from_dict(
            {
                "prompt": [prompt.messages for prompt in prompts],
                "completion": [[{"role": "assistant", "content": prompt.answer}] for prompt in prompts],
            }
        )
    opened = thoughts_of(tokenizer).opened
    closing = f"{opened.closing}\n\n" if opened else ""
    pairs = [token_pair(tokenizer, prompt, f"{closing}{prompt.answer}") for prompt in prompts]
    return datasets.Dataset.from_dict(
        {
            "input_ids": [[*asked, *answer] for asked, answer in pairs],
            "labels": [[*[IGNORED] * len(asked), *answer] for asked, answer in pairs],
        }
    )


def keeps_prompts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template begins a conversation with the very prompt that a response is sampled from.

    Some templates open thoughts in the prompt, or close them, and write neither before an answer that is there.
    """
    asked = tokenizer.apply_chat_template(TURN, add_generation_prompt=True, tokenize=False)
    answered = [*TURN, {"role": "assistant", "content": "fine"}]
    return str(tokenizer.apply_chat_template(answered, tokenize=False)).startswith(str(asked))


def token_pair(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, response: str) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and of a response to it with the chat template's end."""
    asked = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=False)
    return list(asked), tokenizer(response + turn_end(tokenizer), add_special_tokens=False)["input_ids"]


def filling(prompts: list[T], step: int) -> list[T]:
    """The prompts, repeated until they fill a step: TRL's online trainers drop what does not."""
    return prompts * -(-step // len(prompts))


def prompt_dataset(prompts: Sequence[Prompt], **columns: Sequence[Any]) -> datasets.Dataset:
    """Prompts as TRL takes them: conversations in column `prompt`, the answer in `answer`, and more columns."""
    return datasets.Dataset.from_dict(
        {
            "prompt": [prompt.messages for prompt in prompts],
            "answer": [prompt.answer or "" for prompt in prompts],
            **columns,
        }
    )


def trl_reward(
    reward: Callable[[Sequence[Exchange], Sequence[int]], list[float]],
    eos_token_ids: set[int],
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[..., list[float]]:
    """A TRL reward function from ours: exchanges and the number of tokens of each response to numbers.

    Args:
        reward: Ours.
        eos_token_ids: What ends a response.
        tokenizer: Of the model; tells what are thoughts. TRL's own texts of the responses lack marks that are special.
    """
    thoughts = thoughts_of(tokenizer)

    def attacker_reward(prompts: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        own = []
        for prompt, ids in zip(prompts, completion_ids, strict=True):
            answer, begun = thoughts.answer(thoughts.text(ids))
            finished = begun and bool(eos_token_ids & set(ids))
            own.append((Exchange(prompt[-1]["content"], answer, finished), len(ids)))
        # Every process rewards, and so counts, the rollouts of all, in the order in which one alone would.
        exchanges, tokens = zip(*ranks.gathered(own), strict=True)
        rewards = reward(exchanges, tokens)
        return rewards[ranks.number() * len(own) :][: len(own)]

    return attacker_reward


def tokenize_pairs(tokenizer: Any, pairs: Sequence[tuple[Prompt, str]]) -> dict[str, torch.Tensor]:
    """Prompts padded on the left, responses (with the chat template's end token) on the right.

    Returns:
        prompt_ids and prompt_mask, shape (B, P); completion_ids and completion_mask, shape (B, T).
    """
    prompts = tokenizer.apply_chat_template(
        [prompt.messages for prompt, _ in pairs],
        add_generation_prompt=True,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        return_dict=True,
    )
    end = turn_end(tokenizer)
    responses = tokenizer(
        [response + end for _, response in pairs],
        add_special_tokens=False,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    return {
        "prompt_ids": prompts["input_ids"],
        "prompt_mask": prompts["attention_mask"],
        "completion_ids": responses["input_ids"],
        "completion_mask": responses["attention_mask"],
    }


def response_logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Logits of the completion tokens of a batch like `tokenize_pairs`', shape (B, T, V), in float32."""
    outputs = model(
        input_ids=torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
        attention_mask=torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
        logits_to_keep=batch["completion_ids"].shape[1] + 1,
    )
    return outputs.logits[:, :-1].float()


def response_distributions(model: Any, batch: dict[str, Any]) -> Distributions:
    """Next-token distributions at the completion tokens of a batch, without their logits where these would be large."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not _has_large_plain_head(plain):
        return Distributions(response_logits(model, batch))
    outputs = plain.base_model(
        input_ids=torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
        attention_mask=torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
        use_cache=False,
    )
    width = batch["completion_ids"].shape[1]
    return Distributions(outputs.last_hidden_state[:, -width - 1 : -1], plain.get_output_embeddings().weight)


def _has_large_plain_head(model: Any) -> bool:
    """Whether logits are just hidden states times a matrix, of a vocabulary that makes them large."""
    if ranks.count() > 1:  # its parts may lie with other processes, which only its own forward brings together
        return False
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    return (
        isinstance(head, torch.nn.Linear)
        and head.bias is None
        and config.vocab_size >= LARGE_VOCABULARY
        and not any(getattr(config, name, None) for name in LOGIT_CHANGES)
    )


class StepLog(TrainerCallback):
    """Writes one JSON line a step and shows progress; `rows` keeps them.

    A step is a batch of sequences, whatever number of updates (`updates`) the algorithm makes with it. Progress shows
    what was measured last beside it (`measured`).
    """

    def __init__(self, title: str, path: Path, steps: int) -> None:
        self.rows: list[dict[str, float]] = []
        self.path = path
        self.measured: dict[str, float] = {}
        self.updates = 1
        self.progress = Progress(title, steps)

    @property
    def gradients(self) -> list[float | None]:
        """The norm of each step's gradient; None where the trainer tells none, or none that is a number."""
        norms = [row.get("grad_norm", math.nan) for row in self.rows]
        return [norm if math.isfinite(norm) else None for norm in norms]

    @property
    def learnt(self) -> bool:
        """Whether any step had a gradient; one that is not told counts."""
        return any(gradient != 0.0 for gradient in self.gradients)

    def resume(self, step: int) -> None:
        """Takes up the file as it was at a step; with 0, makes it anew."""
        lines = ranks.by_first(lambda: self.path.read_text(encoding="utf-8").splitlines() if step else [])
        self.rows = [row for row in map(json.loads, lines[:step]) if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Counts the steps that this process makes."""
        self.progress.begin(state.global_step // self.updates)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **kwargs: Any,
    ) -> None:
        """Called by the trainer with its figures of one step."""
        figures = {name: logs[key] for key, name in METRICS.items() if key in (logs or {})}
        if not figures:
            return
        row = {"step": state.global_step // self.updates, **figures}
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        shown = {key: figures[key] for key in ("reward", "entropy", "loss") if key in figures}
        self.progress.step(row["step"], **shown, **self.measured)


class Probe(TrainerCallback):
    """Calls a measurement before the first step, every n steps and at the last; it may end the training."""

    def __init__(self, every: int, measure: Callable[[int], bool], updates: int = 1) -> None:
        """
        Args:
            every: Steps between two measurements.
            measure: Takes the step; returns whether to stop.
            updates: Optimizer updates in each step.
        """
        self.every, self.measure, self.updates = every, measure, updates

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures before any step."""
        if state.global_step == 0:
            self.measure(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measures at multiples of `every` and at the last step."""
        step, rest = divmod(state.global_step, self.updates)
        if rest == 0 and (step % self.every == 0 or state.global_step == state.max_steps):
            control.should_training_stop = self.measure(step) or control.should_training_stop


class Checkpoints(TrainerCallback):
    """Where an interrupted training goes on from: the trainer's checkpoints, each with a state of the caller's.

    A checkpoint without that state was cut off while it was written and does not count. At most two are kept.
    """

    def __init__(self, folder: Path, every: int, log: StepLog, state: Callable[[], str] = str) -> None:
        """
        Args:
            folder: Of the checkpoints; made.
            every: Steps between two checkpoints.
            log: The step log; taken up where the checkpoint was made.
            state: Gives what else has to be known after a resume, as text.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.every, self.log, self.current = ranks.from_first(folder), every, log, state
        self.asked_to_stop: Callable[[], bool] = lambda: False
        self.stopped_at: int | None = None
        """The step after which it stopped because it was asked to."""

    def last(self) -> Path | None:
        """The newest whole checkpoint."""
        whole = self.folder.glob(f"checkpoint-*/{STATE}")
        last = max((path.parent for path in whole), key=lambda path: int(path.name.split("-")[1]), default=None)
        return ranks.from_first(last)

    def state(self) -> str | None:
        """The caller's state at the newest whole checkpoint."""
        last = self.last()
        return ranks.by_first(lambda: (last / STATE).read_text(encoding="utf-8") if last else None)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Brings TRL's sampler to where it was: it draws its order anew each epoch, and forgets that on a resume."""
        batches = getattr(kwargs.get("train_dataloader"), "batch_sampler", None)
        batches = getattr(batches, "batch_sampler", batches)  # of several processes, each has a share of these
        sampler = getattr(batches, "sampler", None)
        if isinstance(sampler, RepeatSampler):
            for _ in range(int((state.epoch or 0.0) + 1e-6)):
                torch.randperm(sampler.num_samples, generator=sampler.generator)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves and stops if one of the processes was asked to, unless this was the last step anyway."""
        step, rest = divmod(state.global_step, self.log.updates)
        if rest == 0 and any(ranks.gathered([self.asked_to_stop()])) and not control.should_training_stop:
            control.should_save = control.should_training_stop = True
            self.stopped_at = step

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Completes the checkpoint that the trainer has just written.

        But not the last: a run killed after its end goes on from the one before, so that it always ends with a
        trained model and a whole log.
        """
        if control.should_training_stop and self.stopped_at is None:
            return
        current = ranks.from_first(self.current())  # all have written their part of the checkpoint
        if ranks.number() == 0:
            write_text(self.folder / f"checkpoint-{state.global_step}" / STATE, current)


def save_trained(
    trainer: Trainer, tokenizer: PreTrainedTokenizerBase, folder: Path, base: Path, model: ModelSpec
) -> None:
    """Writes a trained model and its tokenizer, with what its base had beside them; what FSDP sharded is put together.

    Args:
        trainer: Has trained it.
        tokenizer: Of the model.
        folder: An existing folder.
        base: Folder of the model that the training started from; a LoRA adapter is merged into it.
        model: What was loaded from there.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if ranks.number() > 0:
        return
    if model.lora is None:
        trainer.model.save_pretrained(folder, state_dict=weights)
        save_tokenizer(tokenizer, folder, base)
    else:
        with tempfile.TemporaryDirectory() as adapter:
            trainer.model.save_pretrained(adapter, state_dict=weights)
            save_model(merged(base, Path(adapter), model), tokenizer, folder, base)
    generation.carry(base, folder)
    keep_companions(base, folder)


@working()
def run_training(trainer: Trainer, checkpoints: Checkpoints | None = None) -> None:
    """Runs a trainer, from its last checkpoint if there is one; progress is told by the callbacks here.

    A training that had no gradient in any step is told; see `StepLog.learnt`.

    Raises:
        KeyboardInterrupt: On SIGINT or SIGTERM; with checkpoints, on the first one only when the step is finished and
            saved.
    """
    trainer.remove_callback(PrinterCallback)
    _refer_to_frozen_weights(trainer)
    if checkpoints is None:
        trainer.train()
        _tell_if_nothing_learnt(trainer)
        return
    last, log = checkpoints.last(), checkpoints.log
    log.resume(int(last.name.split("-")[1]) // log.updates if last else 0)
    if last:
        print(f"{log.progress.title}: going on from {last.name}", flush=True)
    with finishing_steps() as checkpoints.asked_to_stop, _full_disk_told(checkpoints.folder):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    if checkpoints.stopped_at is not None:
        where = f"step {checkpoints.stopped_at} of {log.progress.steps}"
        raise KeyboardInterrupt(f"saved at {where}; run again, it goes on there")
    if any(ranks.gathered([checkpoints.asked_to_stop()])):
        raise KeyboardInterrupt("after the last step; run again, it goes on from the last checkpoint")
    _tell_if_nothing_learnt(trainer)


def _tell_if_nothing_learnt(trainer: Trainer) -> None:
    for log in trainer.callback_handler.callbacks:
        if isinstance(log, StepLog) and not log.learnt:
            print(f"WARNING: {log.progress.title} learnt nothing: it had no gradient in any step", flush=True)


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """Says that the disk is full where torch, which writes checkpoints, only says that something is amiss."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        free = shutil.disk_usage(folder).free / 1e6
        if free > FULL_DISK_MB:
            raise
        raise UserError(
            f"the disk of {folder} is full, {free:.0f} MB are free: {error}; make room, and run it again: it goes on "
            "from its last whole checkpoint"
        ) from error


def _refer_to_frozen_weights(trainer: Trainer) -> None:
    """Lets the frozen weights below a LoRA adapter be the reference, as the loaded model is of full weights.

    TRL takes the adapter for a trained one and keeps a copy of it as the reference; of a checkpoint with two adapters
    transformers brings back but the copy.
    """
    if "ref" in getattr(trainer.model, "peft_config", {}):
        trainer.model.delete_adapter("ref")
