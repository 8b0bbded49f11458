"""Fetches the small files of a pipeline's outputs that hold its results."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings.sources import refuse_unsafe
from tokenbuncher.storage._bucket import client_of_bucket, read_object
from tokenbuncher.storage.s3 import bucket_errors, bucket_names

_BUCKET = re.compile(r"(?:s3|minio)://(?P<bucket>[^/?]+)/(?P<prefix>[^?]+)(?:\?.*)?")
ATTEMPTS = 2


def bring_records(uri: str, names: Collection[str], folder: Path) -> Path:
    """A local folder with the files of these names below a URI, where they lie as they do there.

    Args:
        uri: A local folder, which is used as it is, or `s3://` or `minio://`, as Kubeflow Pipelines names its outputs.
        names: Names of the files to fetch. All others, such as weights, are left alone.
        folder: An empty folder for files from a bucket.

    Raises:
        UserError: If the URI is of another form, or its server refuses or cannot be reached.
    """
    if uri and "://" not in uri:
        return Path(uri)
    match = _BUCKET.fullmatch(uri)
    if match is None:
        raise UserError(f"{uri or 'the place'} is in no store that is read here; look at the outputs of the tasks")
    bucket, prefix = match["bucket"], match["prefix"].strip("/") + "/"
    with bucket_errors(f"{uri} cannot be read"):
        client = client_of_bucket(ATTEMPTS)
        wanted = [key for key in bucket_names(client, bucket, prefix) if PurePosixPath(key).name in names]
        refuse_unsafe(wanted, uri)
        for key in wanted:
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(read_object(client, bucket, prefix + key) or b"")
    return folder
