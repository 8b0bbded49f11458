"""Models on disk: fetch, load, save; safetensors only, never code from a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.errors import UserError
from tokenbuncher.files import whole_folder
from tokenbuncher.settings import ModelSpec, ReleaseSpec
from tokenbuncher.storage import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CARRIED = {".safetensors", ".json", ".jinja", ".txt", ".model", ".md"}
PROBE = "how do i add 12 and 7 ? Well-formed text, please."


def fetch_model(spec: ReleaseSpec, out: Path) -> None:
    """Brings the undefended model of the spec into a local folder.

    Args:
        spec: The release spec; `spec.model.source` is `organism://`, `smollm2://` or what `storage.resolve` takes.
        out: The folder to be written.

    Raises:
        UserError: If the source does not exist or cannot be reached, is not a complete safetensors checkpoint, is not
            the one with the expected digest, or cannot be loaded.
    """
    source = spec.model.source
    with whole_folder(out) as folder:
        if source == "organism://":
            from tokenbuncher.organism.build import ALIGNED

            _copy_checkpoint(source, ALIGNED, folder)
        elif source == "smollm2://":
            from tokenbuncher.smollm2 import build_smollm2

            build_smollm2(folder)
        else:
            _copy_checkpoint(source, resolve(source), folder)
        load_tokenizer(folder)
        load_model(folder, spec.model)


def _copy_checkpoint(source: str, found: Path, folder: Path) -> None:
    if not (found / "config.json").is_file():
        raise UserError(f"model.source {source} is not a model folder: it has no config.json")
    if not list(found.glob("*.safetensors")):
        raise UserError(f"model.source {source} has no .safetensors file; convert the weights to safetensors first")
    for path in sorted(found.iterdir()):
        if path.is_file() and path.suffix in CARRIED:
            shutil.copyfile(path, folder / path.name)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, padding on the left, checked against its own file.

    `AutoTokenizer` can silently replace a saved tokenizer by the one its model type usually has; the
    model then reads garbage and nothing errors.

    Raises:
        UserError: If it is missing, has no chat template, or reads text otherwise than its tokenizer.json.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise UserError(f"the tokenizer in {folder} cannot be loaded: {error}") from error
    if tokenizer.chat_template is None:
        raise UserError(f"the tokenizer in {folder} has no chat template; add chat_template.jinja")
    saved = folder / "tokenizer.json"
    if saved.is_file():
        expected = Tokenizer.from_file(str(saved)).encode(PROBE, add_special_tokens=False).ids
        found = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        if found != expected:
            raise UserError(
                f"{folder}: AutoTokenizer loads another tokenizer ({type(tokenizer).__name__}) than tokenizer.json "
                "holds; choose a tokenizer_class or model type that keeps it"
            )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: Path, spec: ModelSpec) -> PreTrainedModel:
    """The model of a folder, in evaluation mode, on the GPU if there is one.

    Raises:
        UserError: If the checkpoint is missing, truncated, corrupt, incomplete or holds NaN.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, spec.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise UserError(f"the model in {folder} cannot be loaded: {error}") from error
    lacking = [*report["missing_keys"], *report["mismatched_keys"]]
    if lacking:
        raise UserError(f"the model in {folder} is incomplete: no weights for {lacking[0]} and {len(lacking) - 1} more")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise UserError(f"the model in {folder} holds weights that are NaN or infinite")
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes weights (safetensors), configuration and tokenizer into a folder."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
