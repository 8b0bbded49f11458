"""The registry store that asks the guard; plugged into `mlflow server` by entry points (group
mlflow.model_registry_store): `guarded-` before the scheme of a database, with its driver or without."""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from threading import Condition
from typing import Any, NamedTuple
from urllib.parse import urlparse

import flask
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL, get_canonical_stage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, TEMPORARILY_UNAVAILABLE
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.validation import _validate_model_version
from sqlalchemy.orm import Session

from tokenbuncher.attestation import CLOCK_SKEW, REFUSED_TAG, TAG
from tokenbuncher.core.errors import UserError
from tokenbuncher.guard.check import OnRecord, check_version
from tokenbuncher.guard.names import folded
from tokenbuncher.guard.settings import GUARD, GuardSettings, Protected, load_guard
from tokenbuncher.settings.artifact_uris import SERVED
from tokenbuncher.storage.artifacts import inside, version_location

SCHEME = "guarded-"
WAIT = 10
"""Seconds that a request waits for others that are being checked."""

log = logging.getLogger("tokenbuncher.guard")


class Facts(NamedTuple):
    """The state of a version when it was checked; it moves only if that is the same when the move is written."""

    model: str
    model_made: int
    name: str
    version: str
    made: int
    source: str
    download: str
    run: str | None
    attestation: str | None
    refused_at: str | None


class GuardedStore(SqlAlchemyStore):
    """MLflow's database store, with protected aliases and stages."""

    ManagedSessionMaker: Callable[..., AbstractContextManager[Session]]

    def __init__(self, store_uri: str) -> None:
        """
        Args:
            store_uri: The database, with `guarded-` before its scheme.

        Raises:
            UserError: If the environment does not name valid guard settings: no server starts half guarded.
        """
        _load_settings()
        super().__init__(store_uri.removeprefix(SCHEME))
        self._sessions = self.ManagedSessionMaker
        self._session: ContextVar[Session | None] = ContextVar("session", default=None)
        self.ManagedSessionMaker = self._joined

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Moves an alias; a protected one only to a version that may have it."""
        settings = _settings()
        protected = settings.protected(alias)
        facts = self._checked(settings, protected, name, version=version, what=f"alias {alias}") if protected else None
        with self._transaction(name) as session:
            self._require_unchanged(facts, settings)
            before = self._holders(session, settings, name)
            super().set_registered_model_alias(name, alias, version)
            session.flush()
            after = self._holders(session, settings, name)
            moved = [held for held in after if after[held] != before[held] and folded(held) != folded(alias)]
            if moved:
                raise _denied(f"alias {alias} is {', '.join(moved)} to this database, and that is protected")

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        """Moves a version to a stage; to a protected one only if it may be there."""
        settings = _settings()
        canonical = get_canonical_stage(stage)
        protected = settings.stages.get(canonical)
        facts = (
            self._checked(settings, protected, name, version=version, what=f"stage {canonical}") if protected else None
        )
        with self._transaction(name):
            self._require_unchanged(facts, settings)
            return super().transition_model_version_stage(name, version, stage, archive_existing_versions)

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Renames a model, unless one of its versions has what is protected: that was judged under its own name.

        What was signed about its versions until now counts no longer. Else one could take a name away from a model with
        a version that was refused, and give it to another with the same files and no such record.
        """
        settings = _settings()
        with self._transaction(name) as session:
            model = self.get_registered_model(name)
            held = [f"alias {alias}" for alias in model.aliases if settings.protected(alias)]
            held += [
                f"stage {version.current_stage}"
                for version in self.get_latest_versions(name)
                if version.current_stage in settings.stages
            ]
            if held:
                raise _denied(
                    f"{name} cannot be renamed to {new_name}: it has {', '.join(held)}, and was judged as {name}"
                )
            renamed = super().rename_registered_model(name, new_name)
            now = ModelVersionTag(REFUSED_TAG, datetime.now(UTC).isoformat())
            versions = self._get_query(session, SqlModelVersion).filter(SqlModelVersion.name == new_name).all()
            for version in [version.version for version in versions if version.current_stage != STAGE_DELETED_INTERNAL]:
                super().set_model_version_tag(new_name, version, now)
            return renamed

    def set_model_version_tag(self, name: str, version: str, tag: ModelVersionTag) -> None:
        """Sets a tag; that of a refusal to a time only that is past, and later than the one on record."""
        with self._refusal_kept(name, version):
            super().set_model_version_tag(name, version, tag)

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        """Removes a tag, but not that of a refusal."""
        with self._refusal_kept(name, version):
            super().delete_model_version_tag(name, version, key)

    @contextmanager
    def _refusal_kept(self, name: str, version: str) -> Iterator[None]:
        """Lets nobody take back that a verdict refused a version, whatever the database takes for the same key."""
        with self._transaction(name) as session:
            before = self._refused_at(session, name, version)
            yield
            session.flush()
            after = self._refused_at(session, name, version)
            if after != before and not _follows(after, before):
                raise _denied(
                    f"{name} version {version} was refused by a verdict{f' of {before}' if before else ''}: the record "
                    "stays, and is followed only by that of a later refusal, until now"
                )

    def _refused_at(self, session: Session, name: str, version: str) -> str | None:
        """The record of a refusal, as the database itself compares names: so keys that it takes for the same, too."""
        same = (
            SqlModelVersionTag.name == name,
            SqlModelVersionTag.version == _validate_model_version(version),
            SqlModelVersionTag.key == REFUSED_TAG,
        )
        row = self._get_query(session, SqlModelVersionTag).filter(*same).with_entities(SqlModelVersionTag.value).first()
        return row.value if row else None

    def _checked(self, settings: GuardSettings, protected: Protected, name: str, *, version: str, what: str) -> Facts:
        """What a version is that may have what is protected.

        Raises:
            MlflowException: If it must not have it, or others are being checked and take too long.
        """
        reasons = _user_problems(protected)
        try:
            facts = self._facts(name, version)
        except MlflowException as error:  # told in the guard's name: so one can ask whether there is a guard
            raise _denied(f"{what} is protected; there is no {name} version {version}") from error
        if not name == facts.name == facts.model:
            reasons.append(f"the model is called {facts.model}, which this database takes for the same")
        if not reasons:
            with _turn(settings.max_checks):
                reasons = _problems(settings, protected, facts)
        if reasons:
            raise _denied(f"{what} is protected; {name} version {version} does not get it: {'; '.join(reasons)}")
        return facts

    def _facts(self, name: str, version: str) -> Facts:
        with self.ManagedSessionMaker() as session:
            model = self._get_registered_model(session, name)
            found = self._get_sql_model_version(session, name, version, eager=True)
            tags = {tag.key: tag.value for tag in found.model_version_tags}
            return Facts(
                model=model.name,
                model_made=model.creation_time,
                name=found.name,
                version=str(found.version),
                made=found.creation_time,
                source=found.source,
                download=found.storage_location or found.source,
                run=found.run_id,
                attestation=tags.get(TAG),
                refused_at=self._refused_at(session, name, version),
            )

    def _require_unchanged(self, facts: Facts | None, settings: GuardSettings) -> None:
        """Checks, inside of the transaction that moves it, that a version is what was checked, and so the settings."""
        if facts is None:
            return
        if _settings() != settings:
            raise _denied("the guard's settings were changed while the version was checked; try again")
        self._lock_version(facts)
        if self._facts(facts.name, facts.version) != facts:
            raise _denied(f"{facts.name} version {facts.version} was changed while it was checked; try again")

    @contextmanager
    def _transaction(self, name: str) -> Iterator[Session]:
        """One transaction for all that is done inside, MLflow's own steps included, in which nobody moves the model."""
        with self._sessions(read_only=False) as session:
            token = self._session.set(session)
            try:
                self._lock_model(session, name)
                yield session
            finally:
                self._session.reset(token)

    def _joined(self, read_only: bool = True) -> AbstractContextManager[Session]:
        """The session of the transaction under way, or else one of its own."""
        session = self._session.get()
        return _lent(session) if session is not None else self._sessions(read_only=read_only)

    def _lock_model(self, session: Session, name: str) -> None:
        """Locks a model's row, or all of an sqlite database, by an update that changes nothing."""
        same = (SqlRegisteredModel.workspace == self._get_active_workspace(), SqlRegisteredModel.name == name)
        unchanged = {"last_updated_time": SqlRegisteredModel.last_updated_time}
        if not session.query(SqlRegisteredModel).filter(*same).update(unchanged, synchronize_session=False):
            self._get_registered_model(session, name)  # says that there is none
            raise MlflowException(f"tokenbuncher guard: {name} was just renamed; try again", TEMPORARILY_UNAVAILABLE)

    def _lock_version(self, facts: Facts) -> None:
        with self.ManagedSessionMaker(read_only=False) as session:
            same = (SqlModelVersion.name == facts.name, SqlModelVersion.version == int(facts.version))
            self._get_query(session, SqlModelVersion).filter(*same).with_for_update().all()

    def _holders(self, session: Session, settings: GuardSettings, name: str) -> dict[str, int | None]:
        """The version that has each protected alias, as the database itself compares names."""
        return {alias: self._holder(session, name, alias) for alias in settings.aliases}

    def _holder(self, session: Session, name: str, alias: str) -> int | None:
        same = (SqlRegisteredModelAlias.name == name, SqlRegisteredModelAlias.alias == alias)
        held = self._get_query(session, SqlRegisteredModelAlias).filter(*same)
        row = held.with_entities(SqlRegisteredModelAlias.version).first()
        return row.version if row else None


def _problems(settings: GuardSettings, protected: Protected, facts: Facts) -> list[str]:
    """Why a version must not have what is protected; whatever keeps the check from its end counts as one."""
    try:
        reasons = check_version(
            settings,
            protected,
            facts.name,
            version=facts.version,
            attestation=facts.attestation,
            location=lambda: _location(facts.source, facts.download, settings.artifact_roots),
            told=_masked,
            record=OnRecord(facts.refused_at, datetime.fromtimestamp(facts.made / 1000, UTC)),
        )
        if not reasons:
            _location(facts.source, facts.download, settings.artifact_roots)  # it may have moved while it was read
    except UserError as error:
        reasons = [str(error)]
    except Exception as error:
        reasons = [_masked(error)]
    return reasons


def _follows(refused_at: str | None, before: str | None) -> bool:
    """Whether a record of a refusal may take the place of the one before; anything may that of one without sense."""
    time, former = _moment(refused_at), _moment(before)
    return time is not None and time <= datetime.now(UTC) + CLOCK_SKEW and (former is None or time > former)


def _moment(record: str | None) -> datetime | None:
    try:
        time = datetime.fromisoformat(record or "")
    except ValueError:
        return None
    return time if time.tzinfo else None


def _masked(error: Exception) -> str:
    """Tells the server's log what a client need not know: paths and addresses of the server."""
    log.warning("a version could not be checked: %s", error, exc_info=error)
    return "its files, or the guard's own, cannot be read as they must be; see the server's log"


def _settings() -> GuardSettings:
    """The settings as they are now; while they cannot be read, nothing protected moves."""
    try:
        return _load_settings()
    except UserError as error:
        log.warning("nothing moves: %s", error)
        raise _denied(
            "its settings are not a valid guard document, or name files that cannot be read; until they are mended "
            "nothing moves; see the server's log"
        ) from error


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


_free, _busy = Condition(), 0


@contextmanager
def _turn(most: int) -> Iterator[None]:
    """A turn for one of a limited number of checks at a time.

    Raises:
        MlflowException: If none is free in time; MLflow's clients then try again.
    """
    global _busy
    with _free:
        if not _free.wait_for(lambda: _busy < most, WAIT):
            raise MlflowException("tokenbuncher guard: it checks other versions; try again", TEMPORARILY_UNAVAILABLE)
        _busy += 1
    try:
        yield
    finally:
        with _free:
            _busy -= 1
            _free.notify()


@contextmanager
def _lent(session: Session) -> Iterator[Session]:
    yield session


class _OwnTracking:
    """The server's own tracking store, once it is asked something."""

    def __getattr__(self, method: str) -> Any:
        from mlflow.server.handlers import _get_tracking_store

        return getattr(_get_tracking_store(), method)


def _location(source: str, download: str | None = None, roots: Sequence[str] = ()) -> str:
    """Where the server itself reads what clients get for a version.

    Raises:
        UserError: If clients may get something else, or the files lie outside of the server's artifact root and the
            roots that are trusted beside it.
    """
    location, trusted = version_location(_OwnTracking(), source, download or source), [*_own_roots(), *roots]
    served = urlparse(location)
    if inside(location, trusted) and served.scheme == SERVED:
        location, trusted = posixpath.join(_destination(), served.path[1:]), [_destination()]
    if not inside(location, trusted):
        raise UserError("its files lie outside of the server's artifact root and of artifact_roots")
    return location


def _own_roots() -> list[str]:
    """Where the server puts artifacts: behind itself, if it serves them, and where clients find them otherwise."""
    from mlflow.server import ARTIFACT_ROOT_ENV_VAR, SERVE_ARTIFACTS_ENV_VAR

    served = [f"{SERVED}:/"] if os.environ.get(SERVE_ARTIFACTS_ENV_VAR) == "true" else []
    return [*served, *filter(None, [os.environ.get(ARTIFACT_ROOT_ENV_VAR)])]


def _destination() -> str:
    from mlflow.server import ARTIFACTS_DESTINATION_ENV_VAR

    return os.environ[ARTIFACTS_DESTINATION_ENV_VAR]
