"""Registers a candidate as a model version, pending its verdict."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest, folder_files, listing_digest, whole_folder, write_text
from tokenbuncher.core.version import __version__
from tokenbuncher.evidence import REGISTRATION_NAME, ModelFile, Registration
from tokenbuncher.registry._attacks import log_attacks
from tokenbuncher.registry._defence import log_defence
from tokenbuncher.registry._refused import registry_at
from tokenbuncher.registry._tries import count_tries
from tokenbuncher.registry._versions import quoted, tag, version_files
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.storage.artifacts import inside, server_root, stored_files
from tokenbuncher.storage.tracking import looked_up, settled, version_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

logger = logging.getLogger(__name__)

EXPERIMENT = "tokenbuncher"


def register(
    spec: ReleaseSpec, candidate: Path, out: Path, *, attacks: Sequence[Path] = (), steps: Path | None = None
) -> Registration:
    """Registers the candidate as a new model version with status `pending`.

    Weights registered before get another version: a version is one release, not one set of weights.

    Args:
        spec: The release spec; its tracking part names server and model.
        candidate: Folder of the candidate.
        out: Folder that gets registration.json.
        attacks: Folders of the attacks, whose curves are logged as runs nested in the candidate's.
        steps: Step log of the defence, or the folder that holds it, logged as another nested run. One that cannot be
            read is left out.

    Returns:
        The registered version.

    Raises:
        UserError: If there is no candidate, an attack cannot be read, the experiment keeps its files in a place that
            somebody else chose, the artifact store has other files afterwards, or MLflow refuses or cannot be reached.
    """
    if not candidate.is_dir() or not any(candidate.iterdir()):
        raise UserError(f"candidate {candidate} is not a folder with a model in it; run defend first")
    digest = folder_digest(candidate)
    name = spec.tracking.model_name
    with registry_at(spec.tracking_uri()) as client, whole_folder(out) as folder:
        run = client.create_run(_experiment(client, spec), run_name=spec.name)
        client.log_artifacts(run.info.run_id, str(candidate), "model")
        client.log_text(run.info.run_id, spec.to_yaml(), "spec.yaml")
        log_attacks(client, run, attacks)
        log_defence(client, run, spec.defence, steps=steps)
        client.set_terminated(run.info.run_id)
        with _unless_made_by_another():
            client.create_registered_model(name)
        version = _make_version(client, spec, run, digest=digest)
        files = _files(candidate, f"{run.info.artifact_uri}/model")
        if any(file.stored for file in files):
            # The guard takes the store's names for the content, so they must be: read after they were written down.
            _check_stored(client, name, version, digest=digest)
        tries = count_tries(client, spec, version_of(client, name, version), digest=digest, attacks=attacks)
        registration = Registration(
            name=name,
            version=version,
            digest=digest,
            files=files,
            tracking_uri=spec.tracking_uri(),
            tries=tries,
        )
        if tries.earlier is not None:
            tag(client, name, registration.version, tries=str(tries.earlier + 1))
        write_text(folder / REGISTRATION_NAME, registration.model_dump_json(indent=1) + "\n")
    logger.info(f"{name} version {registration.version}, pending, sha256 {digest[:12]}")
    return registration


def _make_version(client: MlflowClient, spec: ReleaseSpec, run: Run, *, digest: str) -> str:
    """Makes the run's version, and finds it if the answer was lost."""
    name, run_id = spec.tracking.model_name, run.info.run_id
    # Not runs:/RUN/model: MLflow's client would lay a logged model of that name over it.
    source = f"{run.info.artifact_uri}/model"
    tags = {
        "tokenbuncher.status": "pending",
        "tokenbuncher.digest": digest,
        "tokenbuncher.source": spec.model.source,
        "tokenbuncher.defence": spec.defence.recipe,
        "tokenbuncher.spec": spec.evidence_digest(),
        "tokenbuncher.policy": spec.policy_digest(),
        "tokenbuncher.tool": __version__,
    }

    def made() -> list[int]:
        found = client.search_model_versions(f"name = {quoted(name)} and run_id = '{run_id}'")
        return sorted(int(version.version) for version in found if (version.source, version.tags) == (source, tags))

    settled(
        client,
        lambda: client.create_model_version(name, source=source, run_id=run_id, tags=tags),
        lambda: bool(made()),
    )
    if not (versions := looked_up(client, made)):
        raise UserError(f"MLflow said that it made a version of {name}, and has none of run {run_id}; register again")
    return str(versions[0])


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


def _check_stored(client: MlflowClient, name: str, version: str, *, digest: str) -> None:
    found = listing_digest(version_files(client, name, version))
    if found != digest:
        raise UserError(
            f"the artifact store has other files for {name} version {version} than were sent: sha256 {found[:12]}, not "
            f"{digest[:12]}; find out who writes there, and register the candidate again"
        )


def _experiment(client: MlflowClient, spec: ReleaseSpec) -> str:
    """The experiment of all releases, made if there is none.

    Raises:
        UserError: If whoever made it chose where unreleased weights would be uploaded.
    """
    if client.get_experiment_by_name(EXPERIMENT) is None:
        with _unless_made_by_another():
            client.create_experiment(EXPERIMENT, artifact_location=_embedded_artifacts(spec))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    _check_place(client, spec, experiment)
    return str(experiment.experiment_id)


def _embedded_artifacts(spec: ReleaseSpec) -> str | None:
    return (spec.output.root.resolve() / "mlartifacts").as_uri() if spec.tracking.uri is None else None


def _check_place(client: MlflowClient, spec: ReleaseSpec, experiment: Experiment) -> None:
    """Checks that artifacts lie where the spec says, or else where the registry keeps those of any experiment."""
    place, stated = experiment.artifact_location, spec.tracking.artifact_root
    if stated is not None:
        trusted = inside(f"{place}/run", [stated])
    elif spec.tracking_uri().startswith(("http://", "https://")):
        root = server_root(client)
        trusted = root is not None and place == f"{root}/{experiment.experiment_id}"
    else:  # whoever can write to the database file needs no experiment
        trusted = place == (_embedded_artifacts(spec) or place)
    if not trusted:
        raise UserError(
            f"experiment {EXPERIMENT} keeps its files at {place}, which is not where this registry keeps those of "
            "other experiments: whoever made it would get the unreleased model. Rename or delete the experiment, or "
            "state tracking.artifact_root in the spec if the place is right"
        )


@contextmanager
def _unless_made_by_another() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
