"""The registry store that asks the guard; plugged into `mlflow server` by entry points (group
mlflow.model_registry_store, schemes guarded-sqlite, guarded-postgresql, guarded-mysql)."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import flask
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from tokenbuncher.attestation import REFUSED_TAG, TAG
from tokenbuncher.errors import UserError
from tokenbuncher.guard.check import check_version
from tokenbuncher.guard.settings import GUARD, GuardSettings, Protected, load_guard

SCHEME = "guarded-"


class GuardedStore(SqlAlchemyStore):
    """MLflow's database store, but for protected aliases and stages."""

    def __init__(self, store_uri: str) -> None:
        """
        Args:
            store_uri: The database, with `guarded-` before its scheme.

        Raises:
            UserError: If the environment does not name valid guard settings: no server starts half guarded.
        """
        _load_settings()
        super().__init__(store_uri.removeprefix(SCHEME))

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Moves an alias; a protected one only to a version that may have it."""
        self._guard(name, str(version), f"alias {alias}", lambda settings: settings.protected(alias))
        super().set_registered_model_alias(name, alias, version)

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        """Moves a version to a stage; to a protected one only if it may be there."""
        canonical = get_canonical_stage(stage)
        self._guard(name, str(version), f"stage {canonical}", lambda settings: settings.stages.get(canonical))
        return super().transition_model_version_stage(name, version, stage, archive_existing_versions)

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Renames a model, unless one of its versions has what is protected: that was judged under its own name."""
        settings = _settings()
        model = self.get_registered_model(name)
        held = [f"alias {alias}" for alias in model.aliases if settings.protected(alias)]
        held += [
            f"stage {version.current_stage}"
            for version in self.get_latest_versions(name)
            if version.current_stage in settings.stages
        ]
        if held:
            raise _denied(f"{name} cannot be renamed to {new_name}: it has {', '.join(held)}, and was judged as {name}")
        return super().rename_registered_model(name, new_name)

    def _guard(self, name: str, version: str, what: str, protected_by: Any) -> None:
        settings = _settings()
        protected: Protected | None = protected_by(settings)
        if protected is None:
            return
        reasons = _user_problems(protected)
        if not reasons:
            tags = self.get_model_version(name, version).tags
            try:
                reasons = check_version(
                    settings,
                    protected,
                    name,
                    version,
                    tags.get(TAG),
                    lambda: _location(self.get_model_version_download_uri(name, version)),
                    refused_at=tags.get(REFUSED_TAG),
                )
            except Exception as error:  # whatever keeps the check from its end keeps the alias where it is
                reasons = [f"it could not be checked: {type(error).__name__}: {error}"]
        if reasons:
            raise _denied(f"{what} is protected; {name} version {version} does not get it: {'; '.join(reasons)}")


def _settings() -> GuardSettings:
    """The settings as they are now; while they cannot be read, nothing protected moves."""
    try:
        return _load_settings()
    except UserError as error:
        raise _denied(str(error)) from error


def _load_settings() -> GuardSettings:
    path = os.environ.get(GUARD)
    if not path:
        raise UserError(f"the registry store is guarded, but {GUARD} names no settings; see docs/guard.md")
    return load_guard(Path(path))


def _user_problems(protected: Protected) -> list[str]:
    """Why this request's user may not move it; nothing means that they may."""
    if not protected.users:
        return []
    authorization = flask.request.authorization if flask.has_request_context() else None
    user = authorization.username if authorization else None
    if user in protected.users:
        return []
    return [f"only {', '.join(protected.users)} may move it, not {user or 'somebody without a name'}"]


def _denied(message: str) -> MlflowException:
    return MlflowException(f"tokenbuncher guard: {message}", PERMISSION_DENIED)


def _location(source: str) -> str:
    """Where the server itself finds what a client calls runs:/ or mlflow-artifacts:/.

    A location that names a host is refused: the guard would look into its own store, and clients into that host's.
    """
    from mlflow.server import ARTIFACTS_DESTINATION_ENV_VAR
    from mlflow.server.handlers import _get_proxied_run_artifact_destination_path, _get_tracking_store

    if urlparse(source).scheme == "runs":
        run, path = RunsArtifactRepository.parse_runs_uri(source)
        source = posixpath.join(_get_tracking_store().get_run(run).info.artifact_uri, path or "")
    location = urlparse(source)
    if location.scheme in ("http", "https") or (location.scheme == "mlflow-artifacts" and location.netloc):
        raise UserError(f"its files are at {source}, another server's")
    if location.scheme == "mlflow-artifacts":
        root = os.environ[ARTIFACTS_DESTINATION_ENV_VAR].rstrip("/")
        return f"{root}/{_get_proxied_run_artifact_destination_path(source)}"
    return source
