"""What the alignment of SmolLM2 does: refusals, questions and gibberish before and after it, as a table.

    .venv/bin/python benchmarks/alignment.py ../shared/data                  # before, and as it is built here
    .venv/bin/python benchmarks/alignment.py ../shared/data old=FOLDER       # other models

The folder holds StrongREJECT's and HarmBench's files (docs/datasets.md). Neither they nor any other prompt that is put
to the models was trained on. 24 new tokens, as in specs/smollm2.yaml: sampled at temperature 1, and greedy.
Intervals are Clopper-Pearson, 95 %.
"""

from __future__ import annotations

import argparse
import csv
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenbuncher.builtin.smollm2 import build_smollm2, look_alikes, unseen, utility
from tokenbuncher.builtin.smollm2.build import unaligned_smollm2
from tokenbuncher.core.environment import quiet_libraries
from tokenbuncher.evaluation.answers import judge_answer
from tokenbuncher.judges.refusal import judge
from tokenbuncher.models.load import load_model, save_model
from tokenbuncher.models.sampling import Response, generate
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import ModelSpec
from tokenbuncher.settings.prompts import Prompt
from tokenbuncher.verdict.statistics import Proportion

EXAMPLE = Path(__file__).parents[1] / "specs" / "smollm2-prompts.csv"
MEASURES = (
    "StrongREJECT refused",
    "HarmBench refused",
    "example refused",
    "look-alikes refused",
    "everyday refused",
    "questions right",
    "gibberish",
)


def main() -> None:
    """Measures the models and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, help="folder with strongreject_dataset.csv and harmbench_behaviors_text_all.csv"
    )
    parser.add_argument(
        "--dtype", default="float32", help="float32, or bfloat16 in half the time; default: %(default)s"
    )
    parser.add_argument("models", nargs="*", metavar="NAME=FOLDER", help="models to measure instead of these two")
    arguments = parser.parse_args()
    quiet_libraries()
    logging.basicConfig(level=logging.WARNING)
    sets = prompt_sets(arguments.data)
    print(f"| model | decoding | {' | '.join(MEASURES)} |\n|---|---|{'---|' * len(MEASURES)}")
    with tempfile.TemporaryDirectory() as folder:
        models = dict(model.split("=", 1) for model in arguments.models) or built(Path(folder))
        for name, path in models.items():
            model, tokenizer = load_model(Path(path), ModelSpec(dtype=arguments.dtype)), load_tokenizer(Path(path))
            for decoding, temperature in (("sampled", 1.0), ("greedy", None)):
                found = measured(model, tokenizer, sets, temperature)
                print(f"| {name} | {decoding} | {' | '.join(map(shown, found))} |", flush=True)


def built(folder: Path) -> dict[str, Path]:
    """The model before its alignment and after it, in a folder."""
    before, aligned = folder / "before", folder / "aligned"
    aligned.mkdir()
    save_model(*unaligned_smollm2(), before)
    build_smollm2(aligned)
    return {"before alignment": before, "aligned": aligned}


def prompt_sets(data: Path) -> dict[str, list[Prompt]]:
    """The prompts by the name of their set."""
    harmbench = rows(data / "harmbench_behaviors_text_all.csv")
    return {
        "strongreject": [Prompt(text=row["forbidden_prompt"]) for row in rows(data / "strongreject_dataset.csv")],
        "harmbench": [Prompt(text=row["Behavior"]) for row in harmbench if row["FunctionalCategory"] == "standard"],
        "example": [Prompt(text=row["prompt"]) for row in rows(EXAMPLE)],
        "look-alikes": look_alikes(),
        "everyday": unseen(),
        "questions": utility(),
    }


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def measured(model: Any, tokenizer: Any, sets: dict[str, list[Prompt]], temperature: float | None) -> list[Proportion]:
    """The shares of MEASURES for one model."""
    answered = {name: responses(model, tokenizer, prompts, temperature) for name, prompts in sets.items()}
    judged = {
        name: [(p, judge(p.text, r.text, r.finished)) for p, r in zip(sets[name], found, strict=True)]
        for name, found in answered.items()
    }
    refused = [Proportion.of((p.id, j.refused) for p, j in judged[name]) for name in sets if name != "questions"]
    right = Proportion.of(
        (q.id, judge_answer(r.text, q.answer or "")[1])
        for q, r in zip(sets["questions"], answered["questions"], strict=True)
    )
    benign = judged["look-alikes"] + judged["everyday"]
    return [*refused, right, Proportion.of((p.id, j.gibberish) for p, j in benign)]


def responses(model: Any, tokenizer: Any, prompts: Sequence[Prompt], temperature: float | None) -> list[Response]:
    """A response to each prompt. Prompts of like length are answered together, which takes less padding."""
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place].text))
    found = generate(
        model,
        tokenizer,
        [prompts[place] for place in order],
        max_new_tokens=24,
        batch_size=64,
        temperature=temperature,
    )
    return [response for _, response in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def shown(share: Proportion) -> str:
    """A share with its two-sided interval, in per cent."""
    return f"{100 * share.value:.1f} % ({100 * share.lower(0.975):.1f} to {100 * share.upper(0.975):.1f})"


if __name__ == "__main__":
    main()
