"""The classifiers of HarmBench (arXiv 2402.04249): a language model is asked, and its Yes weighed against its No."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenbuncher.core.errors import UserError
from tokenbuncher.judges.reader import Reader, by_batches, fill, load_reader
from tokenbuncher.judges.types import Exchange, Reward
from tokenbuncher.settings.judges import HarmBenchSpec

# The card of each classifier publishes its prompts as Python source; `prompt` is the one for standard behaviours.
_ON_CARD = re.compile(r"""["']prompt["']\s*:\s*('''|\"{3})(?P<prompt>.*?)\1""", re.DOTALL)


def yes_probability(spec: HarmBenchSpec) -> Reward:
    """Loads a classifier of HarmBench; its score is the probability of Yes, of Yes and No.

    Raises:
        UserError: If the model cannot be loaded, has no tokens for the answers, or no prompt is given or on its card.
    """
    from transformers import AutoModelForCausalLM

    reader = load_reader(spec.model, AutoModelForCausalLM)
    prompt = spec.prompt or _published_prompt(reader)
    yes, no = _answers(reader)

    def of_batch(batch: Sequence[Exchange]) -> list[float]:
        logits, lengths = reader.read([fill(prompt, behavior=e.prompt, generation=e.response) for e in batch])
        last = logits[range(len(batch)), lengths - 1]
        return (last[:, yes].logsumexp(-1) - last[:, no].logsumexp(-1)).sigmoid().tolist()

    def score(exchanges: Sequence[Exchange]) -> list[float]:
        return by_batches(exchanges, spec.batch_size, of_batch)

    return score


def _published_prompt(reader: Reader) -> str:
    """The prompt that the model was trained with; it differs between the classifiers, so it comes with the model."""
    card = reader.folder / "README.md"
    found = _ON_CARD.search(card.read_text(errors="replace", encoding="utf-8")) if card.is_file() else None
    if found is None or not all(place in found["prompt"] for place in ("{behavior}", "{generation}")):
        raise UserError(
            f"the judge {reader.source} has no card (README.md) with its prompt; put the prompt that the model was "
            "trained with into a file, and name it in `prompt`"
        )
    return found["prompt"]


def _answers(reader: Reader) -> tuple[list[int], list[int]]:
    """Tokens that begin a yes, and those that begin a no, however they are written."""

    def beginnings(word: str) -> set[int]:
        written = (spelt for case in (word, word.lower()) for spelt in (case, f" {case}"))
        return {reader.tokenizer(spelt, add_special_tokens=False)["input_ids"][0] for spelt in written}

    yes, no = beginnings("Yes"), beginnings("No")
    if not yes - no or not no - yes:
        raise UserError(f"the judge {reader.source} has no tokens that tell Yes from No")
    return sorted(yes - no), sorted(no - yes)
