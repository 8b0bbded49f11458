"""What the tasks of a release take on this machine, as `tokenbuncher plan` estimates it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.local.capacity import Need
from tokenbuncher.core.errors import UserError
from tokenbuncher.preflight.plan import parse_device, plan, shape_of
from tokenbuncher.preflight.plan.estimate import SPARE
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.prompts import load_set

UNKNOWN = Need(seconds=0.0, memory=float("inf"))
CHARACTERS_PER_TOKEN = 4
"""Of English text, about."""
TEMPLATE_TOKENS = 30
"""What a chat template puts around a prompt, about."""


def needs(spec: ReleaseSpec) -> Callable[[str, Mapping[str, Any]], Need]:
    """What each task of a release takes.

    Returns:
        A function of the stage and the arguments of a task. The estimate is made when the model has been fetched, if
        it cannot be made before; that of a task with prompts is for the longest of them. Until then, and if the form
        of the model is not known, a task has the machine to itself.
    """
    known: dict[bool, dict[str, Need]] = {}

    def need(stage: str, arguments: Mapping[str, Any]) -> Need:
        prompted = "data" in arguments
        if not known.get(prompted):
            known[prompted] = _estimated(spec, arguments)
        task = f"{stage} {arguments['key']}" if "key" in arguments else stage
        return known[prompted].get(task, UNKNOWN)

    return need


def _estimated(spec: ReleaseSpec, arguments: Mapping[str, Any]) -> dict[str, Need]:
    """The needs of all tasks, by stage and key; empty if the configuration of the model is not at hand yet."""
    if "base" in arguments:
        fetched = spec.model.model_copy(update={"source": arguments["base"].path})
        spec = spec.model_copy(update={"model": fetched})
    longest = _longest_prompt(Path(arguments["data"].path)) if "data" in arguments else None
    try:
        stages = plan(spec, shape_of(spec), parse_device("cpu"), longest_prompt=longest).stages
    except UserError:
        return {}
    return {stage.name: Need(stage.seconds, (1 + SPARE) * stage.memory) for stage in stages}


def _longest_prompt(data: Path) -> float | None:
    """Tokens of the longest prompt that a training sees, about. None if they cannot be read, which the task tells."""
    try:
        prompts = [prompt for name in ("defence", "attack") for prompt in load_set(data, name)]
    except UserError:
        return None
    return max(len(prompt.text) for prompt in prompts) / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
