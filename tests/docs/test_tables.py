"""Tables that list what the code has list all of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

from tests.docs.conftest import RECORDED
from tests.docs.markdown import ROOT
from tokenbuncher.cli import EXIT_CODES, FAILED, INTERRUPTED
from tokenbuncher.core.stage import STAGES
from tokenbuncher.settings import RECIPES, AttackSpec
from tokenbuncher.settings.datasets import DATASETS
from tokenbuncher.settings.judges import EnsembleSpec, JudgeModel, JudgeName, RewardName

FIELD = re.compile(r"`([^`]+)`")


def rows(document: str, head: str) -> list[list[str]]:
    """The cells of the table whose first head is this."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    lines = text.partition(f"\n| {head} |")[2].splitlines()[2:]
    table = lines[: next(number for number, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def named(document: str, head: str) -> list[str]:
    """What the first cells of a table name as code."""
    return [name for row in rows(document, head) for name in FIELD.findall(row[0])]


def test_recipes() -> None:
    assert set(named("how-it-works.md", "recipe")) == RECIPES.keys()


def test_attacks() -> None:
    algorithms = get_args(AttackSpec.model_fields["algorithm"].annotation)
    assert set(named("how-it-works.md", "algorithm")) == set(algorithms)


def test_stages() -> None:
    assert named("how-it-works.md", "stage") == list(STAGES)


def test_datasets() -> None:
    shown = named("datasets.md", "Dataset")
    assert {f"harmbench{name}" if name.startswith("-") else name for name in shown} == DATASETS.keys()


def test_judges() -> None:
    models = [*get_args(JudgeModel), EnsembleSpec]
    kinds = {get_args(settings.model_fields["kind"].annotation)[0] for settings in models}
    shown = rows("judges.md", "kind")
    assert {name for row in shown for name in FIELD.findall(row[0])} == {*get_args(JudgeName), *kinds}
    assert {name for row in shown for name in FIELD.findall(row[2])} == set(get_args(RewardName))


def test_exit_statuses() -> None:
    shown = {row[0]: row[1] for row in rows("ci.md", "status")}
    assert shown.keys() == {str(status) for status in (*EXIT_CODES.values(), FAILED, INTERRUPTED)}
    assert all(shown[str(status)].startswith(outcome) for outcome, status in EXIT_CODES.items())


def test_what_the_gate_writes(workshop: Path) -> None:
    written = {path.name for path in (workshop / RECORDED).iterdir() if path.is_file()} - {"spec.yaml"}
    assert set(named("ci.md", "file")) == written


def test_rooms() -> None:
    """CONTRIBUTING.md has the rooms in the layers that `make lint` holds them to."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [layers] = [contract["layers"] for contract in settings["contracts"] if contract.get("containers")]
    shown: dict[str, list[str]] = {}
    for layer, room, _ in rows("../CONTRIBUTING.md", "layer"):
        shown.setdefault(layer, []).append(room.strip("`"))
    assert shown == {
        str(len(layers) - number): [room.strip() for room in layer.split("|")] for number, layer in enumerate(layers)
    }
