"""What tasks are taken to need on this machine."""

from __future__ import annotations

from math import inf
from pathlib import Path

from kfp import dsl

from pipelines.local.needs import needs
from tokenbuncher.builtin.organism.build import ALIGNED
from tokenbuncher.settings import parse_spec


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
