"""The defence as an MLflow run, nested in the candidate's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbuncher.evidence import read_defence_steps
from tokenbuncher.registry._nested import log_nested, step_metrics
from tokenbuncher.settings import DefenceSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def log_defence(client: MlflowClient, parent: Run, defence: DefenceSpec, *, steps: Path | None) -> None:
    """Logs the defence as a nested run, if there is a step log.

    Args:
        client: A client of the tracking server.
        parent: The candidate's run.
        defence: How the candidate was hardened.
        steps: Its step log, or the folder that holds it.
    """
    if rows := read_defence_steps([steps] if steps else []):
        log_nested(
            client,
            parent,
            "defence",
            tags={"tokenbuncher.recipe": defence.recipe},
            params=dict(_flat(defence.model_dump(mode="json"))),
            metrics=step_metrics(rows),
        )


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Each field by its path, such as certain_refusal.target."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
