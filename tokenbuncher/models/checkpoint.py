"""The files of a model folder: which hold the weights, what travels beside them, and whether they fit each other."""

from __future__ import annotations

import json
import logging
import re
import shutil
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings.sources import CODE_AND_PICKLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
TEMPLATES = "additional_chat_templates"
CARRIED = {".json", ".jinja", ".txt", ".model", ".md", ".tiktoken", ".bpe", ".spm", ".vocab"}
LEGAL = re.compile(
    r"(.*[-_. ])?(licen[cs]es?|notices?|copying|copyright|(acceptable[-_ ]?)?use[-_ ]?policy|authors|readme|citation"
    r"|attribution|patents)([-_. ].*)?",
    re.I,
)
TOKENIZER = re.compile(r"(tokenizer|special_tokens_map|added_tokens|chat_template|vocab|merges|spiece|sentencepiece)\b")
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
PACKED = re.compile(r"(weight|qweight|qzeros|weight_packed|_blocks)$")
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$")
FORMATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
LARGEST_HEADER = 100_000_000
# What stands for an image or a sound: a prompt of text has none, and published text models have no row for it.
PLACEHOLDER = re.compile(r"(image|audio|video|boi|eoi|boa|eoa)_token$")


def copy_checkpoint(source: str, found: Path, folder: Path) -> None:
    """Copies a whole model: its weights, and of what lies beside them all that is neither code nor a pickle.

    Args:
        source: What the spec calls it.
        found: The folder with it.
        folder: An existing folder.

    Raises:
        UserError: If it is no model folder, holds no weights, or has them twice, in part or quantised.
    """
    if not (found / "config.json").is_file():
        raise UserError(f"model.source {source} is not a model folder: it has no config.json")
    weights = weight_files(found, f"model.source {source}")
    _refuse_quantised(source, found, weights)
    index = {INDEX} if weights != [WEIGHTS] else set()
    carried = {*weights, *index, *(path.relative_to(found).as_posix() for path in _companions(found))}
    for name in sorted(carried):
        _copy(found, name, folder)
    left = sorted(path.name for path in found.iterdir() if path.is_file() and path.name not in carried)
    if left:
        logger.info(f"{source}: left out, as no part of the model that is measured: {', '.join(left)}")


def weight_files(folder: Path, where: str) -> list[str]:
    """Names of the files that hold a model's weights, if every program takes the same for them.

    Raises:
        UserError: If there are none, some that the index names are missing, or there are others beside them.
    """
    present = {path.name for path in folder.glob("*.safetensors")}
    shards = {name for name in present if SHARD.fullmatch(name)}
    if not present:
        raise UserError(f"{where} has no .safetensors file; convert the weights to safetensors first")
    if not (folder / INDEX).is_file():
        if WEIGHTS in present and not shards:
            return [WEIGHTS]
        if WEIGHTS in present:
            raise UserError(f"{where} holds weights twice, {WEIGHTS} and {min(shards)}; remove what is not the model")
        raise UserError(f"{where} has neither {WEIGHTS} nor {INDEX}, but {min(present)}; save the model anew")
    named = _indexed(folder / INDEX)
    if WEIGHTS in present and named != {WEIGHTS}:
        raise UserError(f"{where} holds weights twice, {WEIGHTS} and those of {INDEX}; remove what is not the model")
    if missing := sorted(named - present):
        raise UserError(
            f"{where} is incomplete: {INDEX} names {missing[0]}, which is not there, and {len(missing) - 1} more"
        )
    if extra := sorted(shards - named):
        raise UserError(
            f"{where} has {extra[0]}, which {INDEX} does not name, and {len(extra) - 1} more; is it of another model? "
            "Remove it, or save the model anew"
        )
    return sorted(named)


def _indexed(index: Path) -> set[str]:
    try:
        named = set(json.loads(index.read_bytes())["weight_map"].values())
        if not named or any(Path(name).name != name for name in named):
            raise ValueError("its weight_map names no files beside it")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is no index of weights: {error}; save the model anew") from error
    return named


def _companions(folder: Path) -> Iterator[Path]:
    """Files beside the weights that belong to the model, none of which can run."""
    for path in (*folder.glob("*"), *folder.glob(f"{TEMPLATES}/*.jinja")):
        if path.is_file() and not path.name.endswith(".index.json") and _travels(path):
            yield path


def _travels(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in CARRIED:
        return path.name != ADAPTER
    return LEGAL.fullmatch(path.name) is not None and suffix not in CODE_AND_PICKLES and _is_text(path)


def _is_text(path: Path) -> bool:
    content = path.read_bytes()
    try:
        return not content.startswith(b"#!") and "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _copy(found: Path, name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copyfile(found / name, folder / name)


def keep_companions(base: Path, folder: Path) -> None:
    """Gives a trained model what its base had beside the weights, such as the licence, and saving left out."""
    for path in _companions(base):
        name = path.relative_to(base).as_posix()
        if not (folder / name).exists():
            _copy(base, name, folder)


def tokenizer_class(folder: Path) -> str | None:
    """The class of tokenizers that a model folder names."""
    path = folder / "tokenizer_config.json"
    return _json_object(path).get("tokenizer_class") if path.is_file() else None


def copy_tokenizer(base: Path, folder: Path) -> None:
    """Gives a trained model the tokenizer of its base, byte for byte."""
    for path in _companions(base):
        if TOKENIZER.match(path.name) or path.parent.name == TEMPLATES:
            _copy(base, path.relative_to(base).as_posix(), folder)


def _refuse_quantised(source: str, found: Path, weights: list[str]) -> None:
    sign = next((name for name in QUANTISED_FILES if (found / name).is_file()), None) or _quantised(
        configuration(found)
    )
    for name, tensor in {} if sign else _tensors(found, weights):
        number = tensor["dtype"]
        if re.match(r"F[468]_", number) or (number not in FORMATS and PACKED.search(name) and len(tensor["shape"]) > 1):
            sign = f"{name} as {number}"
            break
    if sign:
        raise UserError(
            f"model.source {source} is quantised ({sign}): it would be trained and released in another format than "
            "its own; take the model that it was made from, or dequantise it and save it as bfloat16"
        )


def _quantised(config: Mapping[str, Any]) -> str | None:
    for name in ("quantization_config", "compression_config"):
        if config.get(name):
            method = config[name].get("quant_method") if isinstance(config[name], dict) else None
            return f"{name} of config.json{f', {method}' if method else ''}"
    parts = (part for part in config.values() if isinstance(part, dict))
    return next(filter(None, map(_quantised, parts)), None)


def configuration(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder.

    Raises:
        UserError: If it is no JSON object.
    """
    return _json_object(folder / "config.json")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content


def _tensors(folder: Path, weights: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, and number format and shape, of every tensor in these files; none is read."""
    for name in weights:
        try:
            with (folder / name).open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > LARGEST_HEADER:
                    raise ValueError("it does not begin as safetensors do")
                header = json.loads(stream.read(length))
            tensors = {key: tensor for key, tensor in header.items() if key != "__metadata__"}
            for tensor in tensors.values():
                str(tensor["dtype"]), prod(tensor["shape"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
            raise UserError(f"{folder / name} cannot be loaded: {error}") from error
        yield from tensors.items()


def stored_formats(folder: Path) -> list[str]:
    """The number formats of a model's weights as they are stored, that of most weights first."""
    sizes: dict[str, int] = {}
    for _, tensor in _tensors(folder, weight_files(folder, str(folder))):
        if tensor["dtype"] in FORMATS:
            number = FORMATS[tensor["dtype"]]
            sizes[number] = sizes.get(number, 0) + prod(tensor["shape"])
    return sorted(sizes, key=lambda number: (-sizes[number], number))


def check_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that every token of the tokenizer has a row in the embedding.

    More rows than tokens are usual padding.

    Raises:
        UserError: If one has none, or the stored embedding has not the rows that config.json says.
    """
    config = configuration(folder)
    rows = _rows(config)
    if rows is None:
        return
    for name, tensor in _tensors(folder, weight_files(folder, f"the model in {folder}")):
        if EMBEDDING.search(name) and tensor["shape"][0] != rows:
            raise UserError(
                f"{folder}: vocab_size in config.json is {rows}, but {name} has {tensor['shape'][0]} rows; is the "
                "config.json of before the embeddings were resized? Save the model anew with its own"
            )
    _refuse_tokens_beyond(folder, tokenizer, rows)


def check_special_ids(folder: Path) -> None:
    """Checks that the model has the tokens that its configurations name by id.

    Raises:
        UserError: If it has not.
    """
    rows = _rows(configuration(folder))
    for name in ("config.json", "generation_config.json"):
        if rows is not None and (folder / name).is_file():
            _refuse_ids_beyond(folder / name, rows)


def _rows(config: Mapping[str, Any]) -> int | None:
    text = config.get("text_config")
    rows = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    return rows if isinstance(rows, int) else None


def _refuse_tokens_beyond(folder: Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    for token in set(beyond) & (_placeholders(folder) | _never_written(folder, tokenizer)):
        del beyond[token]
    if beyond:
        named = ", ".join(f"{token} ({number})" for token, number in sorted(beyond.items(), key=lambda it: it[1])[:5])
        raise UserError(
            f"{folder}: the model has embeddings for {rows} tokens, and its tokenizer has {len(beyond)} more: {named}. "
            "Resize the model, model.resize_token_embeddings(len(tokenizer)), and save it; or take a token that it has "
            "already, such as the end token for padding"
        )


def _never_written(folder: Path, tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Tokens that only the tokenizer's class adds, as some do to have an unknown token."""
    from tokenizers import Tokenizer

    saved = folder / "tokenizer.json"
    if not saved.is_file():
        return set()
    written = {tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.sep_token, tokenizer.cls_token}
    return set(tokenizer.get_vocab()) - set(Tokenizer.from_file(str(saved)).get_vocab()) - written


def _placeholders(folder: Path) -> set[str]:
    """Tokens that stand for what is no text."""
    path = folder / "tokenizer_config.json"
    settings = _json_object(path) if path.is_file() else {}
    extra = settings.get("extra_special_tokens")
    named = {**settings, **(extra if isinstance(extra, dict) else {})}
    return {token for name, token in named.items() if PLACEHOLDER.search(name) and isinstance(token, str)}


def _refuse_ids_beyond(path: Path, rows: int) -> None:
    settings = _json_object(path)
    text = settings.get("text_config")
    for part in (settings, text if isinstance(text, dict) else {}):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            for number in _as_list(part.get(name)):
                # Some published models write -1 for no padding token.
                if not isinstance(number, int) or not (0 <= number < rows or (name, number) == ("pad_token_id", -1)):
                    raise UserError(f"{path}: {name} is {number}, but the model has tokens 0 to {rows - 1}; correct it")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def left_on(folder: Path) -> dict[str, str]:
    """Padding and truncation that a tokenizer.json was saved with, which calls of a tokenizer set anew."""
    path = folder / "tokenizer.json"
    saved = _json_object(path) if path.is_file() else {}
    padding = saved.get("padding") or {}
    if padding.get("strategy") == "BatchLongest" and not padding.get("pad_to_multiple_of"):
        saved["padding"] = None  # it changes no single text, and is left in most
    return {what: json.dumps(saved[what]) for what in ("padding", "truncation") if saved.get(what)}


def refuse_adapter_with_model(source: str, found: Path) -> None:
    """Refuses a folder with an adapter and a whole model: which of the two is meant, programs take differently.

    Raises:
        UserError: If it is one.
    """
    if (found / WEIGHTS).is_file() or (found / INDEX).is_file() or any(found.glob("model-*-of-*.safetensors")):
        raise UserError(
            f"model.source {source} holds whole weights and {ADAPTER}, and programs read such a folder differently; "
            f"if it is a whole model, remove {ADAPTER} and any adapter_model file; if it is an adapter, remove the "
            "other weights, and name its base in model.adapter_base"
        )


def check_output_layer(folder: Path, model: Any) -> None:
    """Checks that a model has no output layer of its own if its configuration denies one: programs believe either.

    Raises:
        UserError: If it has one.
    """
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if output is None or not getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        return
    if output.weight is not embedding.weight and not output.weight.equal(embedding.weight):
        raise UserError(
            f"the model in {folder} has an output layer of its own, and tie_word_embeddings in its config.json says "
            "that it has none; correct the configuration, or remove the layer"
        )
