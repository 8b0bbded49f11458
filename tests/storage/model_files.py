"""The files of a small model, and where they are."""

import random

from tokenbuncher.core.files import folder_files

PART = 5 * 2**20  # the smallest that S3 takes
WEIGHTS = random.Random(0).randbytes(2 * PART + 1000)
FILES = {
    "model.safetensors": WEIGHTS,
    "config.json": b'{"model_type": "llama"}',
    "tokenizer/tokenizer.json": b"{}",
    "README.md": b"",
}
PARTIAL = "was published but in part"


def write(folder, **changes):
    for name, content in (FILES | changes).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder):
    return {name: (folder / name).read_bytes() for name in folder_files(folder)}


def keys(s3, bucket, prefix=""):
    return {entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())}


def uploads(s3, bucket):
    return s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])


def nothing_in(cache):
    return not cache.exists() or {path.suffix for path in cache.iterdir()} <= {".lock"}
