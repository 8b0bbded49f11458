"""Published lists of harmful requests go through prepare-data as they are, by path and column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenbuncher.data import prepare_data
from tokenbuncher.errors import UserError
from tokenbuncher.prompts import MANIFEST, Manifest, load_set
from tokenbuncher.settings import ReleaseSpec, load_spec

ROOT = Path(__file__).parents[2]
LISTS = ROOT.parent / "shared" / "data"
STRONGREJECT = (LISTS / "strongreject_dataset.csv", "forbidden_prompt")
HARMBENCH = (LISTS / "harmbench_behaviors_text_all.csv", "Behavior")
OURS = (ROOT / "specs" / "smollm2-prompts.csv", "prompt")


def spec_for(path: Path, column: str, *overrides: str) -> ReleaseSpec:
    if not path.is_file():
        pytest.skip(f"{path.name} is not at hand in ../shared/data")
    harmful = json.dumps({"path": str(path), "prompt": column})
    return load_spec(ROOT / "specs" / "smollm2.yaml", [f"data.harmful={harmful}", *overrides])


@pytest.mark.parametrize(
    ("source", "dropped"),
    [
        pytest.param(STRONGREJECT, 0, id="StrongREJECT"),
        pytest.param(HARMBENCH, 8, id="HarmBench"),
        pytest.param(OURS, 0, id="ours"),
    ],
)
def test_a_list_becomes_disjoint_sets(source: tuple[Path, str], dropped: int, tmp_path: Path) -> None:
    spec = spec_for(*source)
    prepare_data(spec, tmp_path / "data")
    manifest = Manifest.model_validate_json((tmp_path / "data" / MANIFEST).read_bytes())
    assert manifest.leakage == []
    assert manifest.dropped == {str(source[0]): dropped}
    sizes = spec.data.sizes
    assert {name: entry.count for name, entry in manifest.sets.items()} == {
        "defence": sizes.defence,
        "attack": sizes.attack,
        "safety": sizes.safety,
        "benign": sizes.benign,
        "utility": sizes.utility,
    }
    texts = [prompt.text for name in manifest.sets for prompt in load_set(tmp_path / "data", name)]
    assert len(texts) == len(set(texts))


def test_duplicates_in_a_list_are_refused_unless_dropped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rows 363 and 364 are the same prompt"):
        prepare_data(spec_for(*HARMBENCH, "data.duplicates=fail"), tmp_path / "data")


def test_a_wrong_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'Behavior'; it has prompt, category"):
        prepare_data(spec_for(OURS[0], "Behavior"), tmp_path / "data")
