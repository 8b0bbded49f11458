"""Published lists of harmful requests go through prepare-data as they are, by path and column."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tokenbuncher.core.errors import UserError
from tokenbuncher.inputs import prepare_data
from tokenbuncher.inputs.columns import read_file
from tokenbuncher.settings import FileSource, ReleaseSpec, load_spec
from tokenbuncher.settings.prompts import MANIFEST, Manifest, Prompt, load_set

ROOT = Path(__file__).parents[2]
LISTS = ROOT.parent / "shared" / "data"
STRONGREJECT = (LISTS / "strongreject_dataset.csv", "forbidden_prompt")
HARMBENCH = (LISTS / "harmbench_behaviors_text_all.csv", "Behavior")
OURS = (ROOT / "specs" / "smollm2-prompts.csv", "prompt")


def at_hand(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"{path.name} is not at hand in ../shared/data")
    return path


def prompts_of(path: Path, **fields: Any) -> list[Prompt]:
    return list(read_file(FileSource(path=str(at_hand(path)), **fields)).prompts.values())


def spec_for(path: Path, column: str, *overrides: str) -> ReleaseSpec:
    at_hand(path)
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
    assert manifest.sources["harmful"].dropped == dropped
    sizes = spec.data.sizes
    assert {name: entry.count for name, entry in manifest.sets.items()} == {
        "defence": sizes.defence,
        "attack": sizes.attack,
        "safety": sizes.safety,
        "benign": sizes.benign,
        "utility": sizes.utility,
        "benign-test": sizes.benign_test,
        "look-alikes": sizes.look_alikes,
    }
    texts = [prompt.text for name in manifest.sets for prompt in load_set(tmp_path / "data", name)]
    assert len(texts) == len(set(texts))


def test_duplicates_in_a_list_are_refused_unless_dropped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rows 363 and 364 are the same prompt"):
        prepare_data(spec_for(*HARMBENCH, "data.duplicates=fail"), tmp_path / "data")


def test_a_wrong_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'Behavior'; it has prompt, category"):
        prepare_data(spec_for(OURS[0], "Behavior"), tmp_path / "data")


HARMBENCH_CATEGORIES = {
    "standard": {
        "chemical_biological": 28,
        "cybercrime_intrusion": 40,
        "harassment_bullying": 19,
        "harmful": 21,
        "illegal": 58,
        "misinformation_disinformation": 34,
    },
    "contextual": {
        "chemical_biological": 28,
        "cybercrime_intrusion": 27,
        "harassment_bullying": 6,
        "harmful": 1,
        "illegal": 7,
        "misinformation_disinformation": 31,
    },
    "copyright": {"copyright": 100},
}


@pytest.mark.parametrize("kind", HARMBENCH_CATEGORIES)
def test_harmbench_by_kind(kind: str) -> None:
    prompts = prompts_of(HARMBENCH[0], dataset=f"harmbench-{kind}")
    assert Counter(prompt.task for prompt in prompts) == HARMBENCH_CATEGORIES[kind]
    assert all(("\n\n---\n\n" in prompt.text) == (kind == "contextual") for prompt in prompts)


def test_harmbench_as_a_whole() -> None:
    found = read_file(FileSource(path=str(at_hand(HARMBENCH[0])), prompt="Behavior", category="FunctionalCategory"))
    assert found.rows == 400
    assert Counter(prompt.task for prompt in found.prompts.values()) == {
        "standard": 200,
        "contextual": 100,
        "copyright": 100,
    }


def test_strongreject() -> None:
    assert Counter(prompt.task for prompt in prompts_of(STRONGREJECT[0], dataset="strongreject")) == {
        "Disinformation and deception": 50,
        "Hate, harassment and discrimination": 50,
        "Illegal goods and services": 50,
        "Non-violent crimes": 59,
        "Sexual content": 50,
        "Violence": 54,
    }


@pytest.mark.parametrize(("name", "count"), [("gsm8k_test.jsonl", 1319), ("gsm8k_train_500.jsonl", 500)])
def test_gsm8k(name: str, count: int) -> None:
    path = at_hand(LISTS / name)
    prompts = prompts_of(path, dataset="gsm8k")
    assert len(prompts) == count
    gold = [json.loads(line)["answer"].split("#### ")[1] for line in path.read_text(encoding="utf-8").splitlines()]
    assert [int(prompt.answer or "") for prompt in prompts] == [int(final.replace(",", "")) for final in gold]
    assert {prompt.task for prompt in prompts} == {"gsm8k"}


@pytest.mark.parametrize("seed", range(4))
def test_categories_of_strongreject_are_held_out(seed: int, tmp_path: Path) -> None:
    harmful = json.dumps({"dataset": "strongreject", "path": str(at_hand(STRONGREJECT[0]))})
    spec = load_spec(
        ROOT / "specs" / "smollm2.yaml",
        [f"data.harmful={harmful}", "data.held_out_categories=2", f"data.seed={seed}"],
    )
    prepare_data(spec, tmp_path / "data")
    of_set = {
        name: {prompt.task for prompt in load_set(tmp_path / "data", name)} for name in ("defence", "attack", "safety")
    }
    assert len(of_set["safety"]) == 2
    assert not of_set["safety"] & (of_set["defence"] | of_set["attack"])
