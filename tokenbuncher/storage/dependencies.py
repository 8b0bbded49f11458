"""What a result depends on beside the inputs of its stage: the tool itself, and what the spec names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenbuncher.core.documents import digest_of
from tokenbuncher.core.environment import installed_versions
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import file_digest, folder_digest, listing_digest
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.sources import local_path, parse_source

SETTINGS = {"defence", "attacks", "evaluation"}
"""Parts of the spec that may name files and models which stages read."""


class Doubtful(Exception):
    """It cannot be told whether a file or model that the spec names is still the same."""


def surroundings(spec: ReleaseSpec, for_later_runs: bool = False) -> str:
    """A digest of the tool, of the libraries, and of the files and models that the spec names; see `named_files`.

    Raises:
        Doubtful: As `named_files`.
    """
    return digest_of([sources(), installed_versions(), dict(named_files(spec, for_later_runs))])


def sources() -> str:
    """sha256 of this package: of a working copy the version alone says little."""
    package = Path(__file__).parents[1]
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return listing_digest({path.relative_to(package).as_posix(): file_digest(path) for path in files})


def named_files(spec: ReleaseSpec, for_later_runs: bool = False) -> Iterator[tuple[str, str]]:
    """sha256 of local files and folders that the spec names, such as those of judges.

    Args:
        spec: The release spec.
        for_later_runs: Whether a model behind an endpoint is in doubt; within one run it counts as part of the spec.

    Raises:
        Doubtful: If a model is elsewhere and no digest or commit says which one it is.
    """
    for text in _texts(spec.model_dump(mode="json", include=SETTINGS)):
        if for_later_runs and text.startswith(("http://", "https://")):
            raise Doubtful(text)
        try:
            source = parse_source(text)
        except UserError:
            continue
        if source.scheme == "file":
            path = local_path(source)
            if os.path.exists(path):  # of a text that can be no path, Path.exists raises
                yield text, folder_digest(path) if path.is_dir() else file_digest(path)
        elif not source.digest and not (source.scheme == "hf" and len(source.parts["revision"]) == 40):
            raise Doubtful(text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for name, part in value.items() if name != "cache" for text in _texts(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in _texts(part))
