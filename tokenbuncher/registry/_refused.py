"""Why an alias was not moved, by what the release came to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tokenbuncher.core.errors import UserError
from tokenbuncher.storage.tracking import Denied, connected
from tokenbuncher.verdict import Outcome

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Refused(UserError):
    """The alias was not moved; `outcome` is the outcome of the release."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(f"{outcome}: {message}")
        self.outcome = outcome


@contextmanager
def registry_at(uri: str) -> Iterator[MlflowClient]:
    """A client of the tracking server and its registry; see `tracking.connected`.

    Raises:
        Refused: If the server denies the move of an alias, as one with the guard does.
        UserError: As `tracking.connected`.
    """
    try:
        with connected(uri) as client:
            yield client
    except Denied as denied:
        raise Refused(Outcome.INCONCLUSIVE, str(denied)) from denied
