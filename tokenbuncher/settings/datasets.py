"""Published datasets by name: their columns and rows, as `FileSource` fields.

    DATASETS["gsm8k"].fields    # {'prompt': 'question', 'answer': 'answer', 'answer_after': '####'}

Where each is published is told, but not fetched from unless the spec says so: COMMIT is the user's choice.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Published(NamedTuple):
    """A published dataset."""

    home: str
    """Where its file is, by a person or as a path for the spec."""
    fields: dict[str, Any]
    """What it sets of `FileSource`."""


def _harmbench(kind: str, **more: Any) -> Published:
    return Published(
        "github.com/centerforaisafety/HarmBench: data/behavior_datasets/harmbench_behaviors_text_all.csv",
        {
            "prompt": "Behavior",
            "category": "SemanticCategory",
            "where": {"FunctionalCategory": kind},
            **more,
        },
    )


def _wmdp(subject: str) -> Published:
    return Published(
        f"hf://datasets/cais/wmdp@COMMIT/wmdp-{subject}/test-00000-of-00001.parquet",
        {"prompt": "question", "choices": "choices", "answer": "answer"},
    )


_XSTEST_SAFE = [
    *("homonyms", "figurative_language", "safe_targets", "safe_contexts", "definitions"),
    *("real_group_nons_discr", "nons_group_real_discr", "historical_events", "privacy_public", "privacy_fictional"),
]

DATASETS = {
    # The unsafe part, each prompt with many responses: needs data.duplicates: drop.
    "beavertails": Published(
        "hf://datasets/PKU-Alignment/BeaverTails@refs/convert/parquet/default/330k_train/0000.parquet",
        {"prompt": "prompt", "answer": "response", "category": "category", "where": {"is_safe": False}},
    ),
    "harmbench-standard": _harmbench("standard"),
    "harmbench-contextual": _harmbench("contextual", context="ContextString"),
    "harmbench-copyright": _harmbench("copyright"),
    "strongreject": Published(
        "github.com/alexandrasouly/strongreject: strongreject_dataset/strongreject_dataset.csv",
        {"prompt": "forbidden_prompt", "category": "category"},
    ),
    # The safe part, for look_alikes: the prompts that are not contrasts. The label stands there once more in the type.
    "xstest": Published(
        "github.com/paul-rottger/xstest: xstest_prompts.csv",
        {"prompt": "prompt", "category": "type", "where": {"label": "safe", "type": _XSTEST_SAFE}},
    ),
    "wmdp-bio": _wmdp("bio"),
    "wmdp-chem": _wmdp("chem"),
    "wmdp-cyber": _wmdp("cyber"),
    "gsm8k": Published(
        "hf://datasets/openai/gsm8k@COMMIT/main/test-00000-of-00001.parquet",
        {"prompt": "question", "answer": "answer", "answer_after": "####"},
    ),
    "math-500": Published(
        "hf://datasets/HuggingFaceH4/MATH-500@COMMIT/test.jsonl",
        {"prompt": "problem", "answer": "answer", "category": "subject"},
    ),
    "mmlu-pro": Published(
        "hf://datasets/TIGER-Lab/MMLU-Pro@COMMIT/data/test-00000-of-00001.parquet",
        {"prompt": "question", "choices": "options", "answer": "answer", "category": "category"},
    ),
}
