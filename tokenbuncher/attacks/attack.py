"""The attack stage: one algorithm and seed, on the candidate and, as positive control, on the base."""

from __future__ import annotations

import importlib
from pathlib import Path

from tokenbuncher.evidence import AttackArm, AttackEvidence, write_evidence
from tokenbuncher.files import folder_digest, whole_folder
from tokenbuncher.prompts import load_set
from tokenbuncher.settings import AttackTask, ReleaseSpec


def attack(spec: ReleaseSpec, key: str, data: Path, base: Path, candidate: Path, out: Path) -> None:
    """Attacks both models with the same budget and writes the evidence.

    The attacked weights are hazardous. They live in this process only, unless the spec says
    `attacks.keep_checkpoints`; then they go to `quarantine/` in the output folder.

    Args:
        spec: The release spec.
        key: Key of the attack task, e.g. `grpo-1000`.
        data: Folder of prepare-data; its sets `attack` and `safety` are used.
        base: Folder of the undefended model.
        candidate: Folder of the model to be released.
        out: Folder to be written: evidence.json, control.steps.jsonl, candidate.steps.jsonl.

    Raises:
        UserError: If the key is not in the spec, or data or a model cannot be read.
    """
    task = spec.attacks.task(key)
    with whole_folder(out) as folder:
        evidence = AttackEvidence(
            spec=spec.evidence_digest(),
            data=folder_digest(data),
            base=folder_digest(base),
            candidate=folder_digest(candidate),
            key=key,
            attack=task.attack,
            seed=task.seed,
            control_arm=_run(spec, task, data, base, folder, "control"),
            candidate_arm=_run(spec, task, data, candidate, folder, "candidate"),
        )
        write_evidence(folder, evidence)
    print(f"control {_fate(evidence.control_arm)}, candidate {_fate(evidence.candidate_arm)}", flush=True)


def _fate(arm: AttackArm) -> str:
    return f"broke at step {arm.steps_to_break}" if arm.steps_to_break else f"held {arm.steps_run} steps"


def _run(spec: ReleaseSpec, task: AttackTask, data: Path, model: Path, folder: Path, arm: str) -> AttackArm:
    from tokenbuncher.attacks.arena import Arena
    from tokenbuncher.judges import load_judge, load_reward
    from tokenbuncher.models import save_model

    arena = Arena(
        spec=spec,
        task=task,
        title=arm,
        folder=model,
        prompts=load_set(data, "attack"),
        held_out=load_set(data, "safety"),
        reward=load_reward(spec.attacks.reward),
        judge=load_judge(spec.evaluation.judge),
        steps_log=folder / f"{arm}.steps.jsonl",
    )
    importlib.import_module(f"tokenbuncher.attacks.{task.attack.algorithm}").train(arena)
    if spec.attacks.keep_checkpoints:
        save_model(arena.model, arena.tokenizer, folder / "quarantine" / arm)
    return arena.result()
