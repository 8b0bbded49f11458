"""Registers a candidate as a model version, pending its verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher import __version__
from tokenbuncher.artifacts import stored_files
from tokenbuncher.errors import UserError
from tokenbuncher.evidence import REGISTRATION_NAME, ModelFile, Registration
from tokenbuncher.files import folder_digest, folder_files, listing_digest, whole_folder, write_text
from tokenbuncher.registry._attacks import log_attacks
from tokenbuncher.registry._tries import count_tries
from tokenbuncher.registry._versions import tag, version_files
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.tracking import connected

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
        UserError: If there is no candidate, an attack cannot be read, the artifact store has other files afterwards,
            or MLflow refuses or cannot be reached.
    """
    if not candidate.is_dir() or not any(candidate.iterdir()):
        raise UserError(f"candidate {candidate} is not a folder with a model in it; run defend first")
    digest = folder_digest(candidate)
    name = spec.tracking.model_name
    with connected(spec.tracking_uri()) as client, whole_folder(out) as folder:
        run = client.create_run(_experiment(client, spec), run_name=spec.name)
        client.log_artifacts(run.info.run_id, str(candidate), "model")
        client.log_text(run.info.run_id, spec.to_yaml(), "spec.yaml")
        log_attacks(client, run, attacks)
        client.set_terminated(run.info.run_id)
        with _unless_made_by_another():
            client.create_registered_model(name)
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
        files = _files(candidate, f"{run.info.artifact_uri}/model")
        if any(file.stored for file in files):
            # The guard takes the store's names for the content, so they must be: read after they were written down.
            _check_stored(client, name, str(version.version), digest)
        tries = count_tries(client, spec, version, digest, attacks)
        registration = Registration(
            name=name,
            version=str(version.version),
            digest=digest,
            files=files,
            tracking_uri=spec.tracking_uri(),
            tries=tries,
        )
        if tries.earlier is not None:
            tag(client, name, registration.version, tries=str(tries.earlier + 1))
        write_text(folder / REGISTRATION_NAME, registration.model_dump_json(indent=1) + "\n")
    print(f"{name} version {registration.version}, pending, sha256 {digest[:12]}")
    return registration


def _files(candidate: Path, stored_at: str) -> list[ModelFile]:
    """The candidate's files, with what the artifact store calls them."""
    stored = stored_files(stored_at) or {}
    return [
        ModelFile(
            name=name,
            sha256=digest,
            size=(candidate / name).stat().st_size,
            stored=stored[name].name if name in stored else None,
        )
        for name, digest in folder_files(candidate).items()
    ]


def _check_stored(client: MlflowClient, name: str, version: str, digest: str) -> None:
    found = listing_digest(version_files(client, name, version))
    if found != digest:
        raise UserError(
            f"the artifact store has other files for {name} version {version} than were sent: sha256 {found[:12]}, not "
            f"{digest[:12]}; find out who writes there, and register the candidate again"
        )


def _experiment(client: MlflowClient, spec: ReleaseSpec) -> str:
    embedded = spec.tracking.uri is None
    location = (spec.output.root.resolve() / "mlartifacts").as_uri() if embedded else None
    if client.get_experiment_by_name(EXPERIMENT) is None:
        with _unless_made_by_another():
            client.create_experiment(EXPERIMENT, artifact_location=location)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return str(experiment.experiment_id)


@contextmanager
def _unless_made_by_another() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
