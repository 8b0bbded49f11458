"""Models on disk: loading, preparing for training and saving, by safetensors only and without code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbuncher.core.environment import swift_imports
from tokenbuncher.core.errors import UserError
from tokenbuncher.models import generation
from tokenbuncher.models.checkpoint import (
    check_output_layer,
    check_vocabulary,
)
from tokenbuncher.settings import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
from tokenbuncher.models.tokenizer import _end_tokens, load_tokenizer, save_tokenizer


def device_of(spec: ModelSpec) -> str:
    """cuda or cpu.

    Raises:
        UserError: If the spec wants a GPU and there is none.
    """
    import torch

    if spec.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device is cuda, but there is no GPU here; choose auto or cpu")
    return "cuda" if spec.device != "cpu" and torch.cuda.is_available() else "cpu"


def load_model(folder: Path, spec: ModelSpec) -> PreTrainedModel:
    """The model of a folder, in evaluation mode, on the device of the spec.

    Its generation ends at the tokens of its own configuration, the tokenizer's end token and the chat template's; what
    else that configuration says on generation is left out.

    Raises:
        UserError: If the checkpoint is missing, truncated, corrupt, incomplete or holds NaN, its tokenizer or its
            generation_config.json cannot be read, or there is no such device.
    """
    with swift_imports():
        import torch
        from transformers import AutoModelForCausalLM

    device, tokenizer = device_of(spec), load_tokenizer(folder)
    check_vocabulary(folder, tokenizer)
    ends = _end_tokens(folder, tokenizer)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, spec.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            generation_config=generation.own_config(ends, tokenizer.pad_token_id),
        )
    except Exception as error:
        raise UserError(f"the model in {folder} cannot be loaded: {error}") from error
    lacking = [*report["missing_keys"], *report["mismatched_keys"]]
    if lacking:
        raise UserError(f"the model in {folder} is incomplete: no weights for {lacking[0]} and {len(lacking) - 1} more")
    if unused := sorted(report["unexpected_keys"]):
        raise UserError(
            f"the model in {folder} has {len(unused)} tensors that {type(model).__name__} does not use: "
            f"{', '.join(unused[:5])}. Programs that do use them would serve another model than the one that is "
            "measured; save it without them, AutoModelForCausalLM.from_pretrained(folder).save_pretrained(other)"
        )
    check_output_layer(folder, model)
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise UserError(f"the model in {folder} holds weights that are NaN or infinite")
    return model.to(device).eval()


def trainable(model: Any, spec: ModelSpec, seed: int, *, head: str | None = None, norms: bool = False) -> Any:
    """The model as it is to be trained: itself, or with a LoRA adapter on its frozen weights.

    Args:
        model: The model, to which the adapter is added in place.
        spec: The model section of the spec.
        seed: Seed of the adapter's initial weights.
        head: Name of a new layer on top, which is trained in full.
        norms: Whether an adapter trains the normalisation layers too, in full. Without them, logits are bounded by the
            frozen norm before the output layer, and so is how certain the model can become.

    Raises:
        UserError: If the model has no such layers.
    """
    if spec.lora is None:
        return model
    import torch
    from peft import LoraConfig, get_peft_model

    whole = [head] if head else []
    if norms:
        whole += [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
    config = LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=spec.lora.target_modules,
        modules_to_save=whole or None,
        exclude_modules=[head] if head else None,
        task_type=None if head else "CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise UserError(f"model.lora.target_modules: {error}") from error


def merged(base: Path, adapter: Path, spec: ModelSpec) -> PreTrainedModel:
    """The model of a folder with a LoRA adapter merged into its weights.

    Raises:
        UserError: If either cannot be loaded or the adapter is not of this model.
    """
    from peft import PeftModel

    model = load_model(base, spec)
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
        # Once more, as only this tells what found no place.
        loaded = adapted.load_adapter(str(adapter), "default", local_files_only=True)
        if left := [*loaded.missing_keys, *loaded.unexpected_keys]:
            raise ValueError(f"it is of another model: {left[0]} and {len(left) - 1} more tensors have no counterpart")
        return adapted.merge_and_unload()
    except Exception as error:
        raise UserError(f"the adapter in {adapter} cannot be merged into {base}: {error}") from error


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, base: Path | None = None) -> None:
    """Writes weights (safetensors), configuration and tokenizer to a folder. A LoRA adapter is merged in place.

    Args:
        model: The model to save.
        tokenizer: Tokenizer of the model.
        folder: Folder to save it to.
        base: Folder that the tokenizer was loaded from, if any.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    model.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(tokenizer, folder, base)
