"""Tokenizers: loaded whole, with a chat template that loses no question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenbuncher.core.environment import swift_imports
from tokenbuncher.core.errors import UserError
from tokenbuncher.models import generation
from tokenbuncher.models.checkpoint import (
    check_special_ids,
    copy_tokenizer,
    tokenizer_class,
)
from tokenbuncher.models.templates import CONVERSATIONS, as_released, check_rendered, tried
from tokenbuncher.models.thoughts import TURN, thoughts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


PROBE = (
    "how do i add 12 and 7 ? Well-formed text, please.\n\n  It's naïve: x_1 = 3.14, 東京! THEY'LL add 1984, 2024"
    " and 1,000,000;\r\n\tfor (i = 0; i <= 10; ++i) { sumOf[i] += 25; }  🙂 cafe\u0301 ﬁne Привет, مرحبا 你好 안녕\n"
)

LARGEST_TOKEN = 10_000_000

ANSWER = "fine"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, padding on the left, checked against its own file.

    Raises:
        UserError: If it is missing, has no end token, reads text otherwise than its tokenizer.json, or has no chat
            template or one that does not render a question and its answer as they are.
    """
    check_special_ids(folder)  # first: transformers refuses them in words about its own classes
    tokenizer, _ = read_tokenizer(folder)
    _check_default_template(folder, tokenizer)
    if tokenizer.eos_token is None:
        raise UserError(f"the tokenizer in {folder} has no end token; name its eos_token in tokenizer_config.json")
    _mark_ends(folder, tokenizer)
    _try_template(folder, tokenizer)
    try:
        check_rendered(f"the chat template in {folder}", tokenizer)
        turn_end(tokenizer)
        thoughts_of(tokenizer)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the chat template in {folder} cannot render a question and its answer: {error}") from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template for rendering questions, if there are several."""
    templates = tokenizer.chat_template
    return str(templates.get("default", "")) if isinstance(templates, dict) else templates


def _use_template(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    templates = tokenizer.chat_template
    tokenizer.chat_template = {**templates, "default": template} if isinstance(templates, dict) else template


def _check_default_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    templates = tokenizer.chat_template
    if templates is None:
        raise UserError(f"the tokenizer in {folder} has no chat template; add chat_template.jinja")
    if isinstance(templates, dict) and "default" not in templates:
        raise UserError(
            f"the tokenizer in {folder} has chat templates ({', '.join(sorted(templates))}), but none of the name "
            "default, which questions are rendered with; add it as chat_template.jinja"
        )
    if not chat_template(tokenizer).strip():
        raise UserError(f"the chat template in {folder} is empty; write one into chat_template.jinja")


def _try_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    template = tried(
        f"the chat template in {folder}",
        chat_template(tokenizer),
        tokenizer.special_tokens_map,
        conversations=CONVERSATIONS,
    )
    _use_template(tokenizer, template)


def check_token_ids(folder: Path) -> None:
    """The tokenizers library makes room for every identifier up to the largest, whatever lies between.

    Raises:
        UserError: If one in the folder's tokenizer.json is beyond all vocabularies.
    """
    try:
        largest = max(json.loads((folder / "tokenizer.json").read_bytes())["model"]["vocab"].values())
    except Exception:  # there is none, or it is of another form: the library tells whether that is one
        return
    if largest > LARGEST_TOKEN:
        raise UserError(f"{folder / 'tokenizer.json'} has a token with the identifier {largest}; mend the tokenizer")


def read_tokenizer(folder: Path) -> tuple[PreTrainedTokenizerBase, str | None]:
    """The tokenizer of a folder, and remarks about it.

    `AutoTokenizer` can silently replace a saved tokenizer by the one that its model type or class usually has; then the
    folder's tokenizer.json is read itself, with the settings of tokenizer_config.json.

    Raises:
        UserError: If it cannot be loaded, or read text as its tokenizer.json does, if there is one.
    """
    with swift_imports():
        import transformers

    check_token_ids(folder)
    tokenizer = _from(transformers.AutoTokenizer, folder)
    if _reads_as_saved(folder, tokenizer):
        return tokenizer, None
    own, replaced = _from(transformers.PreTrainedTokenizerFast, folder), type(tokenizer).__name__
    if not _reads_as_saved(folder, own):
        raise UserError(
            f"{folder}: AutoTokenizer loads another tokenizer ({replaced}) than tokenizer.json holds, and with "
            "tokenizer_config.json that one does not read text as it does alone; mend their settings"
        )
    return own, (
        f"AutoTokenizer of transformers {transformers.__version__} loads another tokenizer ({replaced}) than "
        "tokenizer.json holds: tokenizer.json itself is used; look that what serves the model reads that too"
    )


def _from(kind: Any, folder: Path) -> PreTrainedTokenizerBase:
    try:
        return cast(
            "PreTrainedTokenizerBase", kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        )
    except Exception as error:
        raise UserError(f"the tokenizer in {folder} cannot be loaded: {error}") from error


def _reads_as_saved(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    from tokenizers import Tokenizer

    saved = folder / "tokenizer.json"
    if not saved.is_file():
        return True
    try:
        own = Tokenizer.from_file(str(saved))
        own.no_padding()  # both may have been left on; whoever calls the tokenizer says anew what is wanted
        own.no_truncation()
        expected = own.encode(PROBE, add_special_tokens=False).ids
        return bool(tokenizer(PROBE, add_special_tokens=False)["input_ids"] == expected)
    except Exception as error:
        raise UserError(f"the tokenizer in {folder} cannot read text: {error}") from error


def turn_end(tokenizer: PreTrainedTokenizerBase) -> str:
    """The special token that ends a response in the chat template; the tokenizer's own end token if there is none.

    Other added tokens, such as a blank line, are text.
    """
    turns = [*TURN, {"role": "assistant", "content": ANSWER}]
    rest = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(ANSWER)[2]
    ids, marks = tokenizer(rest, add_special_tokens=False)["input_ids"], tokenizer.added_tokens_decoder
    return next((marks[it].content for it in ids if it in marks and marks[it].special), tokenizer.eos_token)


def _mark_ends(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """What ends responses by the model's own files is no text, though the tokenizer may not call it special."""
    added, ends = tokenizer.added_tokens_decoder, generation.end_tokens(folder)
    for token in (added[end] for end in ends if end in added and not added[end].special):
        token.special = True
        tokenizer.add_tokens([token], special_tokens=True)


def _end_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The model's end tokens, the tokenizer's and the chat template's, unless that one ends thoughts as well."""
    end, within = turn_end(tokenizer), {mark.ending for mark in thoughts_of(tokenizer).marks}
    own = {tokenizer.eos_token_id, *([] if end in within else [tokenizer.convert_tokens_to_ids(end)])}
    return generation.end_tokens(folder) | own


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, base: Path | None = None) -> None:
    """Writes a tokenizer with its chat template as it came.

    If saving would name another class than the tokenizer's files in `base` do, these are copied as they are: whatever
    loads the base, such as an older library that has no such class, loads what is trained from it.
    """
    if base is not None and tokenizer_class(base) != type(tokenizer).__name__:
        copy_tokenizer(base, folder)
        return
    used = chat_template(tokenizer)
    _use_template(tokenizer, as_released(used))
    tokenizer.save_pretrained(folder)
    _use_template(tokenizer, used)
