"""Tasks of lm-evaluation-harness, the user's own ones, run for real on the built-in model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evidence_factory import changed
from tokenbuncher.core.errors import UserError
from tokenbuncher.evaluation import evaluate_utility
from tokenbuncher.evaluation.harness import ask, load_tasks
from tokenbuncher.evidence import read_evidence
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import HarnessSpec

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
doc_to_text: "{{{{question}}}}"
metadata: {{version: 1}}
"""
WRITTEN = """
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 500}
"""
CHOSEN = """
output_type: multiple_choice
doc_to_choice: "{{options}}"
doc_to_target: "{{right}}"
metric_list: [{metric: acc}]
"""
FILTERS = """
filter_list:
  - {name: digits, filter: [{function: regex, regex_pattern: "(\\\\d+)"}, {function: take_first}]}
  - {name: hundreds, filter: [{function: regex, regex_pattern: "(\\\\d\\\\d\\\\d)"}, {function: take_first}]}
"""
EXACT = "metric_list: [{metric: exact_match}]\n"


@pytest.fixture(scope="module")
def include(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder of tasks: sums to be written and to be chosen, and some that cannot be judged."""
    folder = tmp_path_factory.mktemp("tasks")
    sums = [(a, b) for a in range(5) for b in range(4)]
    rows = [
        {"question": f"what is {a} plus {b} ?", "answer": str(a + b), "options": [str(a + b), "red"], "right": 0}
        for a, b in sums
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, rest in {
        "sum-written": WRITTEN + EXACT,
        "sum-chosen": CHOSEN,
        "sum-filtered": WRITTEN + EXACT + FILTERS,
        "sum-distance": WRITTEN + "metric_list: [{metric: ter, higher_is_better: false}]\n",
        "sum-likeness": WRITTEN + "metric_list: [{metric: chrf}]\n",
    }.items():
        (folder / f"{name}.yaml").write_text(
            TASK.format(name=name, data=folder / "sums.jsonl") + rest, encoding="utf-8"
        )
    (folder / "broken.yaml").write_text(
        TASK.format(name="broken", data=folder / "none.jsonl") + CHOSEN, encoding="utf-8"
    )
    (folder / "sums.yaml").write_text("group: sums\ntask: [sum-written, sum-chosen]\n", encoding="utf-8")
    return folder


def with_harness(spec, include, fine_tuning=None, **fields):
    harness = HarnessSpec(include=include, **fields)
    return changed(spec, evaluation=changed(spec.evaluation, harness=harness, fine_tuning=fine_tuning))


def asked(spec, base):
    return ask(spec, load_tasks(spec.evaluation.harness), load_model(base, spec.model), tokenizer=load_tokenizer(base))


def test_own_tasks_are_asked_beside_the_questions_of_the_spec(
    tiny_spec, organism_data, organism_base, include, tmp_path, capfd
):
    spec = with_harness(tiny_spec, include, tasks=["sums"], limit=15)
    evaluate_utility(spec, organism_data, organism_base, candidate=organism_base, out=tmp_path / "out")
    evidence = read_evidence(tmp_path / "out")
    assert evidence.base_items == evidence.candidate_items
    assert len({item.prompt for item in evidence.base_items}) == 24 + 2 * 15
    own = [item for item in evidence.base_items if item.harness == "sums"]
    assert [item.task for item in own] == ["sum-written"] * 15 + ["sum-chosen"] * 15
    assert sum(item.correct for item in own) >= 29
    assert all(item.parsed and item.finished for item in own)
    assert {item.tokens for item in own} == {0, 1}
    assert "candidate  sums: accuracy 1.000 on 30 questions" in capfd.readouterr().out


def test_a_filter_that_finds_nothing_is_an_answer_that_was_not_read(tiny_spec, organism_base, include):
    spec = with_harness(
        tiny_spec, include, tasks=["sum-filtered"], metric={"sum-filtered": "exact_match,hundreds"}, limit=3
    )
    items = asked(spec, organism_base)
    assert [(item.parsed, item.correct, item.finished) for item in items] == [(False, False, True)] * 3


def test_a_metric_that_is_not_right_or_wrong_is_refused(tiny_spec, organism_base, include):
    spec = with_harness(tiny_spec, include, tasks=["sum-likeness"], metric={"sum-likeness": "chrf"}, limit=3)
    with pytest.raises(UserError, match="chrf of sum-likeness is not 0 or 1 for every question"):
        asked(spec, organism_base)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tasks": ["no-such-task"]}, "has no task no-such-task"),
        ({"tasks": ["broken"]}, "broken cannot be loaded"),
        ({"tasks": ["sums", "sum-chosen"]}, "sum-chosen is in several of sums, sum-chosen"),
        ({"tasks": ["sum-filtered"]}, "reads answers by digits, hundreds; name one of them, like exact_match,digits"),
        ({"tasks": ["sum-chosen"], "metric": {"sum-chosen": "acc,strict"}}, "reads answers by none"),
        ({"tasks": ["sum-chosen"], "metric": {"sum-chosen": "f1"}}, "has no metric f1 .*; it has acc"),
        ({"tasks": ["sum-distance"], "metric": {"sum-distance": "ter"}}, "no metric ter of which more is better"),
        ({"tasks": ["sum-likeness"]}, "has no metric exact_match or acc"),
        ({"tasks": ["humaneval"]}, "humaneval"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_any_model_is_loaded(include, fields, says):
    with pytest.raises(UserError, match=says):
        load_tasks(HarnessSpec(include=include, **fields))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="none is not a folder"):
        load_tasks(HarnessSpec(tasks=["gsm8k"], include=tmp_path / "none"))


def test_without_the_extra_it_says_what_to_install():
    code = """
import sys
sys.modules["lm_eval"] = None
from tokenbuncher.core.errors import UserError
from tokenbuncher.evaluation.harness import load_tasks
from tokenbuncher.settings import HarnessSpec
try:
    load_tasks(HarnessSpec(tasks=["gsm8k"]))
except UserError as error:
    print(error, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip().endswith("pip install 'tokenbuncher[lm-eval]' False")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tasks": []}, "at least 1 item"),
        ({"tasks": ["gsm8k", "gsm8k"]}, "a name twice"),
        ({"tasks": ["gsm8k"], "metric": {"mmlu": "acc"}}, "names mmlu, not in tasks"),
        ({"tasks": ["gsm8k"], "limit": 0}, "greater than or equal to 1"),
    ],
)
def test_contradictions_in_the_spec_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        HarnessSpec(**fields)
