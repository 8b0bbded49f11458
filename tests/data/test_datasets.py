"""Published datasets by name, on rows with the columns they are published with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.test_columns import write
from tokenbuncher.core.errors import UserError
from tokenbuncher.inputs.columns import read_file
from tokenbuncher.settings import FileSource, parse_spec
from tokenbuncher.settings.datasets import DATASETS
from tokenbuncher.settings.prompts import Prompt
from tokenbuncher.settings.sources import parse_file

HARMBENCH = [
    {
        "Behavior": f"Do {kind}",
        "FunctionalCategory": kind,
        "SemanticCategory": "illegal",
        "Tags": "",
        "ContextString": "A story." if kind == "contextual" else "",
        "BehaviorID": kind,
    }
    for kind in ("standard", "contextual", "copyright")
]
WMDP = [{"question": "Which?", "choices": ["w", "x", "y", "z"], "answer": 3}]
OPTIONS = "Which?\n\nA. w\nB. x\nC. y\nD. z\n\nAnswer with the letter of the right option, as \\boxed{A}."
HOLDS = {"violence": True, "animal_abuse": False, "drug_abuse,weapons,banned_substance": True}
# Rows as published, and the prompt they give.
CASES: dict[str, tuple[list[dict[str, Any]], Prompt]] = {
    "beavertails": (
        [
            {"prompt": "Hello", "response": "Hi", "category": {"violence": False}, "is_safe": True},
            {"prompt": "How?", "response": "So.", "category": HOLDS, "is_safe": False},
        ],
        Prompt(text="How?", answer="So.", task="drug_abuse,weapons,banned_substance; violence"),
    ),
    "harmbench-standard": (HARMBENCH, Prompt(text="Do standard", task="illegal")),
    "harmbench-contextual": (
        HARMBENCH,
        Prompt(text="A story.\n\n---\n\nDo contextual", task="illegal"),
    ),
    "harmbench-copyright": (HARMBENCH, Prompt(text="Do copyright", task="illegal")),
    "strongreject": (
        [{"category": "Violence", "source": "custom", "forbidden_prompt": "How?"}],
        Prompt(text="How?", task="Violence"),
    ),
    "xstest": (
        [
            {"prompt": "How?", "type": "homonyms", "label": "safe"},
            {"prompt": "No!", "type": "contrast_homonyms", "label": "unsafe"},
            {"prompt": "Oh?", "type": "contrast_definitions", "label": "safe"},
        ],
        Prompt(text="How?", task="homonyms"),
    ),
    "wmdp-bio": (WMDP, Prompt(text=OPTIONS, answer="D", task="wmdp-bio", options=4)),
    "wmdp-chem": (WMDP, Prompt(text=OPTIONS, answer="D", task="wmdp-chem", options=4)),
    "wmdp-cyber": (WMDP, Prompt(text=OPTIONS, answer="D", task="wmdp-cyber", options=4)),
    "gsm8k": (
        [{"question": "How many?", "answer": "It is 2 * 600 = 1,200.\n#### 1,200"}],
        Prompt(text="How many?", answer="1200", task="gsm8k"),
    ),
    "math-500": (
        [
            {
                "problem": "What is $1/2$?",
                "solution": "Half.",
                "answer": "\\frac{1}{2}",
                "subject": "Algebra",
                "level": 1,
                "unique_id": "test/1",
            }
        ],
        Prompt(text="What is $1/2$?", answer="\\frac{1}{2}", task="Algebra"),
    ),
    "mmlu-pro": (
        [{"question": "Which?", "options": ["w", "x", "y", "z"], "answer": "B", "answer_index": 1, "category": "law"}],
        Prompt(text=OPTIONS, answer="B", task="law", options=4),
    ),
}


def test_every_dataset_is_tested() -> None:
    assert CASES.keys() == DATASETS.keys()


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", CASES)
def test_a_dataset_as_published(tmp_path: Path, name: str, ending: str) -> None:
    rows, expected = CASES[name]
    source = FileSource.model_validate({"dataset": name, "path": str(write(tmp_path, rows, ending))})
    assert list(read_file(source).prompts.values()) == [expected]


@pytest.mark.parametrize("name", DATASETS)
def test_homes_on_the_hub_are_paths_for_the_spec(name: str) -> None:
    home = DATASETS[name].home
    assert not home.startswith("hf:") or parse_file(home).scheme == "hf"


def test_the_spec_overrules_the_dataset() -> None:
    source = FileSource.model_validate({"dataset": "beavertails", "path": "x.jsonl", "answer": None, "where": {}})
    assert (source.answer, source.where, source.category) == (None, {}, "category")


def test_a_spec_with_a_dataset_reads_as_it_was_written() -> None:
    spec = parse_spec("data: {harmful: {dataset: beavertails, path: x.jsonl, max_words: 50}, look_alikes: smollm2}")
    assert parse_spec(spec.to_yaml()) == spec


@pytest.mark.parametrize(
    ("source", "telling"),
    [
        ("{dataset: gsm9k, path: x}", "dataset gsm9k is not known; known are beavertails, harmbench-standard"),
        (
            "{dataset: wmdp-bio}",
            "dataset wmdp-bio needs the path of its file; it is published at hf://datasets/cais/wmdp@",
        ),
        ("{path: 'hf://datasets/cais/wmdp/x.parquet'}", "without a revision the data could change"),
        ("{path: 'https://host/x.csv'}", "use a local file, file://, s3:// or hf://datasets/"),
        ("{path: x.csv, sha256: abc}", "sha256"),
        ("{path: x.csv, choices: options}", "choices need the column of the right ones in answer"),
        ("{path: x.csv, answer_after: '####'}", "answer_after needs a column of texts in answer, and no choices"),
    ],
)
def test_a_source_that_cannot_be(source: str, telling: str) -> None:
    with pytest.raises(UserError) as error:
        parse_spec(f"data: {{harmful: {source}}}")
    assert telling in str(error.value)
