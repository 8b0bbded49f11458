"""Folders and single files by URI: brought here whole and verified, published whole or not at all.

    folder = resolve("s3://models/base#sha256=...")      # also hf://, models:/, file://, a path
    file = resolve_file("s3://data/prompts.csv")         # also hf://datasets/, file://, a path
    pinned = publish(folder, "s3://models/hardened/7")   # "s3://models/hardened/7#sha256=..."

What comes from elsewhere is kept in the user's cache ($XDG_CACHE_HOME, else ~/.cache) and fetched once.
"""

from tokenbuncher.storage._bucket import client_of_bucket
from tokenbuncher.storage._cache import cached, forget, in_cache, user_cache
from tokenbuncher.storage._file import resolve_file
from tokenbuncher.storage._pin import pin, pin_file
from tokenbuncher.storage._publish import publish
from tokenbuncher.storage._records import bring_records
from tokenbuncher.storage._resolve import resolve

__all__ = [
    "bring_records",
    "cached",
    "client_of_bucket",
    "forget",
    "in_cache",
    "pin",
    "pin_file",
    "publish",
    "resolve",
    "resolve_file",
    "user_cache",
]
