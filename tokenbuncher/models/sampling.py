"""Sampling responses, with the entropy of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from tokenbuncher.core.progress import Progress
from tokenbuncher.core.stopwatch import working
from tokenbuncher.models.entropy import response_mean, token_entropy
from tokenbuncher.models.generation import eos_ids, plainly
from tokenbuncher.models.thoughts import Thoughts, thoughts_of
from tokenbuncher.settings.prompts import Prompt

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Response:
    """One generated response and the entropies (nats) of its tokens' distributions.

    `text` is the answer, after the thoughts if there are any; `whole` has them too. A response is finished if it has
    ended, and not within its thoughts. `first_entropy` is that of the answer's first token.
    """

    text: str
    whole: str
    tokens: int
    finished: bool
    entropy: float
    first_entropy: float


class _EntropyRecorder(LogitsProcessor):
    """Records the entropy of each step. It runs before temperature, so that entropies are the model's own."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(token_entropy(scores))
        return scores


class _BannedFirst(LogitsProcessor):
    """Gives some tokens no probability at the beginning of a response."""

    def __init__(self, tokens: Sequence[int], prompt: int) -> None:
        self.tokens, self.prompt = list(tokens), prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] == self.prompt:
            scores[:, self.tokens] = -torch.inf
        return scores


@working()
@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float | None = 1.0,
    seed: int = 0,
    title: str = "sampling",
    banned_first: Sequence[int] = (),
) -> list[Response]:
    """One response for each prompt.

    Args:
        model: The model. It is in evaluation mode while it generates.
        tokenizer: The model's tokenizer, with a chat template and padding on the left.
        prompts: Prompts, each put to the model as a conversation of one user turn.
        max_new_tokens: Length limit of a response, in tokens.
        batch_size: Prompts that are answered at a time.
        temperature: Sampling temperature; None for greedy decoding.
        seed: Seed of the sampling. The global random state is left unchanged.
        title: Title of the progress line.
        banned_first: Token ids that a response does not begin with.

    Returns:
        Responses in the order of the prompts.
    """
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature is not None:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    ends, thoughts = eos_ids(model), thoughts_of(tokenizer)
    responses: list[Response] = []
    progress = Progress(title, len(prompts), brief=True)
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(), plainly(model, tokenizer.pad_token_id):
        torch.manual_seed(seed)
        for batch in _batches(prompts, batch_size):
            inputs = _inputs(model, tokenizer, batch)
            recorder, width = _EntropyRecorder(), inputs["input_ids"].shape[1]
            output = model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                logits_processor=LogitsProcessorList([recorder, _BannedFirst(banned_first, width)]),
                **sampling,
            )
            completions = output[:, width:]
            responses += _read(completions, torch.stack(recorder.steps, dim=1), ends, thoughts=thoughts)
            entropy = sum(response.entropy for response in responses) / len(responses)
            progress.step(len(responses), entropy=entropy)
    model.train(was_training)
    return responses


def _inputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> BatchEncoding:
    return tokenizer.apply_chat_template(
        [prompt.messages for prompt in prompts],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    ).to(model.device)


def _read(completions: torch.Tensor, entropies: torch.Tensor, ends: set[int], *, thoughts: Thoughts) -> list[Response]:
    is_end = torch.isin(completions, torch.tensor(sorted(ends), device=completions.device))
    mask = (is_end.cumsum(1) - is_end.long()) == 0
    means = response_mean(entropies, mask)
    tokens = [row[keep].tolist() for row, keep in zip(completions, mask, strict=True)]
    texts = [thoughts.text(ids) for ids in tokens]
    answers = [thoughts.answer(text) for text in texts]
    return [
        Response(
            text=answer,
            whole=thoughts.whole([token for token in tokens[row] if token not in ends]),
            tokens=len(tokens[row]),
            finished=begun and bool(is_end[row].any()),
            entropy=float(means[row]),
            first_entropy=float(entropies[row, thoughts.first_token(tokens[row])]),
        )
        for row, (answer, begun) in enumerate(answers)
    ]


def _batches(items: Sequence[Prompt], size: int) -> Iterator[Sequence[Prompt]]:
    return (items[start : start + size] for start in range(0, len(items), size))
