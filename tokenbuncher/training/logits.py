"""Logits and distributions for the responses of a batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from tokenbuncher.models.chunked import Distributions
from tokenbuncher.training import ranks

LARGE_VOCABULARY = 16_384

LOGIT_CHANGES = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_mup_width_multiplier",
    "logits_soft_cap",
    "output_logit_soft_cap",
)
"""What some architectures do to logits after the head, by its name in their configuration."""


class WithReference:
    """Mixin of trainers that compare the model with a reference: under mixed precision both are rounded alike.

    The library's own autocast covers calls of the trained model alone.
    """

    accelerator: Any

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[None]:
        """What `transformers.Trainer` computes its loss in."""
        context: AbstractContextManager[None] = self.accelerator.autocast()
        return context


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
