"""What the guard protects: a YAML document, read again at every move, so that a revoked key is revoked at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from tokenbuncher.attestation import load_public_key
from tokenbuncher.documents import Strict, WrittenPath, parse_yaml, read_text, validated
from tokenbuncher.policy import load_policy

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

GUARD = "TOKENBUNCHER_GUARD"
"""Environment variable of the server: path of the guard's settings."""

Stage = Literal["Staging", "Production"]


class Protected(Strict):
    """Who may have an alias or stage: versions that passed this policy, by the word of one of these keys."""

    policy: WrittenPath = Field(description="The policy file; its digest must be the attested one.")
    keys: Annotated[list[WrittenPath], Field(min_length=1)] = Field(description="Public keys, PEM files.")
    users: list[str] = Field(
        [],
        description="Who may move it, as MLflow's own authentication (--app-name basic-auth) names them; all, if none.",
    )


class GuardSettings(Strict):
    """The guard's settings. Paths in the file count from its own folder."""

    apiVersion: Literal["tokenbuncher/v1"]
    aliases: dict[str, Protected] = Field(default_factory=dict)
    stages: dict[Stage, Protected] = Field(default_factory=dict)
    revoked: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        [], description="Identifiers of keys that count no longer, whatever they signed and when."
    )
    hash_below_mb: Annotated[int, Field(ge=0)] = Field(
        4096,
        description="Versions up to this size are read and hashed at every move. Of larger ones the size and stored "
        "name (ETag, version id) of every file are compared; if the store has no such names, they are hashed too.",
    )

    def protected(self, alias: str) -> Protected | None:
        """What protects an alias. Case does not count: to some databases it is the same alias."""
        return next((found for name, found in self.aliases.items() if name.casefold() == alias.casefold()), None)

    @model_validator(mode="after")
    def _protects_something(self) -> GuardSettings:
        if not self.aliases and not self.stages:
            raise ValueError("neither aliases nor stages are protected; name at least one")
        return self


def load_guard(path: Path) -> GuardSettings:
    """Reads the guard's settings, and all that they name.

    Raises:
        UserError: If a file cannot be read or is not valid; names each field.
    """
    document = parse_yaml(read_text("guard settings", path), str(path))
    settings = validated(GuardSettings, document, f"{path} is not a valid guard document")
    folder = path.resolve().parent

    def located(protected: Protected) -> Protected:
        return protected.model_copy(
            update={"policy": folder / protected.policy, "keys": [folder / key for key in protected.keys]}
        )

    settings = settings.model_copy(
        update={
            "aliases": {alias: located(protected) for alias, protected in settings.aliases.items()},
            "stages": {stage: located(protected) for stage, protected in settings.stages.items()},
        }
    )
    for protected in [*settings.aliases.values(), *settings.stages.values()]:
        load_policy(protected.policy)
        trusted_keys(settings, protected)
    return settings


def trusted_keys(settings: GuardSettings, protected: Protected) -> list[SSlibKey]:
    """The public keys whose word counts: those named, without the revoked.

    Raises:
        UserError: If one cannot be read.
    """
    keys = [load_public_key(path) for path in protected.keys]
    return [key for key in keys if key.keyid not in settings.revoked]
