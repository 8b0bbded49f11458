"""Models as `mlflow.transformers.log_model` lays them out: weights, tokenizer and adapter in folders of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenbuncher.core.documents import yaml_problem
from tokenbuncher.core.errors import UserError
from tokenbuncher.models.checkpoint import INDEX, WEIGHTS, copy_checkpoint, keep_companions, weight_files

DESCRIPTION = "MLmodel"
ADAPTED = re.compile(r"\.base_layer(?=\.)")
OF_ADAPTER = re.compile(r"\.lora_(\w+)\.")


class Logged(NamedTuple):
    """Where the parts of a logged model are."""

    source: str
    root: Path
    model: Path | None
    """Folder of the weights; None if they were logged by reference."""
    adapter: Path | None
    components: list[Path]
    """Folders of the tokenizer and of processors, the tokenizer's first."""
    reference: str | None
    """The model on the hub that it was logged as, if it was."""


def is_logged(folder: Path) -> bool:
    """Whether MLflow laid the folder out."""
    return (folder / DESCRIPTION).is_file() and not (folder / "config.json").is_file()


def read_logged(source: str, root: Path) -> Logged:
    """The parts of a logged model, by its MLmodel file.

    Raises:
        UserError: If that cannot be read, or is about a model of another library.
    """
    flavor = _flavor(source, root)
    parts = flavor.get("components") or []
    names = sorted(map(str, parts if isinstance(parts, list) else []), key=lambda name: name != "tokenizer")
    name, revision = flavor.get("source_model_name"), flavor.get("source_model_revision")
    return Logged(
        source,
        root,
        _folder(source, root, flavor.get("model_binary") or flavor.get("pipeline")),
        _folder(source, root, flavor.get("peft_adaptor")),
        [path for part in names if (path := _folder(source, root, f"components/{part}"))],
        f"hf://{name}@{revision or 'REVISION'}" if name and not Path(str(name)).is_absolute() else None,
    )


def _flavor(source: str, root: Path) -> Mapping[str, Any]:
    import yaml

    try:
        flavors = yaml.safe_load((root / DESCRIPTION).read_text(encoding="utf-8"))["flavors"]
        known = sorted(map(str, flavors))
        flavor = flavors.get("transformers")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"model.source {source}: its {DESCRIPTION} cannot be read: {yaml_problem(error)}") from error
    if not isinstance(flavor, dict):
        raise UserError(
            f"model.source {source} was logged with MLflow as {', '.join(known)}; only what mlflow.transformers "
            "logged is read, or a folder that save_pretrained wrote"
        )
    return flavor


def _folder(source: str, root: Path, name: Any) -> Path | None:
    if name is None:
        return None
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", name):
        raise UserError(f"model.source {source}: its {DESCRIPTION} names no folder within it: {name!r}")
    return root / name if (root / name).is_dir() else None


def copy_logged(logged: Logged, folder: Path) -> None:
    """Copies the whole model of a logged one, with tokenizer and processors, and licence and card.

    Raises:
        UserError: If its weights were logged by reference, or it is no whole model.
    """
    if logged.model is None:
        raise UserError(
            f"model.source {logged.source} holds no weights: MLflow logged it by reference to a model of the Hugging "
            f"Face hub; name that one, {logged.reference or 'hf://org/name@revision'}"
        )
    copy_checkpoint(f"{logged.source} ({logged.model.name}/)", logged.model, folder)
    keep_logged_companions(logged, folder)
    if logged.adapter:
        _take_adapter_out(folder)


def keep_logged_companions(logged: Logged, folder: Path) -> None:
    """Adds tokenizer and processors, and what MLflow keeps of licence and card, to a model's files."""
    for place in (*logged.components, logged.root):
        keep_companions(place, folder)
    (folder / "requirements.txt").unlink(missing_ok=True)  # MLflow's own, of the packages that logged it


def _take_adapter_out(folder: Path) -> None:
    """Undoes what peft does to the base: MLflow logs it with the adapter's tensors among its own."""
    from safetensors.torch import load_file, save_file

    for name in weight_files(folder, str(folder)):
        tensors = load_file(folder / name)
        if any(map(ADAPTED.search, tensors)):
            own = {ADAPTED.sub("", key): value for key, value in tensors.items() if not OF_ADAPTER.search(key)}
            save_file(own, folder / name, metadata={"format": "pt"})
    if not (folder / WEIGHTS).is_file():
        _rename_in_index(folder)


def _rename_in_index(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_bytes())
    weights = index["weight_map"].items()
    index["weight_map"] = {ADAPTED.sub("", key): file for key, file in weights if not OF_ADAPTER.search(key)}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
