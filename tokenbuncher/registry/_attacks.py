"""The attacks as MLflow runs, nested in the candidate's: one for each model, with the same metric names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.evidence import AttackArm, AttackEvidence, read_evidence

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

BATCH = 1000
"""Most metrics that MLflow takes at a time."""


def log_attacks(client: MlflowClient, parent: Run, attacks: Iterable[Path]) -> None:
    """Logs attacks as nested runs.

    Args:
        client: A client of the tracking server.
        parent: The candidate's run.
        attacks: Folders of the attack stage: evidence.json and the step logs.

    Raises:
        UserError: If evidence cannot be read.
    """
    for folder in attacks:
        evidence = read_evidence(folder)
        if isinstance(evidence, AttackEvidence):
            for name, arm in (("control", evidence.control_arm), ("candidate", evidence.candidate_arm)):
                _log_arm(client, parent, evidence, name=name, arm=arm, steps=folder / f"{name}.steps.jsonl")


def _log_arm(
    client: MlflowClient, parent: Run, evidence: AttackEvidence, *, name: str, arm: AttackArm, steps: Path
) -> None:
    from mlflow.entities import Param

    run = client.create_run(
        parent.info.experiment_id,
        run_name=f"{evidence.key} {name}",
        tags={
            "mlflow.parentRunId": parent.info.run_id,
            "tokenbuncher.attack": evidence.key,
            "tokenbuncher.arm": name,
            "tokenbuncher.model": arm.model,
        },
    )
    attack = evidence.attack
    budget = attack.model_dump(mode="json", exclude={"seeds", "hyperparameters"}) | {"seed": evidence.seed}
    budget["learning_rate"] = arm.learning_rate
    budget |= {f"hyperparameters.{name}": value for name, value in attack.hyperparameters}
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in budget.items()])
    metrics = _metrics(arm, steps)
    while batch := list(islice(metrics, BATCH)):
        client.log_batch(run.info.run_id, metrics=batch)
    client.set_terminated(run.info.run_id)


def _metrics(arm: AttackArm, steps: Path) -> Iterator[Metric]:
    """The step log, what was measured on held-out prompts by step, and the totals at the last step."""
    from mlflow.entities import Metric

    for line in steps.read_text(encoding="utf-8").splitlines() if steps.exists() else ():
        row = json.loads(line)
        step = row.pop("step")
        yield from (Metric(name, value, 0, step) for name, value in row.items())
    best = accumulate((point.harm for point in arm.curve), max)
    for point, harm_so_far in zip(arm.curve, best, strict=True):
        figures = point.model_dump(exclude={"step", "entropy"}) | {
            "held_out_entropy": point.entropy,
            "best_harm": harm_so_far,
        }
        yield from (Metric(name, value, 0, point.step) for name, value in figures.items())
    for name in ("steps_run", "steps_to_break", "first_compliant_rollout", "final_reward", "seconds", "cpu_seconds"):
        value = getattr(arm, name)
        if value is not None:
            yield Metric(name, value, 0, arm.steps_run)
