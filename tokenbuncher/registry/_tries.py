"""How often a name was tried: what the history in the run's folder and the registry know, the larger of the two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.core.documents import digest_of
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import file_digest
from tokenbuncher.evidence import FILE_NAME, Registration, Tries
from tokenbuncher.registry._versions import quoted, versions_of
from tokenbuncher.registry.history import history
from tokenbuncher.settings import ReleaseSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

MODEL, TRY, REGISTERED = "tokenbuncher.model", "tokenbuncher.try", "tokenbuncher.registered"
"""Parameters of the run behind a version. Nobody can change a parameter, as one can a tag."""


def count_tries(
    client: MlflowClient, spec: ReleaseSpec, version: ModelVersion, *, digest: str, attacks: Sequence[Path]
) -> Tries:
    """Counts the tries before a version, and records it as one itself.

    Evidence that was registered before is no other try: an interrupted run goes on, and a gate may be run again.

    Args:
        client: A client of the registry.
        spec: The release spec.
        version: The version that has just been made.
        digest: The digest of its files.
        attacks: Folders of the attacks. Without any, no two versions are the same try.
    """
    from mlflow.entities import Param

    found = [file_digest(folder / FILE_NAME) for folder in attacks if (folder / FILE_NAME).is_file()]
    own = digest_of([digest, spec.evidence_digest(), sorted(found) or version.run_id])
    recorded = {MODEL: version.name, TRY: own, REGISTERED: str(version.creation_timestamp)}
    client.log_batch(version.run_id, params=[Param(name, value) for name, value in recorded.items()])
    earlier = earlier_in_registry(client, version, own)
    try:
        entries = history(spec.output.root / spec.name)
    except UserError as error:
        return Tries(evidence=own, earlier=None, doubt=str(error))
    return Tries(evidence=own, earlier=max(earlier, len({entry.evidence for entry in entries} - {own})))


def uncounted(client: MlflowClient, registered: Registration) -> Iterator[str]:
    """Why a registration counts fewer tries than the registry."""
    tries = registered.tries
    if tries is None or tries.earlier is None:
        return
    version = client.get_model_version(registered.name, registered.version)
    known = earlier_in_registry(client, version, tries.evidence)
    if tries.earlier < known:
        yield (
            f"the registration counts {tries.earlier} earlier tries of {registered.name}, and the registry {known}; "
            "register the candidate again"
        )


def earlier_in_registry(client: MlflowClient, version: ModelVersion, own: str) -> int:
    """Tries of a model before a version: by the numbers of its versions or by their runs, whichever are more.

    A deleted version leaves a gap in the numbers, and a deleted run can still be found. Of a version that has no such
    run nobody can tell that it was the same try as another.
    """
    tried = {run.info.run_id: run.data.params[TRY] for run in _runs_before(client, version)}
    told = [tried[other.run_id] for other in _versions_before(client, version) if other.run_id in tried]
    untold = int(version.version) - 1 - len(told)
    return max(untold + len(set(told) - {own}), len(set(tried.values()) - {own}))


def _versions_before(client: MlflowClient, version: ModelVersion) -> list[ModelVersion]:
    return [other for other in versions_of(client, version.name) if int(other.version) < int(version.version)]


def _runs_before(client: MlflowClient, version: ModelVersion) -> list[Run]:
    """The runs of a model that were recorded as tries before a version was made, deleted ones too."""
    return [
        run
        for run in _runs(client, version)
        if run.info.run_id != version.run_id and int(run.data.params[REGISTERED]) <= version.creation_timestamp
    ]


def _runs(client: MlflowClient, version: ModelVersion) -> Iterator[Run]:
    from mlflow.entities import ViewType

    experiment = client.get_run(version.run_id).info.experiment_id
    wanted = f"params.`{MODEL}` = {quoted(version.name)}"
    token = None
    while True:
        page = client.search_runs([experiment], wanted, ViewType.ALL, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
