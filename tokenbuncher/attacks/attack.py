"""The attack stage: one algorithm and seed, on the candidate and, as positive control, on the base."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from tokenbuncher.attacks.arms import ATTACKED, CANDIDATE, STEPS, fate, read_arm, strongest
from tokenbuncher.attacks.begun import begun
from tokenbuncher.attacks.control import QUARANTINE, Controls
from tokenbuncher.attacks.meter import CONTROL
from tokenbuncher.core.environment import installed_versions
from tokenbuncher.core.files import check_output, folder_digest
from tokenbuncher.core.version import __version__
from tokenbuncher.evidence import AttackEvidence, write_evidence
from tokenbuncher.models.lengths import check_lengths
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.training import ranks

logger = logging.getLogger(__name__)


def attack(spec: ReleaseSpec, key: str, data: Path, *, base: Path, candidate: Path, out: Path) -> None:
    """Attacks both models with the same budget and writes the evidence.

    The attacked weights are hazardous. While the attack runs, its checkpoints lie in `quarantine/` below
    `spec.output.root`, from where an interrupted attack goes on; they are deleted when it has ended. With
    `attacks.keep_checkpoints` the attacked models stay, in `quarantine/` in the output folder. With
    `compute.kind: trainjob` all of it happens on a cluster; see `tokenbuncher.training.cluster`. A control that was
    measured before, by `controls` or for another candidate, is not measured again; see `tokenbuncher.attacks.control`.

    Args:
        spec: The release spec.
        key: Key of the attack task, e.g. `grpo-1000`.
        data: Folder of prepare-data; its sets `attack` and `safety` are used.
        base: Folder of the base model.
        candidate: Folder of the model to be released.
        out: Folder to be written: evidence.json, control.steps.jsonl, candidate.steps.jsonl.

    Raises:
        UserError: If the key is not in the spec, data or a model cannot be read, another process runs this very
            attack, or its TrainJob fails.
    """
    task = spec.attacks.task(key)
    check_output(out)
    check_lengths(spec, data, base)
    digests = {"data": folder_digest(data), "base": folder_digest(base), "candidate": folder_digest(candidate)}
    identity = __version__, spec.evidence_digest(), *digests.values(), key
    if spec.compute.kind == "trainjob":
        from tokenbuncher.training.cluster.run import run_stage

        run_stage(
            spec, "attack", {"data": data, "base": base, "candidate": candidate}, out=out, identity=identity, key=key
        )
        return
    controls = Controls(spec, digests["data"], digests["base"])
    with ranks.stage_folders(spec.output.root / QUARANTINE, identity, out) as (work, folder):
        began = ranks.by_first(lambda: begun(spec, work))
        control, source = controls.of(task, data, base, work=work)
        attacked = strongest(spec, task, CANDIDATE, model=candidate, data=data, work=work, control=control)
        evidence = AttackEvidence(
            spec=spec.evidence_digest(),
            data=digests["data"],
            base=digests["base"],
            candidate=digests["candidate"],
            tool_version=__version__,
            versions=installed_versions(),
            key=key,
            attack=task.attack,
            seed=task.seed,
            control_source=source,
            control_arm=read_arm(control),
            candidate_arm=read_arm(attacked),
            created=min(began, source.measured) if source else began,
        )
        write_evidence(folder, evidence)
        for arm, run in ((CONTROL, control), (CANDIDATE, attacked)):
            _bring(run, arm, folder, weights=spec.attacks.keep_checkpoints)
    if source:
        controls.used(source)
    logger.info(f"control {fate(evidence.control_arm)}, candidate {fate(evidence.candidate_arm)}")


def _bring(run: Path, arm: str, folder: Path, *, weights: bool) -> None:
    """Brings the log of a run, and its attacked weights if they are kept, to the output folder."""
    if ranks.number() == 0:
        shutil.copyfile(run / STEPS, folder / f"{arm}.{STEPS}")
        if weights:
            shutil.copytree(run / ATTACKED, folder / QUARANTINE / arm)
