"""Whether a model has room for prompts and their responses; what it has none for is refused before any costly work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.prompts import Prompt, load_manifest, load_set

LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
"""By these names configurations say how many positions a model has."""
EXTENDED = ("linear", "dynamic", "yarn")
"""Kinds of rotary embeddings that multiply the positions by a factor."""


def check_lengths(spec: ReleaseSpec, data: Path, model: Path) -> None:
    """Checks all prompt sets of a release, whichever stage uses them; see `check_room`.

    Args:
        spec: The release spec.
        data: Folder of prepare-data.
        model: Folder of the undefended model.

    Raises:
        UserError: If a prompt does not fit, or data or model cannot be read.
    """
    check_room(spec, {name: load_set(data, name) for name in load_manifest(data).sets}, model)


def check_room(spec: ReleaseSpec, sets: Mapping[str, Sequence[Prompt]], model: Path) -> None:
    """Checks that the model has a position for each token of a prompt, and of a response or the answer that is taught.

    Args:
        spec: The release spec.
        sets: Prompts by the name of their set.
        model: Folder of the model.

    Raises:
        UserError: If a prompt does not fit: names its set, its line there and the lengths.
    """
    from tokenbuncher.models.tokenizer import load_tokenizer

    room = positions(model)
    if room is None:
        return
    tokenizer, taught = load_tokenizer(model), _taught(spec)
    for name, prompts in sets.items():
        turns = [prompt.messages for prompt in prompts]
        asked = _lengths(tokenizer, tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        answers = _lengths(tokenizer, [prompt.answer or "" if name in taught else "" for prompt in prompts])
        needed = [max(spec.model.max_new_tokens, answer + 1) for answer in answers]  # an answer has an end, too
        _refuse_longer(name, prompts, list(zip(asked, needed, strict=True)), room=room)


def positions(model: Path) -> int | None:
    """How many tokens a model reads at most, by its configuration; None if that knows no bound.

    Raises:
        UserError: If the configuration cannot be read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise UserError(f"the configuration of the model in {model} cannot be read: {error}") from error
    return room_of(config)


def room_of(config: Any) -> int | None:
    """How many tokens a model reads at most; None if its configuration knows no bound."""
    named = [getattr(config.get_text_config(), name, None) for name in LENGTHS]
    room = next((length for length in named if isinstance(length, int) and length > 0), None)
    return None if room is None else max(room, _extended(config.get_text_config(), room))


def _extended(config: Any, room: int) -> int:
    rope = getattr(config, "rope_parameters", None) or {}
    factor = rope.get("factor")
    if rope.get("rope_type") not in EXTENDED or not isinstance(factor, int | float):
        return room
    return int((rope.get("original_max_position_embeddings") or room) * factor)


def _taught(spec: ReleaseSpec) -> set[str]:
    """Sets whose answers some stage trains on."""
    attacks = spec.attacks.suite
    warm_ups = {attack.warm_up.answers for attack in attacks if attack.warm_up}
    harmful = "harmful" in warm_ups or any(attack.traits.needs_answers for attack in attacks)
    return {
        "tuning-sft-train",
        *(("attack", "capability-attack") if harmful else ()),
        *(("benign",) if "benign" in warm_ups else ()),
    }


def _lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _refuse_longer(name: str, prompts: Sequence[Prompt], lengths: Sequence[tuple[int, int]], *, room: int) -> None:
    longer = [line for line, (asked, answered) in enumerate(lengths) if asked + answered > room]
    if not longer:
        return
    first = longer[0]
    asked, answered = lengths[first]
    raise UserError(
        f"{len(longer)} of {len(prompts)} prompts of the set {name} are too long for the model, which reads {room} "
        f"tokens at most: line {first + 1} (prompt {prompts[first].id}) has {asked} tokens, and its response up to "
        f"{answered}. Shorten them or leave them out (max_words of the file in data), lower model.max_new_tokens, or "
        "take a model that reads more; nothing is cut here"
    )
