"""Writes a commented release spec to begin with.

write_spec("hf", Path("release.yaml"))
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings.datasets import DATASETS

TEMPLATE = "init.yaml.jinja"
MARK = "# CHANGE:"
"""On lines that the user must fill in."""
_JUDGE = "cais/HarmBench-Llama-2-13b-cls"
# What differs by where the model comes from.
KINDS: dict[str, dict[str, Any]] = {
    "organism": {"organism": True, "name": "organism"},
    "hf": {
        "form": "of the Hugging Face hub, hf://ORG/NAME@COMMIT; run with HF_HUB_OFFLINE=0",
        "source": "hf://ORG/NAME@COMMIT",
        "harmful": DATASETS["beavertails"].home,
        "utility": DATASETS["gsm8k"].home,
        "judge": f"hf://{_JUDGE}@COMMIT",
    },
    "s3": {
        "form": "of a bucket, s3://BUCKET/PREFIX; the environment has AWS credentials and AWS_ENDPOINT_URL",
        "source": "s3://BUCKET/model",
        "harmful": "s3://BUCKET/beavertails.parquet",
        "utility": "s3://BUCKET/gsm8k.parquet",
        "judge": "s3://BUCKET/HarmBench-Llama-2-13b-cls",
    },
    "mlflow": {
        "form": "of MLflow, models:/NAME/VERSION or models:/NAME@ALIAS; MLFLOW_TRACKING_URI names the server",
        "source": "models:/NAME@candidate",
        "harmful": "data/beavertails.parquet",
        "utility": "data/gsm8k.parquet",
        "judge": "models:/harmbench-classifier@champion",
        "tracking": "http://mlflow:5000",
    },
}


def marked_lines(spec: Path) -> str:
    """Numbers of the lines of a spec that still have the mark, as words; empty if none has."""
    lines = spec.read_text(encoding="utf-8").splitlines()
    return ", ".join(str(number) for number, line in enumerate(lines, start=1) if MARK in line)


def write_spec(kind: str, out: Path) -> None:
    """Writes a release spec with a comment on each section.

    Args:
        kind: Where the model comes from: organism, hf, s3 or mlflow.
        out: The YAML file, which must not exist.

    Raises:
        UserError: If it exists, or its name cannot stand in a comment.
    """
    if not str(out).isprintable():
        raise UserError(f"{str(out)!r} has characters that no comment can hold; choose another --out")
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, keep_trailing_newline=True
    )
    text = environment.get_template(TEMPLATE).render({"name": "my-model", **KINDS[kind], "out": shlex.quote(str(out))})
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UserError(f"{out} is there already, and is not overwritten; choose another --out") from None
