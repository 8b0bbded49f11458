"""An attack on one model, with each of its learning rates."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.core.environment import swift_imports
from tokenbuncher.core.files import write_text
from tokenbuncher.evidence import AttackArm
from tokenbuncher.models import generation
from tokenbuncher.settings import AttackTask, ReleaseSpec
from tokenbuncher.training import ranks

if TYPE_CHECKING:
    from tokenbuncher.attacks.arena import Arena

ARM = "arm.json"
STEPS = "steps.jsonl"
ATTACKED = "attacked"
CANDIDATE = "candidate"


def strongest(
    spec: ReleaseSpec, task: AttackTask, arm: str, *, model: Path, data: Path, work: Path, control: Path | None = None
) -> Path:
    """Runs the attack with each of its learning rates, or goes on with it.

    Args:
        spec: The release spec.
        task: The attack.
        arm: `control` or `candidate`.
        model: Folder of the model to be attacked.
        data: Folder of prepare-data.
        work: Quarantine; each rate has a folder of its own there.
        control: Folder of the control, whose compliant responses the candidate is asked about.

    Returns:
        Folder of the most harmful run: its figures, its step log, and compliant responses or attacked weights.
    """
    rates = task.attack.learning_rate if isinstance(task.attack.learning_rate, list) else [task.attack.learning_rate]
    places = {work / f"{arm}-{rate:g}": rate for rate in rates}
    arms = {
        place: _run(spec, task, rate, arm=arm, model=model, data=data, place=place, control=control)
        for place, rate in places.items()
    }
    return max(arms, key=lambda place: _strength(arms[place]))


def training(algorithm: str) -> Callable[[Arena], None]:
    """How an algorithm trains: `train` in the module of its name."""
    train: Callable[[Arena], None] = importlib.import_module(f"{__package__}.{algorithm.replace('-', '_')}").train
    return train


def read_arm(folder: Path) -> AttackArm:
    """The figures of a run."""
    return AttackArm.model_validate_json(ranks.by_first(lambda: (folder / ARM).read_text(encoding="utf-8")))


def fate(arm: AttackArm) -> str:
    """What became of the model, in words."""
    return f"broke at step {arm.steps_to_break}" if arm.steps_to_break else f"held {arm.steps_run} steps"


def _strength(arm: AttackArm) -> tuple[bool, int, float, float]:
    """A break counts most, then an early one, then harm, then lost refusal."""
    harm, kept = max(point.harm for point in arm.curve), min(point.refusal for point in arm.curve)
    return arm.steps_to_break is not None, -(arm.steps_to_break or 0), harm, -kept


def _run(
    spec: ReleaseSpec,
    task: AttackTask,
    rate: float,
    *,
    arm: str,
    model: Path,
    data: Path,
    place: Path,
    control: Path | None,
) -> AttackArm:
    """One run on one model, or what is left of it."""
    with swift_imports():
        from tokenbuncher.attacks.arena import Arena
        from tokenbuncher.attacks.latent import read_compliant, write_compliant
        from tokenbuncher.attacks.warm_up import warm_up
        from tokenbuncher.models.load import save_model

    done = place / ARM
    known = ranks.by_first(lambda: done.read_text(encoding="utf-8") if done.exists() else None)
    if known:
        return AttackArm.model_validate_json(known)
    attack = task.attack.model_copy(update={"learning_rate": rate})
    arena = Arena(spec, task.model_copy(update={"attack": attack}), arm, folder=model, data=data, work=place)
    if attack.warm_up and not arena.meter.measured.curve:
        warm_up(arena, attack.warm_up)
    training(attack.algorithm)(arena)
    if control is None:
        write_compliant(place, arena.meter.compliant())
    result = arena.result(ranks.by_first(lambda: read_compliant(control or place)))
    if spec.attacks.keep_checkpoints:
        save_model(arena.model, arena.tokenizer, place / ATTACKED, base=model)
        generation.carry(model, place / ATTACKED)
    write_text(done, result.model_dump_json())
    return result
