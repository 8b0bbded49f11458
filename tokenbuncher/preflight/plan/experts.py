"""Mixtures of experts: counted on transformers' own classes, on a device that holds no weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.passwords import without_passwords

HOW_MANY = re.compile(r"(num|n)_(\w+_)?experts|moe_num_experts")
SHARED = re.compile(r"shared|zero")
EACH_TOKEN = re.compile(
    r"num_experts_per_tok(en)?|moe_k|moe_top_?k|top_k_experts|experts_per_token|num_selected_experts|num_experts_top_?k"
)
MOST_LAYERS = 1000
ROUTED = re.compile(r"\.experts\.")
LAYER = re.compile(r"\.(layers|h|blocks)\.\d+\.")


class Experts(NamedTuple):
    """Parameters of a mixture."""

    parameters: float
    """All of them."""
    body: float
    """Those of the layers that one token passes."""


def is_mixture(config: Mapping[str, Any]) -> bool:
    """Whether a config.json names several experts; under which word differs by family."""
    parts = [config]  # no recursion: a file may be nested deeper than Python calls
    while parts:
        for name, value in parts.pop().items():
            if isinstance(value, dict):
                parts.append(value)
            elif HOW_MANY.fullmatch(name) and _several(value):
                return True
    return False


def _several(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, int) and value > 1)


def count_experts(config: Mapping[str, Any], text: Mapping[str, Any]) -> Experts:
    """Counts the parameters of a mixture of experts.

    Args:
        config: The config.json.
        text: The part of it that is about the language model.

    Raises:
        UserError: If transformers does not know the model, or the configuration not how many experts a token passes.
    """
    if text.get("num_hidden_layers", 0) > MOST_LAYERS:
        raise UserError(f"it has more than {MOST_LAYERS} layers")
    number = _figure(text, HOW_MANY)
    passed = _figure(text, EACH_TOKEN)
    sizes = _sizes(config)
    routed = {name: size for name, size in sizes.items() if ROUTED.search(name)}
    if not routed or passed > number:
        raise UserError(f"of its {number} experts a token passes {passed}, and {len(routed)} tensors are of experts")
    body = sum(size for name, size in sizes.items() if LAYER.search(name))
    return Experts(float(sum(sizes.values())), body - sum(routed.values()) * (1 - passed / number))


def _figure(text: Mapping[str, Any], names: re.Pattern[str]) -> int:
    named = {
        name: value
        for name, value in text.items()
        if names.fullmatch(name) and not SHARED.search(name) and value is not None
    }
    found = {value for value in named.values() if isinstance(value, int) and value > 0}
    if len(found) != 1:
        what = "there are" if names is HOW_MANY else "a token passes"
        raise UserError(f"its config.json does not say in one figure how many experts {what}")
    return found.pop()


def _sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Parameters by name, of each tensor of the model."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        known = AutoConfig.for_model(**config)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(known, trust_remote_code=False)
    except Exception as error:
        raise UserError(
            f"transformers cannot tell its size ({' '.join(without_passwords(str(error)).split())[:200]})"
        ) from error
    return {name: parameter.numel() for name, parameter in model.named_parameters()}
