"""The spec to begin with: valid, explained, and never written over another."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tokenbuncher.cli import main
from tokenbuncher.core.errors import UserError
from tokenbuncher.inputs import prepare_data
from tokenbuncher.settings import load_spec
from tokenbuncher.settings.init import KINDS, MARK, write_spec

GSM8K_TEST_ROWS = 1319


def written(kind: str, folder: Path) -> Path:
    write_spec(kind, folder / "release.yaml")
    return folder / "release.yaml"


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_valid_and_each_section_has_its_comment(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    text = path.read_text(encoding="utf-8")

    load_spec(path)
    for section in set(yaml.safe_load(text)) - {"name"}:
        assert re.search(rf"\n\n# [^\n]+\n(# [^\n]+\n|\(\{{[^\n]+\n)*{section}:\n", text), section
    assert f"tokenbuncher run-local --spec {path}" in text


def test_the_organism_s_is_the_one_in_specs(tmp_path: Path) -> None:
    path = written("organism", tmp_path)

    assert load_spec(path) == load_spec("specs/organism.yaml")
    assert MARK not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "form"), [("hf", "hf://"), ("s3", "s3://"), ("mlflow", "models:/")])
def test_a_real_model_s_has_marks_where_something_must_be_filled_in(kind: str, form: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    spec = load_spec(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    places = [number for number, line in enumerate(lines) if re.search(r"COMMIT|BUCKET|NAME|my-model", line)]

    assert spec.model.source.startswith(form)
    assert spec.model.lora
    assert spec.evaluation.judge.kind == "harmbench"
    for number in places:
        assert any(MARK in line for line in lines[max(0, number - 2) : number + 1]), lines[number]


def test_the_published_datasets_are_large_enough_for_its_sets(tmp_path: Path) -> None:
    letters = random.Random(0)
    texts = [
        " ".join("".join(letters.choices("abcdefgh", k=6)) for _ in range(6)) for _ in range(1000 + GSM8K_TEST_ROWS)
    ]
    harmful = [
        {"prompt": text, "response": "no", "category": {"violence": True}, "is_safe": False} for text in texts[:1000]
    ]
    utility = [{"question": text, "answer": "#### 7"} for text in texts[1000:]]
    for name, rows in {"harmful": harmful, "utility": utility}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    paths = [f"data.{name}.path={tmp_path / name}.jsonl" for name in ("harmful", "utility")]

    prepare_data(load_spec(written("hf", tmp_path), paths), tmp_path / "data")

    assert (tmp_path / "data" / "manifest.json").is_file()


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text("mine", encoding="utf-8")

    with pytest.raises(UserError, match="not overwritten"):
        write_spec("hf", path)
    assert path.read_text(encoding="utf-8") == "mine"


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "release.yaml"

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["init", *arguments, "--out", str(out)])
        return result.exit_code, result.output

    assert run("--model", "s3") == (0, f"wrote {out}\n")
    assert run("--model", "s3")[0] == 2
    assert "'organism', 'hf', 's3', 'mlflow'" in run("--model", "gguf")[1]
