"""Registers a candidate as a model version, pending its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher import __version__
from tokenbuncher.errors import UserError
from tokenbuncher.evidence import REGISTRATION_NAME, Registration
from tokenbuncher.files import folder_digest, whole_folder, write_text
from tokenbuncher.registry._attacks import log_attacks
from tokenbuncher.registry._mlflow import connected
from tokenbuncher.settings import ReleaseSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "tokenbuncher"


def register(spec: ReleaseSpec, candidate: Path, out: Path, attacks: Sequence[Path] = ()) -> Registration:
    """Registers the candidate as a new model version with status `pending`.

    Weights registered before get another version: a version is one release, not one set of weights.

    Args:
        spec: The release spec; its tracking part names server and model.
        candidate: Folder of the candidate.
        out: Folder that gets registration.json.
        attacks: Folders of the attacks, whose curves are logged as runs nested in the candidate's.

    Returns:
        The registered version.

    Raises:
        UserError: If there is no candidate, an attack cannot be read, or MLflow refuses or cannot be reached.
    """
    if not candidate.is_dir() or not any(candidate.iterdir()):
        raise UserError(f"candidate {candidate} is not a folder with a model in it; run defend first")
    digest = folder_digest(candidate)
    name = spec.tracking.model_name
    with connected(spec) as client, whole_folder(out) as folder:
        run = client.create_run(_experiment(client, spec), run_name=spec.name)
        client.log_artifacts(run.info.run_id, str(candidate), "model")
        client.log_text(run.info.run_id, spec.to_yaml(), "spec.yaml")
        log_attacks(client, run, attacks)
        client.set_terminated(run.info.run_id)
        _ensure_model(client, name)
        version = client.create_model_version(
            name,
            source=f"runs:/{run.info.run_id}/model",
            run_id=run.info.run_id,
            tags={
                "tokenbuncher.status": "pending",
                "tokenbuncher.digest": digest,
                "tokenbuncher.source": spec.model.source,
                "tokenbuncher.defence": spec.defence.recipe,
                "tokenbuncher.spec": spec.evidence_digest(),
                "tokenbuncher.policy": spec.policy_digest(),
                "tokenbuncher.tool": __version__,
            },
        )
        registration = Registration(
            name=name, version=str(version.version), digest=digest, tracking_uri=spec.tracking_uri()
        )
        write_text(folder / REGISTRATION_NAME, registration.model_dump_json(indent=1) + "\n")
    print(f"{name} version {registration.version}, pending, sha256 {digest[:12]}")
    return registration


def _experiment(client: MlflowClient, spec: ReleaseSpec) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return experiment.experiment_id
    embedded = spec.tracking.uri is None
    return client.create_experiment(
        EXPERIMENT,
        artifact_location=(spec.output.root.resolve() / "mlartifacts").as_uri() if embedded else None,
    )


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
