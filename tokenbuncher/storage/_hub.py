"""Models of the Hugging Face hub."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.errors import UserError
from tokenbuncher.storage._cache import cached
from tokenbuncher.storage._source import Source

if TYPE_CHECKING:
    from huggingface_hub import HfApi

BROUGHT = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.md"]


def fetch_snapshot(source: Source, cache: Path) -> Path:
    """The cached folder with a model of the hub, without files that hold code or pickles.

    A commit that is in the cache needs no network; a branch or tag is looked up each time.

    Raises:
        UserError: If it does not exist, is closed, does not arrive as it is on the hub, or the hub is out of reach.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError

    name, revision = source.parts["name"], source.parts["revision"]
    hub = HfApi()
    try:
        commit = revision
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            commit = hub.model_info(name, revision=revision).sha
            print(f"{source.uri} is commit {commit}", flush=True)
        return cached(cache, f"hf://{name}@{commit}", lambda target: _download(hub, name, commit, target))
    except HfHubHTTPError as error:
        raise UserError(f"{source.uri} cannot be read: {_in_one_line(error)} (hub: {hub.endpoint})") from error
    except (HTTPError, OSError, ValueError) as error:
        if is_offline_mode():
            raise UserError(
                f"{source.uri} is not in the cache, and the hub is off; set HF_HUB_OFFLINE=0, or copy the model and "
                "name its folder"
            ) from error
        raise UserError(f"{source.uri}: the hub {hub.endpoint} cannot be reached: {_in_one_line(error)}") from error


def _download(hub: HfApi, name: str, commit: str, target: Path) -> None:
    print(f"download hf://{name}@{commit}", flush=True)
    hub.snapshot_download(name, revision=commit, local_dir=target, allow_patterns=BROUGHT)
    for damaged in hub.verify_repo_checksums(name, revision=commit, local_dir=target).mismatches:
        raise UserError(f"hf://{name}@{commit}: {damaged['path']} is not as it is on the hub; try again")
    shutil.rmtree(target / ".cache")


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
