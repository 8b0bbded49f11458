"""What the guard protects: a YAML document, read again at every move, so that a revoked key is revoked at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from tokenbuncher.attestation import Withdrawn, load_public_key
from tokenbuncher.core.documents import Origin, parse_yaml, read_text, refuse_tilde
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.fields import Contradiction, Strict, WrittenMoment, WrittenPath
from tokenbuncher.core.problems import validated
from tokenbuncher.guard.names import folded
from tokenbuncher.settings.artifact_uris import checked_root
from tokenbuncher.settings.policy import load_policy

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

GUARD = "TOKENBUNCHER_GUARD"
"""Environment variable of the server: path of the guard's settings."""

Stage = Literal["Staging", "Production"]


def _located_root(folder: Path, root: str) -> str:
    """A root of the document, which may count from the document's folder."""
    refuse_tilde(root)
    return checked_root(root if ":" in root else str(folder.resolve() / root))


def _place(root: str) -> str:
    try:
        _located_root(Path(), root)
    except UserError as error:
        raise ValueError(str(error)) from error
    return root


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
    aliases: dict[str, Protected] = Field(
        default_factory=dict, description="Protected in all ways of writing that a database may take for the same."
    )
    stages: dict[Stage, Protected] = Field(default_factory=dict)
    revoked: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        [], description="Identifiers of keys that count no longer, whatever they signed and when."
    )
    revoked_attestations: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        [], description="Digests of attestations that count no longer, as verify prints them."
    )
    not_before: dict[str, WrittenMoment] = Field(
        default_factory=dict, description="By name of a model: attestations made before count no longer."
    )
    hash_below_mb: Annotated[int, Field(ge=0)] = Field(
        4096,
        description="Versions up to this size are read and hashed at every move. Of larger ones the size and stored "
        "name (ETag, version id) of every file are compared; if the store has no such names, they are hashed too.",
    )

    max_files: Annotated[int, Field(ge=1)] = Field(10_000, description="Versions of more files are refused.")
    max_mb: Annotated[int, Field(ge=1)] = Field(
        1024 * 1024, description="Versions that would have to be read, and are larger, are refused."
    )
    max_checks: Annotated[int, Field(ge=1)] = Field(
        2, description="How many versions each process of the server checks at a time; others wait, then try again."
    )
    artifact_roots: list[Annotated[str, Field(min_length=1), AfterValidator(_place)]] = Field(
        [],
        description="Where a version's files may lie beside the server's own artifact root: folders, or prefixes of "
        "buckets such as `s3://bucket/mlflow`.",
    )

    def protected(self, alias: str) -> Protected | None:
        """What protects an alias, however it is written: to some databases it is the same alias."""
        return next((found for name, found in self.aliases.items() if folded(name) == folded(alias)), None)

    def protected_stage(self, stage: str) -> Protected | None:
        """What protects a stage."""
        return next((found for name, found in self.stages.items() if name == stage), None)

    def withdrawn(self, model: str, refused_at: str | None, made: datetime | None = None) -> Withdrawn:
        """What ends the word of an attestation about a version early.

        Args:
            model: Name of the model.
            refused_at: What is on record for the version, see `REFUSED_TAG`.
            made: When the version was made, if that is known.
        """
        return Withdrawn(self.revoked_attestations, self.not_before.get(model), refused_at, made)

    def checks(self) -> Iterable[Iterator[Contradiction]]:
        """Aliases can be protected."""
        return self._unprotectable(), self._ambiguous()

    def _unprotectable(self) -> Iterator[Contradiction]:
        for alias in self.aliases:
            if not re.fullmatch(r"[\w-]{1,255}", alias) or not folded(alias):
                message = f"{alias!r} is no alias: MLflow takes letters, digits, _ and -, at most 255 of them"
                yield ("aliases", alias), message
            elif folded(alias) == "latest" or re.fullmatch(r"v\d+", folded(alias)):
                yield (
                    ("aliases", alias),
                    f"{alias} is a name that MLflow keeps for itself; what it points to cannot be protected",
                )

    def _ambiguous(self) -> Iterator[Contradiction]:
        if twice := [name for name, count in Counter(map(folded, self.aliases)).items() if count > 1]:
            message = f"{', '.join(twice)} is written in two ways, which to some databases are the same alias"
            yield ("aliases",), message

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
    text = read_text("guard settings", path)
    document, wrong = parse_yaml(text, str(path)), f"{path} is not a valid guard document"
    settings = validated(GuardSettings, document, wrong, origin=Origin(text))
    folder = path.resolve().parent

    def located(protected: Protected) -> Protected:
        return protected.model_copy(
            update={"policy": folder / protected.policy, "keys": [folder / key for key in protected.keys]}
        )

    settings = settings.model_copy(
        update={
            "artifact_roots": [_located_root(folder, root) for root in settings.artifact_roots],
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
