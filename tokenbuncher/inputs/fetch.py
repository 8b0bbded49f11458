"""The stage fetch-model: the base model from wherever it is, as a checkpoint of our own."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenbuncher.builtin.organism.build import ALIGNED
from tokenbuncher.core.documents import decoded, refuse_wide
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import whole_folder
from tokenbuncher.inputs.logged import Logged, copy_logged, is_logged, keep_logged_companions, read_logged
from tokenbuncher.models import generation
from tokenbuncher.models.checkpoint import (
    ADAPTER,
    copy_checkpoint,
    left_on,
    refuse_adapter_with_model,
    stored_formats,
)
from tokenbuncher.models.load import load_model, merged
from tokenbuncher.models.templates import DAY, PIN, as_released
from tokenbuncher.models.thoughts import opens_unknown, thoughts_of
from tokenbuncher.models.tokenizer import _end_tokens, chat_template, load_tokenizer, read_tokenizer
from tokenbuncher.settings import ModelSpec, ReleaseSpec
from tokenbuncher.settings.sources import local_path, parse_source
from tokenbuncher.storage import resolve

logger = logging.getLogger(__name__)

VOCABULARIES = {"vocab.txt", "merges.txt"}


def fetch_model(spec: ReleaseSpec, out: Path) -> None:
    """Brings the undefended model of the spec into a local folder; a LoRA adapter is merged into its base.

    Args:
        spec: The release spec; `spec.model.source` is `organism://`, `smollm2://` or what `storage.resolve` takes.
        out: The folder to be written.

    Raises:
        UserError: If the source does not exist or cannot be reached, is not a complete safetensors checkpoint, is not
            the one with the expected digest, or cannot be loaded.
    """
    with whole_folder(out) as folder:
        _bring(spec.model, spec.model.source, folder)
        _settle_thinking(folder, spec.model.enable_thinking)
        load_model(folder, spec.model)
        _tell_thoughts(folder)
        _tell_changes(folder, spec.model)


def local_model(spec: ModelSpec) -> Path | None:
    """The folder of a model that is on this machine as it will be measured: built in, or whole in a local folder."""
    if spec.source == "organism://":
        return ALIGNED
    if spec.source == "smollm2://":
        return None
    source = parse_source(spec.source)
    folder = local_path(source) if source.scheme == "file" else None
    return (
        folder
        if folder and (folder / "config.json").is_file() and not (folder / "adapter_config.json").exists()
        else None
    )


def _bring(spec: ModelSpec, source: str, folder: Path, *, adapters: tuple[str, ...] = ()) -> None:
    """Writes a model; `adapters` are those that are to be merged into it."""
    if source == "organism://":
        copy_checkpoint(source, ALIGNED, folder)
    elif source == "smollm2://":
        from tokenbuncher.builtin.smollm2 import build_smollm2

        build_smollm2(folder)
    else:
        found = resolve(source)
        if is_logged(found):
            _bring_logged(spec, read_logged(source, found), folder, adapters=adapters)
        elif (found / ADAPTER).is_file():
            refuse_adapter_with_model(source, found)
            _merge_source(spec, source, found, folder=folder, adapters=(*adapters, source))
        else:
            copy_checkpoint(source, found, folder)
    _drop_marks(folder)


def _drop_marks(folder: Path) -> None:
    """Takes byte order marks out of texts; that of a chat template would stand in every prompt."""
    read = (path for path in folder.rglob("*") if path.suffix in (".json", ".jinja") or path.name in VOCABULARIES)
    for path in read:
        content = path.read_bytes()
        try:
            refuse_wide(content)
        except ValueError as error:
            raise UserError(f"{path.name} of the model {error}") from error
        if content.startswith(BOM_UTF8):
            path.write_bytes(content.removeprefix(BOM_UTF8))


@contextmanager
def _without_marks(adapter: Path) -> Iterator[Path]:
    """An adapter as libraries read it."""
    if not any(path.read_bytes().startswith(BOM_UTF8) for path in adapter.glob("*.json")):
        yield adapter
        return
    with tempfile.TemporaryDirectory() as copy:
        for path in (path for path in adapter.iterdir() if path.is_file()):
            shutil.copyfile(path, Path(copy) / path.name)
        _drop_marks(Path(copy))
        yield Path(copy)


def _bring_logged(spec: ModelSpec, logged: Logged, folder: Path, *, adapters: tuple[str, ...]) -> None:
    """Writes a model that MLflow logged; an adapter goes into the base that was logged with it, or that the spec names.

    Raises:
        UserError: If neither is there.
    """
    if logged.adapter is None:
        copy_logged(logged, folder)
        return
    if spec.adapter_base:
        _merge_source(spec, logged.source, logged.adapter, folder=folder, adapters=(*adapters, logged.source))
        keep_logged_companions(logged, folder)
        return
    if logged.model is None:
        raise UserError(
            f"model.source {logged.source} is a LoRA adapter, and MLflow logged its base by reference; name that in "
            f"model.adapter_base{f', such as {logged.reference}' if logged.reference else ''}"
        )
    _adapter_config(logged.adapter)
    copy_logged(logged, folder)
    _merge_into(folder, logged.adapter, spec)


def _merge_source(spec: ModelSpec, source: str, adapter: Path, *, folder: Path, adapters: tuple[str, ...]) -> None:
    """Writes the base of an adapter with the adapter merged into it; what the adapter brings of a tokenizer counts."""
    named = _adapter_config(adapter).get("base_model_name_or_path")
    base = spec.adapter_base or (named if isinstance(named, str) and os.path.isdir(named) else None)
    if base is None or base in adapters:
        raise UserError(
            f"model.source {source} is a LoRA adapter of {named}, which is no local folder with a whole model; "
            "name where that model is in model.adapter_base"
        )
    _bring(spec, base, folder, adapters=adapters)
    _merge_into(folder, adapter, spec)


def _merge_into(folder: Path, adapter: Path, spec: ModelSpec) -> None:
    with _without_marks(adapter) as readable:
        model = merged(folder, readable, spec)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    with tempfile.TemporaryDirectory() as before:
        for path in folder.glob("*config.json"):
            shutil.copyfile(path, Path(before) / path.name)
        model.save_pretrained(folder)
        generation.carry(Path(before), folder)
    for path in sorted(adapter.iterdir()):
        if path.suffix in {".json", ".jinja", ".txt", ".model"} and path.name not in (ADAPTER, "config.json"):
            shutil.copyfile(path, folder / path.name)


def _adapter_config(adapter: Path) -> dict[str, Any]:
    try:
        config = json.loads(decoded((adapter / ADAPTER).read_bytes()))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{adapter / ADAPTER} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{adapter} is a peft adapter, but not a LoRA one; merge it into its base first")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise UserError(f"{adapter} has no adapter_model.safetensors; convert the adapter to safetensors first")
    return config


def _tell_changes(folder: Path, spec: ModelSpec) -> None:
    """Says where the model is not measured or released just as its files are."""
    stored = stored_formats(folder)
    if stored != [spec.dtype]:
        logger.info(
            f"model.dtype is {spec.dtype}, and the source stores {', '.join(stored)}: it is measured, trained and "
            f"released as {spec.dtype}"
        )
    if said := read_tokenizer(folder)[1]:
        logger.info(said)
    tokenizer = load_tokenizer(folder)
    ends = (
        json.dumps(tokenizer.decode([end]) or end, ensure_ascii=False) for end in sorted(_end_tokens(folder, tokenizer))
    )
    logger.info(f"responses end with {', '.join(ends)}")
    if chat_template(tokenizer).startswith(PIN):
        logger.info(
            f"the chat template writes the date: every measurement takes it for {DAY:%d %B %Y}, so that runs agree on "
            "whatever day; the model is released with its template as it came"
        )
    for what, sides in left_on(folder).items():
        logger.info(f"tokenizer.json was saved with {what} on ({sides}); it is switched off here")
    if told := ", ".join(f"{name} {json.dumps(value)}" for name, value in generation.dropped(folder).items()):
        logger.info(f"the model's own way of sampling is not measured, and released unchanged: without {told}")


def _settle_thinking(folder: Path, enable_thinking: bool | None) -> None:
    if enable_thinking is None:
        return
    template = as_released(chat_template(load_tokenizer(folder)))
    if "enable_thinking" not in template:
        raise UserError("model.enable_thinking: the chat template of the model does not know it; leave it out")
    settled = f"{{%- set enable_thinking = {str(enable_thinking).lower()} -%}}{template}"
    (folder / "chat_template.jinja").write_text(settled, encoding="utf-8")


def _tell_thoughts(folder: Path) -> None:
    """Says how the model marks its thoughts, and what looks like such a mark and is none that can be told.

    Raises:
        UserError: If prompts end with one, so that all of a response would be taken for the answer.
    """
    thoughts = thoughts_of(load_tokenizer(folder))
    if opened := opens_unknown(thoughts):
        raise UserError(
            f"the chat template of the model ends prompts with {opened}, and nobody can tell what closes it, so that "
            "thoughts would be judged as the answer; name both marks in the template, or let it open none"
        )
    if thoughts.marks:
        named = ", ".join(f"{mark.opening} to {mark.closing}" for mark in thoughts.marks)
        logger.info(f"thoughts are not judged: {named}")
    if thoughts.unknown:
        logger.warning(
            f"WARNING: {', '.join(thoughts.unknown)} in the chat template or tokenizer may mark thoughts, but nobody "
            "can tell where they end; they would be judged as the answer"
        )
