"""The table of stages agrees with everything that names a stage."""

from __future__ import annotations

import pytest

from pipelines.local import outline
from tests.evidence_factory import release_spec
from tokenbuncher.cli import main
from tokenbuncher.core.stages import COMMANDS, STAGES
from tokenbuncher.preflight.plan.work import expected, stages


def in_turn(names: list[str]) -> list[str]:
    """Names of tasks without keys, each once."""
    return list(dict.fromkeys(name.partition(" ")[0] for name in names))


def test_the_outline_of_a_run_has_every_stage_in_turn() -> None:
    lines = [line.split()[0] for line in list(outline(release_spec()))[1:]]

    assert in_turn(lines) == list(COMMANDS)


def test_the_plan_has_every_stage_in_turn() -> None:
    spec = release_spec()

    assert in_turn([stage.name for stage in stages(spec, expected(spec))]) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_options_of_its_stage(name: str) -> None:
    options = {option.name: option for option in main.commands[name].params if option.opts[0] != "--help"}
    named = {option.opts[0].removeprefix("--") for option in options.values()}

    assert set(STAGES[name].options.values()) <= named
    assert {option.opts[0].removeprefix("--") for option in options.values() if option.required} - {"spec"} <= set(
        STAGES[name].options.values()
    )


def test_what_is_resumed_may_be_repeated() -> None:
    for stage in STAGES.values():
        assert stage.repeatable or not stage.resumable
