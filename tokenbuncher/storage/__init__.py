"""Folders by URI: brought here whole and verified, published whole or not at all.

    folder = resolve("s3://models/base#sha256=...")      # also hf://, models:/, file://, a path
    pinned = publish(folder, "s3://models/hardened/7")   # "s3://models/hardened/7#sha256=..."

What comes from elsewhere is kept in the user's cache ($XDG_CACHE_HOME, else ~/.cache) and fetched once.
"""

from tokenbuncher.storage._publish import publish
from tokenbuncher.storage._resolve import resolve
from tokenbuncher.storage._source import parse_source

__all__ = ["parse_source", "publish", "resolve"]
