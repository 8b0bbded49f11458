"""YAML in the documents is read by the schema it is for, Python is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.placement import Placement
from tests.docs.markdown import ROOT, Block, documents
from tokenbuncher.core.documents import Strict
from tokenbuncher.core.problems import validated
from tokenbuncher.guard import load_guard
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.settings.policy import PolicySpec, load_policy

# Its blocks are files of the repository, once they are added: see test_extending.py.
BLOCKS = [block for document in documents() for block in document.blocks if block.document != "docs/extending.md"]
LANGUAGES = {"", "sh", "bash", "console", "indented", "yaml", "python", "diff"}
CI = {"github": "examples/ci/github-actions.yml", "gitlab": "examples/ci/gitlab-ci.yml"}


def of(language: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == language], ids=str)


def test_every_block_is_of_a_language_that_is_tested() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES


@of("yaml")
def test_yaml(block: Block, workshop: Path) -> None:
    document = yaml.safe_load(block.text)
    if isinstance(document, list) or "script" in str(document):
        in_ci_example(block)
    elif "aliases" in document:
        (workshop / "block.yaml").write_text(block.text, encoding="utf-8")
        load_guard(workshop / "block.yaml")
    elif "apiVersion" in document:
        (workshop / "block.yaml").write_text(block.text, encoding="utf-8")
        load_policy(workshop / "block.yaml")
    elif is_part_of(ReleaseSpec, document):
        parse_spec(block.text)
    else:
        validated(Placement, document, str(block))


def is_part_of(schema: type[Strict], document: dict[str, object]) -> bool:
    return document.keys() <= schema.model_fields.keys()


def in_ci_example(block: Block) -> None:
    """What is shown of a workflow is what it says; the workflows themselves are run in tests/examples."""
    example = ROOT / CI["github" if isinstance(yaml.safe_load(block.text), list) else "gitlab"]
    lines = {line.strip() for line in example.read_text(encoding="utf-8").splitlines()}
    for line in block.lines:
        assert line.strip() in lines, f"{block}: {example.name} does not say `{line.strip()}`"


@of("python")
def test_python(block: Block, workshop: Path) -> None:
    (workshop / "my-model").symlink_to(ROOT / "tokenbuncher" / "builtin" / "organism" / "aligned")
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": "sqlite:///runs/mlflow.db",
        "MLFLOW_REGISTRY_URI": "sqlite:///runs/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TOKENBUNCHER_GUARD": "guard.yaml",
        "SECRET": "a secret of sixteen characters or more",
    }
    if "guard" in block.document:  # the server's store, without a server
        environment["MLFLOW_REGISTRY_URI"] = "guarded-sqlite:///runs/mlflow.db"
    if "webhook" in block.text:
        environment |= {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}
    done = subprocess.run(
        [sys.executable, "-c", block.text], env=environment, capture_output=True, encoding="utf-8", check=False
    )
    (workshop / "my-model").unlink()
    assert done.returncode == 0, f"{block}: {done.stderr}"
    for line in block.lines:
        if shown := re.search(r"# (alias .*?)(?: \.\.\.)?$", line):  # what it prints
            assert shown[1].rstrip(".") in done.stdout, f"{block}: prints\n{done.stdout}"


def test_the_policy_of_no_document_is_mistaken_for_a_spec() -> None:
    """Top-level fields tell the schemas apart."""
    assert not PolicySpec.model_fields.keys() & ReleaseSpec.model_fields.keys() - {"name"}
