"""The attacks as MLflow runs, nested in the candidate's: one for each model, with the same metric names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.evidence import AttackArm, AttackEvidence, read_evidence, read_steps
from tokenbuncher.registry._nested import log_nested, step_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run


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
    attack = evidence.attack
    budget = attack.model_dump(mode="json", exclude={"seeds", "hyperparameters"}) | {"seed": evidence.seed}
    budget["learning_rate"] = arm.learning_rate
    budget |= {f"hyperparameters.{name}": value for name, value in attack.hyperparameters}
    log_nested(
        client,
        parent,
        f"{evidence.key} {name}",
        tags={
            "tokenbuncher.attack": evidence.key,
            "tokenbuncher.arm": name,
            "tokenbuncher.model": arm.model,
        },
        params=budget,
        metrics=_metrics(arm, steps),
    )


def _metrics(arm: AttackArm, steps: Path) -> Iterator[Metric]:
    """The step log, what was measured on held-out prompts by step, and the totals at the last step."""
    from mlflow.entities import Metric

    yield from step_metrics(read_steps(steps))
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
