"""What tasks are taken to need on this machine."""

from __future__ import annotations

from math import inf
from pathlib import Path

from kfp import dsl

from pipelines.local.needs import needs
from tokenbuncher.builtin.organism.build import ALIGNED
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.prompts import MANIFEST, Manifest, Prompt, write_set


def test_tasks_need_what_the_plan_says() -> None:
    need = needs(parse_spec(""))
    attack, defend = need("attack", {"key": "ppo-1000"}), need("defend", {})

    assert 0.5e9 < attack.memory < 3e9
    assert need("attack", {"key": "sft-1000"}).seconds < attack.seconds < defend.seconds
    assert need("controls", {}).memory == max(
        need("attack", {"key": f"{name}-1000"}).memory for name in ("ppo", "dpo", "grpo")
    )
    assert need("prepare-data", {}).memory == 0


def test_of_a_model_that_is_elsewhere_nothing_is_known_until_it_is_fetched() -> None:
    need = needs(parse_spec("model: {source: hf://org/name@main}"))

    assert need("fetch-model", {}).memory == inf
    assert need("defend", {"base": dsl.Artifact(uri=str(ALIGNED))}).memory < inf
    assert need("attack", {"key": "ppo-1000"}).memory < inf


def test_a_task_of_a_model_of_no_known_form_has_the_machine_to_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_local_experts": 8}', encoding="utf-8")

    assert needs(parse_spec(f"model: {{source: {tmp_path}}}"))("defend", {}).memory == inf


def test_a_task_with_prompts_needs_what_the_longest_takes(tmp_path: Path) -> None:
    """All sequences of a step are padded to it."""

    def controls(longest: int) -> float:
        folder = tmp_path / str(longest)
        folder.mkdir()
        sets = {name: [Prompt(text="word " * 10), Prompt(text="x" * longest)] for name in ("defence", "attack")}
        entries = {name: write_set(folder, name, prompts, source="here") for name, prompts in sets.items()}
        manifest = Manifest(seed=0, sets=entries, near_duplicate=1.0, leakage=[], sources={}, held_out_categories=[])
        (folder / MANIFEST).write_text(manifest.text(), encoding="utf-8")
        return needs(parse_spec(""))("controls", {"data": dsl.Artifact(uri=str(folder))}).memory

    assert controls(20) < controls(840) < controls(8400)
    assert needs(parse_spec(""))("controls", {}).memory <= controls(21)
