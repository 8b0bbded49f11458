"""A training as an MLflow run, nested in the candidate's, with metrics by step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from tokenbuncher.evidence import Step

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

BATCH = 1000
"""Most metrics that MLflow takes at a time."""


def log_nested(
    client: MlflowClient,
    parent: Run,
    name: str,
    *,
    tags: Mapping[str, str],
    params: Mapping[str, object],
    metrics: Iterator[Metric],
) -> None:
    """Logs a run within another.

    Args:
        client: A client of the tracking server.
        parent: The candidate's run.
        name: Name of the nested run.
        tags: Its tags, beside that of its parent.
        params: Its hyperparameters.
        metrics: Its metrics, however many.
    """
    from mlflow.entities import Param

    run = client.create_run(
        parent.info.experiment_id, run_name=name, tags={"mlflow.parentRunId": parent.info.run_id, **tags}
    )
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
    while batch := list(islice(metrics, BATCH)):
        client.log_batch(run.info.run_id, metrics=batch)
    client.set_terminated(run.info.run_id)


def step_metrics(rows: Iterable[Step]) -> Iterator[Metric]:
    """The figures of a step log."""
    from mlflow.entities import Metric

    for row in rows:
        yield from (Metric(name, value, 0, row.number) for name, value in row.figures.items())
