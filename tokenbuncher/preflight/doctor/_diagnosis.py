"""What a check found, and what to do about it."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from tokenbuncher.core.passwords import without_passwords

Level = Literal["ok", "warning", "problem"]
SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)


class Diagnosis(NamedTuple):
    """One thing that was checked."""

    level: Level
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.what}; {self.remedy}" if self.remedy else self.what
        return f"{self.level:<7}  {_without_secrets(' '.join(text.split()))}"


def ok(what: str) -> Diagnosis:
    """All is well."""
    return Diagnosis("ok", what)


def warning(what: str, remedy: str) -> Diagnosis:
    """It may do, or was not checked."""
    return Diagnosis("warning", what, remedy)


def problem(what: str, remedy: str) -> Diagnosis:
    """A run would fail."""
    return Diagnosis("problem", what, remedy)


def _without_secrets(text: str) -> str:
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, f"(${name})")
    return without_passwords(text)
