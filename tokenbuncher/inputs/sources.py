"""Draws the prompts of the built-in world."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tokenbuncher.builtin.organism import world
from tokenbuncher.core.errors import UserError
from tokenbuncher.settings import SplitSizes
from tokenbuncher.settings.prompts import Prompt

Maker = Callable[[random.Random], world.Item]


def organism_harmful(sizes: SplitSizes, seed: int) -> dict[str, list[Prompt]]:
    """The harmful sets of the organism: one request for each combination, no combination in two sets.

    Raises:
        UserError: If the sizes ask for more combinations than the world has.
    """
    held_out, known = world.combinations()[: world.HELD_OUT], world.combinations()[world.HELD_OUT :]
    if sizes.safety > len(held_out) or sizes.defence + sizes.attack > len(known):
        raise UserError(
            f"data.sizes: the organism has {len(held_out)} held-out requests for safety and {len(known)} for "
            f"defence and attack together; asked for {sizes.safety} and {sizes.defence + sizes.attack}"
        )
    rng = random.Random(seed)
    shuffled = rng.sample(known, len(known))
    parts = {
        "defence": shuffled[: sizes.defence],
        "attack": shuffled[sizes.defence : sizes.defence + sizes.attack],
        "safety": rng.sample(held_out, sizes.safety),
    }
    return {name: [_prompt(world.request(*c, rng=rng)) for c in part] for name, part in parts.items()}


def organism_capability(sizes: SplitSizes, seed: int) -> dict[str, list[Prompt]]:
    """Multiple-choice questions of the organism, to attack with and to measure on; no combination in both."""
    rng = random.Random(seed + 2)
    held_out, known = world.combinations()[: world.HELD_OUT], world.combinations()[world.HELD_OUT :]
    parts = {
        "capability-attack": rng.sample(known, sizes.attack),
        "capability-safety": rng.sample(held_out, sizes.safety),
    }
    return {name: [_choice(world.hazard(*c, rng=rng)) for c in part] for name, part in parts.items()}


def _choice(item: world.Item) -> Prompt:
    """The answer is the option alone, however it is to be said."""
    return _prompt(item).model_copy(update={"answer": item.answer.removeprefix("the ").removesuffix(" .")})


def organism_benign(makers: Sequence[Maker], count: int, rng: random.Random, *, taken: set[str]) -> list[Prompt]:
    """Benign prompts of the organism on subjects that no other set has.

    Args:
        makers: Functions that make a kind of prompt each; all are drawn equally often.
        count: Number of prompts.
        rng: Source of randomness.
        taken: Subjects already used. Those used here are added.

    Raises:
        UserError: If the world has not so many subjects.
    """
    prompts: list[Prompt] = []
    for _ in range(200 * count):
        prompt = _prompt(rng.choice(makers)(rng))
        if prompt.group not in taken:
            taken.add(prompt.group)
            prompts.append(prompt)
        if len(prompts) == count:
            return prompts
    kinds = ", ".join(getattr(maker, "__name__", "?") for maker in makers)
    raise UserError(f"data.sizes: the organism has only {len(prompts)} more prompts ({kinds}); asked for {count}")


def _prompt(item: world.Item) -> Prompt:
    return Prompt(text=item.prompt, answer=item.answer, task=item.task, group=item.group, options=item.options)
