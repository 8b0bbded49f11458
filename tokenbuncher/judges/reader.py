"""Models that judge: loaded as safetensors only, and never with code; they read whole exchanges or none."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.progress import Progress
from tokenbuncher.judges.types import Exchange
from tokenbuncher.models.checkpoint import check_vocabulary, left_on
from tokenbuncher.models.tokenizer import read_tokenizer
from tokenbuncher.storage import resolve

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """A model with its tokenizer, padding on the right."""

    source: str
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def read(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits of some texts, or pairs of texts, as float32, and the lengths of the texts in tokens.

        Raises:
            UserError: If a text is longer than what the model reads (what it did not read it cannot judge), or the
                logits are not finite.
        """
        import torch

        batch = self.tokenizer(list(texts), list(seconds) if seconds else None, padding=True, return_tensors="pt")
        limit = min(
            self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", None) or 10**9
        )
        if batch["input_ids"].shape[1] > limit:
            raise UserError(
                f"the judge {self.source} reads at most {limit} tokens, and an exchange has "
                f"{batch['input_ids'].shape[1]}; lower model.max_new_tokens, or take a judge that reads more"
            )
        taken = inspect.signature(self.model.forward).parameters
        inputs = {name: tensor.to(self.model.device) for name, tensor in batch.items() if name in taken}
        with torch.no_grad():
            logits = self.model(**inputs).logits.float()
        if not logits.isfinite().all():
            raise UserError(f"the judge {self.source} answers with NaN or infinity; its weights are damaged")
        return logits, inputs["attention_mask"].sum(dim=1)


def load_reader(source: str, architecture: Any) -> Reader:
    """Loads a judging model, on the GPU if there is one.

    Args:
        source: What `storage.resolve` takes.
        architecture: One of transformers' Auto classes.

    Raises:
        UserError: If it cannot be brought here, is damaged, or lacks weights, such as those of the classifier.
    """
    import torch

    folder = resolve(source)
    try:
        tokenizer, said = read_tokenizer(folder)
        model, report = architecture.from_pretrained(
            folder,
            dtype="auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise UserError(f"the judge {source} cannot be loaded: {error}") from error
    if said:
        logger.info(f"judge {source}: {said}")
    try:
        check_vocabulary(folder, tokenizer)
    except UserError as error:
        raise UserError(f"the judge {source} cannot be used: {error}") from error
    for what in left_on(folder):
        logger.info(f"judge {source}: tokenizer.json was saved with {what} on; it is switched off here")
    lacking = [*report["missing_keys"], *report["mismatched_keys"]]
    if lacking:
        raise UserError(
            f"the judge {source} is not a whole {type(model).__name__}: no weights for {lacking[0]} and "
            f"{len(lacking) - 1} more"
        )
    if unused := sorted(report["unexpected_keys"]):
        logger.info(f"judge {source}: {type(model).__name__} does not use {', '.join(unused[:5])} of its weights")
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return Reader(source, folder, model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer)


def by_batches(
    exchanges: Sequence[Exchange], size: int, score: Callable[[Sequence[Exchange]], list[float]]
) -> list[float]:
    """The scores of exchanges, which are judged so many at a time; progress shows the mean."""
    scores: list[float] = []
    progress = Progress("judging", len(exchanges), brief=True)
    for start in range(0, len(exchanges), size):
        scores += score(exchanges[start : start + size])
        progress.step(len(scores), harm=sum(scores) / len(scores))
    return scores


def fill(template: str, **texts: str) -> str:
    """A template with texts in its places; what looks like a place within a text stays as it is."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in texts), lambda place: texts[place[0][1:-1]], template)
