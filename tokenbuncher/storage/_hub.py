"""Models, and files of datasets, of the Hugging Face hub."""

from __future__ import annotations

import glob
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_files
from tokenbuncher.settings.sources import CODE_AND_PICKLES, Source, refuse_unsafe
from tokenbuncher.storage._cache import cached
from tokenbuncher.storage._growing import growing

logger = logging.getLogger(__name__)

BROUGHT = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.md", "*.tiktoken", "*.bpe", "*.spm", "*.vocab"]
LEGAL = [
    f"*{spelt}*"
    for word in ("license", "licence", "notice", "copying", "use_policy", "citation", "attribution")
    for spelt in (word, word.upper(), word.title())
]
NEVER = [*(f"*{suffix}" for suffix in CODE_AND_PICKLES), "consolidated*.safetensors", "original/*"]
"""Code and pickles, and second copies of the weights in other programs' forms."""


def fetch_snapshot(source: Source, cache: Path) -> Path:
    """The cached folder with a model of the hub, without files that hold code or pickles.

    A commit that is in the cache needs no network; a branch or tag is looked up each time.

    Raises:
        UserError: If it does not exist, is closed, does not arrive as it is on the hub, or the hub is out of reach.
    """
    return _fetch(source, "model", "", brought=[*BROUGHT, *LEGAL], cache=cache)


def fetch_dataset_file(source: Source, cache: Path) -> Path:
    """The cached file of a dataset of the hub; see `fetch_snapshot`.

    Raises:
        UserError: As for a model.
    """
    path = source.parts["path"]
    refuse_unsafe([path], source.uri)
    return _fetch(source, "dataset", f"/{path}", brought=[glob.escape(path)], cache=cache) / path


def commit_of(source: Source, kind: str) -> str:
    """The commit that a revision of a model or dataset is now; a commit itself needs no network.

    Raises:
        UserError: As of fetching.
    """
    from huggingface_hub import HfApi

    revision = str(source.parts["revision"])
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    with _in_words(source, kind):
        return str(HfApi().repo_info(source.parts["name"], revision=revision, repo_type=kind).sha)


def _fetch(source: Source, kind: str, path: str, *, brought: list[str], cache: Path) -> Path:
    from huggingface_hub import HfApi

    name, commit = source.parts["name"], commit_of(source, kind)
    if commit != source.parts["revision"]:
        logger.info(f"{source.uri} is commit {commit}")
    hub = HfApi()
    exact = f"hf://{'datasets/' if kind == 'dataset' else ''}{name}@{commit}{path}"

    def download(target: Path) -> None:
        logger.info(f"download {exact}")
        wanted: dict[str, Any] = {"revision": commit, "repo_type": kind, "local_dir": target, "allow_patterns": brought}
        wanted |= {"ignore_patterns": NEVER if kind == "model" else None}
        size = sum(file.file_size or 0 for file in hub.snapshot_download(name, dry_run=True, **wanted))
        with growing(target, f"download {exact}", size):
            hub.snapshot_download(name, **wanted)
        checked = hub.verify_repo_checksums(name, revision=commit, repo_type=kind, local_dir=target)
        for damaged in checked.mismatches:
            raise UserError(f"{exact}: {damaged['path']} is not as it is on the hub; try again")
        shutil.rmtree(target / ".cache", ignore_errors=True)
        if not folder_files(target):
            raise UserError(f"there is nothing at {exact}")

    with _in_words(source, kind):
        return cached(cache, exact, download)


@contextmanager
def _in_words(source: Source, kind: str) -> Iterator[None]:
    """Tells what went wrong with the hub.

    Raises:
        UserError: In place of an error of the hub's client.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError

    endpoint = HfApi().endpoint
    try:
        yield
    except HfHubHTTPError as error:
        raise UserError(f"{source.uri} cannot be read: {_in_one_line(error)} (hub: {endpoint})") from error
    except (HTTPError, OSError, ValueError) as error:
        if is_offline_mode():
            raise UserError(
                f"{source.uri} is not in the cache, and the hub is off; set HF_HUB_OFFLINE=0, or copy the {kind} and "
                f"name its {'folder' if kind == 'model' else 'file'}"
            ) from error
        raise UserError(f"{source.uri}: the hub {endpoint} cannot be reached: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
