"""How responses are sampled: by our own configuration. The model's generation_config.json is only copied.

A model's own file says how its makers like it to be served: min_p, suppressed tokens, beams. With these a measurement
would be theirs. What counts here is which tokens end a response, and which one pads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import write_text

if TYPE_CHECKING:
    from transformers import GenerationConfig

FILE_NAME = "generation_config.json"
CONFIG = "config.json"
COUNTS = {"eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id"}
ABOUT_ITSELF = {"_from_model_config", "transformers_version"}


def own_config(ends: set[int], pad: int | None) -> GenerationConfig:
    """A generation configuration with the end tokens and the padding token of a model, and nothing else."""
    from transformers import GenerationConfig

    return GenerationConfig(eos_token_id=sorted(ends), pad_token_id=pad)


def eos_ids(model: Any) -> set[int]:
    """Token ids that end a response."""
    return _as_set(model.generation_config.eos_token_id)


@contextmanager
def plainly(model: Any, pad: int | None) -> Iterator[None]:
    """Within the block, the model generates by `own_config` instead of its own configuration."""
    theirs = model.generation_config
    model.generation_config = own_config(eos_ids(model), pad)
    try:
        yield
    finally:
        model.generation_config = theirs


def end_tokens(folder: Path) -> set[int]:
    """Token ids that end a response by the model's own files.

    Raises:
        UserError: If these contradict themselves, so that nobody could load the model as it is released.
    """
    from transformers import GenerationConfig

    own = _own(folder)
    try:
        GenerationConfig.from_dict(dict(own))
    except Exception as error:
        where = folder / (FILE_NAME if (folder / FILE_NAME).is_file() else CONFIG)
        raise UserError(f"{where}: transformers refuses what it says on generation: {error}") from error
    return _as_set(own.get("eos_token_id"))


def dropped(folder: Path) -> dict[str, Any]:
    """Generation settings of a model's files that are ignored here, by name, without the library's defaults."""
    from transformers import GenerationConfig

    usual = {**GenerationConfig._get_default_generation_params(), "output_attentions": False}
    usual["output_hidden_states"] = False
    told = {name: value for name, value in _own(folder).items() if value is not None}
    return {
        name: value
        for name, value in sorted(told.items())
        if name not in COUNTS | ABOUT_ITSELF and (name not in usual or usual[name] != value)
    }


def carry(base: Path, folder: Path) -> None:
    """Gives a saved model the generation configuration of its base, byte for byte, or none if that has none.

    Old models have it in config.json, from where transformers drops it on saving.
    """
    (folder / FILE_NAME).unlink(missing_ok=True)
    if (base / FILE_NAME).is_file():
        shutil.copyfile(base / FILE_NAME, folder / FILE_NAME)
    theirs, saved = _read(base / CONFIG), _read(folder / CONFIG)
    lost = {name: value for name, value in theirs.items() if name in _fields() and name not in saved}
    if lost:
        write_text(folder / CONFIG, json.dumps({**saved, **lost}, indent=2, sort_keys=True) + "\n")


def _own(folder: Path) -> dict[str, Any]:
    """What generation_config.json says; where there is none, what config.json does."""
    if (folder / FILE_NAME).is_file():
        return _read(folder / FILE_NAME)
    config = _read(folder / CONFIG)
    text = config.get("text_config")
    known = {**(text if isinstance(text, dict) else {}), **config}
    return {name: value for name, value in known.items() if name in _fields()}


def _fields() -> set[str]:
    from transformers import GenerationConfig

    return set(GenerationConfig().to_dict()) - ABOUT_ITSELF


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes())  # that they can be read `checkpoint` has checked
    assert isinstance(content, dict)
    return content


def _as_set(ends: Any) -> set[int]:
    return set(ends if isinstance(ends, list) else [] if ends is None else [ends])
