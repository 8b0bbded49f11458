"""Moving an alias, and reporting truthfully where it is afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbuncher.registry._refused import Refused
from tokenbuncher.storage.tracking import (
    alias_holder,
    failures_of,
    in_words,
    is_answer,
    is_denial,
    looked_up,
    registry_of,
    settled,
    unanswered,
)
from tokenbuncher.verdict import Outcome

if TYPE_CHECKING:
    from mlflow import MlflowClient


class NotMoved(Refused):
    """The alias is elsewhere; `denied` says whether the server refused to move it."""

    def __init__(self, message: str, denied: bool) -> None:
        super().__init__(Outcome.INCONCLUSIVE, message)
        self.denied = denied


def move_alias(client: MlflowClient, name: str, alias: str, *, version: str) -> None:
    """Moves an alias and looks where it is then, whatever the server answered.

    Raises:
        NotMoved: If it is elsewhere; the message says why, and where.
        Refused: If that cannot be found out.
    """
    failure = _attempt(client, name, alias, version=version)
    there = _holder_afterwards(client, name, alias, version=version, failure=failure)
    if there == version:
        return
    why = in_words(failure) if failure else "MLflow said that it was, but somebody may have moved it on"
    at_work = "" if failure is None or is_answer(failure) else "; if the server is still at work, it may yet move"
    raise NotMoved(
        f"{alias} was not moved to {name} version {version}: {why}. It is on {named(there)}{at_work}",
        denied=failure is not None and is_denial(failure),
    ) from failure


def _attempt(client: MlflowClient, name: str, alias: str, *, version: str) -> Exception | None:
    try:
        settled(
            client,
            lambda: registry_of(client).set_registered_model_alias(name, alias, version),
            lambda: alias_holder(client, name, alias) == version,
        )
    except failures_of(client.tracking_uri) as error:
        return error
    return None


def _holder_afterwards(
    client: MlflowClient, name: str, alias: str, *, version: str, failure: Exception | None
) -> str | None:
    try:
        return looked_up(client, lambda: alias_holder(client, name, alias))
    except unanswered(client) as error:
        asked = f"MLflow failed ({in_words(failure)})" if failure else "MLflow said that it was moved"
        raise Refused(
            Outcome.INCONCLUSIVE,
            f"whether {alias} is on {name} version {version} is not known: {asked}, and then the registry could not be "
            f"read ({in_words(error)}). `tokenbuncher status` shows it once the registry answers",
        ) from error


def named(version: str | None) -> str:
    """A version in words."""
    return f"version {version}" if version else "no version"
