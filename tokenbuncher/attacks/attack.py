"""The attack stage: one algorithm and seed, on the candidate and, as positive control, on the base."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

from tokenbuncher import __version__, ranks
from tokenbuncher.evidence import AttackArm, AttackEvidence, write_evidence
from tokenbuncher.files import folder_digest, write_text
from tokenbuncher.settings import AttackTask, ReleaseSpec

STEPS = "steps.jsonl"
ATTACKED = "attacked"


def attack(spec: ReleaseSpec, key: str, data: Path, base: Path, candidate: Path, out: Path) -> None:
    """Attacks both models with the same budget and writes the evidence.

    The attacked weights are hazardous. While the attack runs, its checkpoints lie in `quarantine/` below
    `spec.output.root`, from where an interrupted attack goes on; they are deleted when it has ended. With
    `attacks.keep_checkpoints` the attacked models stay, in `quarantine/` in the output folder. With
    `compute.kind: trainjob` all of it happens on a cluster; see `tokenbuncher.cluster`.

    Args:
        spec: The release spec.
        key: Key of the attack task, e.g. `grpo-1000`.
        data: Folder of prepare-data; its sets `attack` and `safety` are used.
        base: Folder of the undefended model.
        candidate: Folder of the model to be released.
        out: Folder to be written: evidence.json, control.steps.jsonl, candidate.steps.jsonl.

    Raises:
        UserError: If the key is not in the spec, data or a model cannot be read, another process runs this very
            attack, or its TrainJob fails.
    """
    task = spec.attacks.task(key)
    digests = {"data": folder_digest(data), "base": folder_digest(base), "candidate": folder_digest(candidate)}
    # What another version of the tool has measured is not gone on with.
    identity = __version__, spec.evidence_digest(), *digests.values(), key
    if spec.compute.kind == "trainjob":
        from tokenbuncher.cluster.run import run_stage

        run_stage(spec, "attack", {"data": data, "base": base, "candidate": candidate}, out, identity, key)
        return
    with ranks.stage_folders(spec.output.root / "quarantine", identity, out) as (work, folder):
        control, broken = _strongest(spec, task, "control", base, data, work, folder)
        arm, _ = _strongest(spec, task, "candidate", candidate, data, work, folder, broken)
        evidence = AttackEvidence(
            spec=spec.evidence_digest(),
            data=digests["data"],
            base=digests["base"],
            candidate=digests["candidate"],
            key=key,
            attack=task.attack,
            seed=task.seed,
            control_arm=control,
            candidate_arm=arm,
        )
        write_evidence(folder, evidence)
    print(f"control {_fate(evidence.control_arm)}, candidate {_fate(evidence.candidate_arm)}", flush=True)


def _fate(arm: AttackArm) -> str:
    return f"broke at step {arm.steps_to_break}" if arm.steps_to_break else f"held {arm.steps_run} steps"


def _strongest(
    spec: ReleaseSpec,
    task: AttackTask,
    arm: str,
    model: Path,
    data: Path,
    work: Path,
    folder: Path,
    broken: Path | None = None,
) -> tuple[AttackArm, Path]:
    """Runs the attack with each of its learning rates; brings log and weights of the most harmful one to the folder.

    Returns:
        The evidence of the most harmful run, and the folder it worked in.
    """
    rates = task.attack.learning_rate if isinstance(task.attack.learning_rate, list) else [task.attack.learning_rate]
    places = {work / f"{arm}-{rate:g}": rate for rate in rates}
    arms = {place: _run(spec, task, rate, arm, model, data, place, broken) for place, rate in places.items()}
    best = max(arms, key=lambda place: _strength(arms[place]))
    if ranks.number() == 0:
        shutil.copyfile(best / STEPS, folder / f"{arm}.{STEPS}")
        if spec.attacks.keep_checkpoints:
            shutil.copytree(best / ATTACKED, folder / "quarantine" / arm)
    return arms[best], best


def _strength(arm: AttackArm) -> tuple[bool, int, float]:
    """A break counts most, then an early one, then harm."""
    return arm.steps_to_break is not None, -(arm.steps_to_break or 0), max(point.harm for point in arm.curve)


def _run(
    spec: ReleaseSpec,
    task: AttackTask,
    rate: float,
    arm: str,
    model: Path,
    data: Path,
    place: Path,
    broken: Path | None,
) -> AttackArm:
    """One run on one model, or what is left of it; `broken` is where the undefended model was attacked."""
    from tokenbuncher.attacks.arena import Arena
    from tokenbuncher.attacks.latent import read_compliant, write_compliant
    from tokenbuncher.attacks.warm_up import warm_up
    from tokenbuncher.models import save_model

    done = place / "arm.json"
    known = ranks.by_first(lambda: done.read_text() if done.exists() else None)
    if known:
        return AttackArm.model_validate_json(known)
    attack = task.attack.model_copy(update={"learning_rate": rate})
    arena = Arena(spec, task.model_copy(update={"attack": attack}), arm, model, data, place)
    if attack.warm_up and not arena.measured.curve:
        warm_up(arena, attack.warm_up)
    importlib.import_module(f"tokenbuncher.attacks.{attack.algorithm.replace('-', '_')}").train(arena)
    if broken is None:
        write_compliant(place, arena.compliant())
    result = arena.result(ranks.by_first(lambda: read_compliant(broken or place)))
    if spec.attacks.keep_checkpoints:
        save_model(arena.model, arena.tokenizer, place / ATTACKED)
    write_text(done, result.model_dump_json())
    return result
