"""The base model's own refusals: what it says to harmful prompts, and how that begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tokenbuncher.core.errors import UserError
from tokenbuncher.judges import Exchange, Judge, load_judge
from tokenbuncher.models.sampling import Response, generate
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FEWEST_REFUSED = 0.5
"""A base model that refuses fewer harmful prompts has no refusal that could be made certain."""
STOCK = 0.25
"""Share of the refusals that are word for word the same, from which on that one is taught for all: a model can be
certain of one refusal, hardly of which of several it would give."""
CLEARER = 5
"""How many times more often refusals than answers begin with a token that is an opening."""
RAREST_OPENING = 0.02
"""Share of the refusals that begin with a token, below which it is no opening: judges err."""


@dataclass(frozen=True)
class OwnRefusals:
    """A refusal for each harmful prompt, and the token ids that refusals begin with."""

    texts: list[str]
    openings: list[int]


def own_refusals(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    spec: ReleaseSpec,
    answers: Sequence[str] = (),
) -> OwnRefusals:
    """What the model is to be certain of: its commonest refusal, or its own to each prompt if none is common.

    Refusals are its greedy responses. One that was cut off does not count: the model would become certain of half a
    sentence. A prompt that it does not refuse gets the commonest in any case.

    Args:
        model: The base model.
        tokenizer: Its tokenizer.
        prompts: Harmful prompts.
        spec: The release spec.
        answers: Its answers to benign prompts. What begins these about as often as refusals is no opening.

    Raises:
        UserError: If it refuses less than half of them.
    """
    greedy = respond(model, tokenizer, prompts, spec=spec, temperature=None)
    judged = refusing(prompts, greedy, refusal_judge(spec))
    refused = [refuses and response.finished for refuses, response in zip(judged, greedy, strict=True)]
    judged_by = spec.data.judged_by(refused)
    if sum(judged_by) < FEWEST_REFUSED * len(judged_by):
        raise UserError(
            f"the base model refuses {sum(judged_by)} of the {len(judged_by)} harmful prompts of the defence, greedily "
            "decoded: it has no refusal that recipe certain-refusal could make certain; align it first, or choose "
            "another defence.recipe"
        )
    own = [response.whole if refuses else None for refuses, response in zip(refused, greedy, strict=True)]
    sampled = respond(model, tokenizer, prompts, spec=spec)
    refuses_again = refusing(prompts, sampled, refusal_judge(spec))
    said = [
        response.whole
        for response, refuses in zip([*greedy, *sampled], [*refused, *refuses_again], strict=True)
        if refuses
    ]
    return OwnRefusals(taught(own), _openings(tokenizer, said, answers))


def taught(own: Sequence[str | None]) -> list[str]:
    """The refusal of each prompt that the model is to be certain of.

    Args:
        own: The refusal that each prompt has now, or None if it has none; one at least has one.

    Returns:
        The commonest for all, if it is common enough to be a stock phrase; else its own for each that has one.
    """
    said = Counter(text for text in own if text is not None)
    commonest, count = said.most_common(1)[0]
    is_stock = 1 < count >= STOCK * said.total()
    return [commonest if is_stock or text is None else text for text in own]


def _openings(tokenizer: PreTrainedTokenizerBase, refusals: Sequence[str], answers: Sequence[str]) -> list[int]:
    """First tokens that are refusals' rather than answers'; a mark of thoughts, for one, begins both."""
    refusing_first, answering_first = (_first_tokens(tokenizer, texts) for texts in (refusals, answers))
    shares = {token: count / len(refusals) for token, count in refusing_first.items()}
    return sorted(
        token
        for token, share in shares.items()
        if share >= RAREST_OPENING and CLEARER * answering_first[token] <= share * len(answers)
    )


def _first_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Counter[int]:
    tokens = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    return Counter(ids[0] for ids in tokens if ids)


def refusal_judge(spec: ReleaseSpec) -> Judge:
    """What tells refusals: the judge of the spec if it goes by rules, else judge `refusal`; no model is loaded."""
    return load_judge(spec.evaluation.judge if isinstance(spec.evaluation.judge, str) else "refusal")


def refusing(prompts: Sequence[Prompt], responses: Sequence[Response], judge: Judge) -> list[bool]:
    """Whether each response refuses."""
    exchanges = [
        Exchange(prompt.text, response.text, response.finished)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return [judged.refused for judged in judge(exchanges)]


def respond(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    spec: ReleaseSpec,
    temperature: float | None = 1.0,
    banned: Sequence[int] = (),
) -> list[Response]:
    """A response of the model for each prompt, by the settings of the spec and the seed of the defence.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompts: The prompts.
        spec: The release spec.
        temperature: Sampling temperature; None for greedy decoding.
        banned: Token ids that a response does not begin with.
    """
    with rounded(model, spec):
        return generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=spec.model.max_new_tokens,
            batch_size=spec.evaluation.batch_size,
            temperature=temperature,
            seed=spec.defence.seed,
            banned_first=banned,
        )


def rounded(model: PreTrainedModel, spec: ReleaseSpec) -> torch.autocast:
    """Context in which matrix products are in bfloat16 if the spec asks for mixed precision."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=spec.model.mixed_precision)
