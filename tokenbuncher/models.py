"""Models on disk: fetch, load, save, and make trainable; safetensors only, never code from a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenbuncher import generation
from tokenbuncher.checkpoint import (
    ADAPTER,
    check_output_layer,
    check_special_ids,
    check_vocabulary,
    copy_checkpoint,
    copy_tokenizer,
    left_on,
    refuse_adapter_with_model,
    stored_formats,
    tokenizer_class,
)
from tokenbuncher.documents import decoded, refuse_wide
from tokenbuncher.environment import swift_imports
from tokenbuncher.errors import UserError
from tokenbuncher.files import whole_folder
from tokenbuncher.mlflow_models import Logged, copy_logged, is_logged, keep_logged_companions, read_logged
from tokenbuncher.settings import ModelSpec, ReleaseSpec
from tokenbuncher.storage import resolve
from tokenbuncher.templates import CONVERSATIONS, DAY, PIN, as_released, check_rendered, tried
from tokenbuncher.thoughts import TURN, opens_unknown, thoughts_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE = (
    "how do i add 12 and 7 ? Well-formed text, please.\n\n  It's naïve: x_1 = 3.14, 東京! THEY'LL add 1984, 2024"
    " and 1,000,000;\r\n\tfor (i = 0; i <= 10; ++i) { sumOf[i] += 25; }  🙂 cafe\u0301 ﬁne Привет, مرحبا 你好 안녕\n"
)
VOCABULARIES = {"vocab.txt", "merges.txt"}
LARGEST_TOKEN = 10_000_000
ANSWER = "fine"


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


def _bring(spec: ModelSpec, source: str, folder: Path, adapters: tuple[str, ...] = ()) -> None:
    """Writes a model; `adapters` are those that are to be merged into it."""
    if source == "organism://":
        from tokenbuncher.organism.build import ALIGNED

        copy_checkpoint(source, ALIGNED, folder)
    elif source == "smollm2://":
        from tokenbuncher.smollm2 import build_smollm2

        build_smollm2(folder)
    else:
        found = resolve(source)
        if is_logged(found):
            _bring_logged(spec, read_logged(source, found), folder, adapters)
        elif (found / ADAPTER).is_file():
            refuse_adapter_with_model(source, found)
            _merge_source(spec, source, found, folder, (*adapters, source))
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


def _bring_logged(spec: ModelSpec, logged: Logged, folder: Path, adapters: tuple[str, ...]) -> None:
    """Writes a model that MLflow logged; an adapter goes into the base that was logged with it, or that the spec names.

    Raises:
        UserError: If neither is there.
    """
    if logged.adapter is None:
        copy_logged(logged, folder)
        return
    if spec.adapter_base:
        _merge_source(spec, logged.source, logged.adapter, folder, (*adapters, logged.source))
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


def _merge_source(spec: ModelSpec, source: str, adapter: Path, folder: Path, adapters: tuple[str, ...]) -> None:
    """Writes the base of an adapter with the adapter merged into it; what the adapter brings of a tokenizer counts."""
    named = _adapter_config(adapter).get("base_model_name_or_path")
    base = spec.adapter_base or (named if isinstance(named, str) and os.path.isdir(named) else None)
    if base is None or base in adapters:
        raise UserError(
            f"model.source {source} is a LoRA adapter of {named}, which is no local folder with a whole model; "
            "name where that model is in model.adapter_base"
        )
    _bring(spec, base, folder, adapters)
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
        print(
            f"model.dtype is {spec.dtype}, and the source stores {', '.join(stored)}: it is measured, trained and "
            f"released as {spec.dtype}",
            flush=True,
        )
    if said := read_tokenizer(folder)[1]:
        print(said, flush=True)
    tokenizer = load_tokenizer(folder)
    ends = (
        json.dumps(tokenizer.decode([end]) or end, ensure_ascii=False) for end in sorted(_end_tokens(folder, tokenizer))
    )
    print(f"responses end with {', '.join(ends)}", flush=True)
    if chat_template(tokenizer).startswith(PIN):
        print(
            f"the chat template writes the date: every measurement takes it for {DAY:%d %B %Y}, so that runs agree on "
            "whatever day; the model is released with its template as it came",
            flush=True,
        )
    for what, sides in left_on(folder).items():
        print(f"tokenizer.json was saved with {what} on ({sides}); it is switched off here", flush=True)
    if told := ", ".join(f"{name} {json.dumps(value)}" for name, value in generation.dropped(folder).items()):
        print(f"the model's own way of sampling is not measured, and released unchanged: without {told}", flush=True)


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
        print(f"thoughts are not judged: {named}", flush=True)
    if thoughts.unknown:
        print(
            f"WARNING: {', '.join(thoughts.unknown)} in the chat template or tokenizer may mark thoughts, but nobody "
            "can tell where they end; they would be judged as the answer",
            flush=True,
        )


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
    """The template that questions are rendered with, if there are several."""
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
        CONVERSATIONS,
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
    """The tokenizer of a folder, and what is to be said about it.

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


def _end_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The model's end tokens, the tokenizer's and the chat template's, unless that one ends thoughts as well."""
    end, within = turn_end(tokenizer), {mark.ending for mark in thoughts_of(tokenizer).marks}
    own = {tokenizer.eos_token_id, *([] if end in within else [tokenizer.convert_tokens_to_ids(end)])}
    return generation.end_tokens(folder) | own


def trainable(model: Any, spec: ModelSpec, seed: int, head: str | None = None) -> Any:
    """The model as it is to be trained: itself, or with a LoRA adapter on its frozen weights.

    Args:
        model: The model; gets the adapter in place.
        spec: Says which.
        seed: Of the adapter's first weights.
        head: A new layer on top, which is trained in full.

    Raises:
        UserError: If the model has no such layers.
    """
    if spec.lora is None:
        return model
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=spec.lora.target_modules,
        modules_to_save=[head] if head else None,
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


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, base: Path | None = None) -> None:
    """Writes weights (safetensors), configuration and tokenizer into a folder; a LoRA adapter is merged, for good.

    Args:
        model: What is saved.
        tokenizer: Of the model.
        folder: Where to.
        base: The folder that the tokenizer is from, if from any.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    model.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(tokenizer, folder, base)


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
