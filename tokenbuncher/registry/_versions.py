"""Registered versions: their files, tags and aliases, and the way back to the former one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tokenbuncher.attestation import TAG, Withdrawn, read_unverified, refusal, verify, verify_files
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_files
from tokenbuncher.registry._aliases import move_alias
from tokenbuncher.registry._refused import Refused, registry_at
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.storage.artifacts import located
from tokenbuncher.storage.tracking import (
    alias_holder,
    model_of,
    registry_of,
    require_registry,
    settled,
    version_of,
)
from tokenbuncher.verdict import Outcome

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from securesystemslib.signer import SSlibKey

logger = logging.getLogger(__name__)

PREFIX = "tokenbuncher."


def tag(client: MlflowClient, name: str, version: str, **tags: str | None) -> None:
    """Sets the tool's own tags on a version, those that have a value."""
    for key, value in tags.items():
        if value is not None:
            _set(client, name, version, key=PREFIX + key, value=value)


def untag(client: MlflowClient, name: str, version: str, *, key: str) -> None:
    """Removes a tag from a version, if it has it."""

    def is_gone() -> bool:
        return key not in version_of(client, name, version).tags

    if not is_gone():
        settled(client, lambda: registry_of(client).delete_model_version_tag(name, version, key), is_gone)


def _set(client: MlflowClient, name: str, version: str, *, key: str, value: str) -> None:
    from mlflow.exceptions import MlflowException

    def put() -> None:
        registry_of(client).set_model_version_tag(name, version, key, value)

    def is_there() -> bool:
        return bool(version_of(client, name, version).tags.get(key) == value)

    try:
        settled(client, put, is_there)
    except MlflowException as error:
        # MLflow inserts where it found none; another process may have done so in between.
        if "unique constraint" not in str(error).lower():
            raise
        settled(client, put, is_there)


def download(client: MlflowClient, name: str, version: str, *, scratch: Path) -> Path:
    """The folder with the files of a version, below a folder for it.

    Raises:
        UserError: If MLflow's clients may read other files than these.
    """
    from mlflow.artifacts import download_artifacts

    uri, location = client.tracking_uri, located(client, name, version)
    return Path(download_artifacts(artifact_uri=location, dst_path=str(scratch), tracking_uri=uri, registry_uri=uri))


def version_files(client: MlflowClient, name: str, version: str) -> dict[str, str]:
    """sha256 of every file of a version, which are downloaded for it, by relative POSIX path."""
    with TemporaryDirectory() as scratch:
        return folder_files(download(client, name, version, scratch=Path(scratch)))


def rollback(spec: ReleaseSpec, trusted: Sequence[SSlibKey] = ()) -> None:
    """Moves the alias back to the version promoted before the present one, if its attestation still holds.

    Args:
        spec: The release spec; its tracking part names server, model and alias.
        trusted: The public keys that are trusted. What is kept with a version can be written by anybody who may write
            to the artifact store, so that nothing but a signature counts.

    Raises:
        Refused: If there is none, it has no attestation by a trusted key, that is not about a PASS by the spec's
            policy, has expired or was withdrawn, or is about other files than the version has now.
        UserError: If MLflow refuses or cannot be reached.
    """
    name, alias = spec.tracking.model_name, spec.tracking.alias
    require_registry(spec.tracking_uri())
    with registry_at(spec.tracking_uri()) as client:
        present = alias_holder(client, name, alias)
        if present is None:
            raise Refused(Outcome.INCONCLUSIVE, f"{alias} is on no version of {name}; there is nothing to go back from")
        versions = {str(version.version): _promoted(version, alias) for version in versions_of(client, name)}
        since = versions.pop(present)  # empty if somebody moved the alias by other means
        earlier = {version: when for version, when in versions.items() if when and (not since or when < since)}
        if not earlier:
            raise Refused(Outcome.INCONCLUSIVE, f"no version of {name} was {alias} before version {present}")
        version = max(earlier, key=lambda version: earlier[version])
        if doubts := list(_doubts(client, spec, version, trusted=trusted)):
            raise Refused(
                Outcome.INCONCLUSIVE, f"{alias} does not go back to {name} version {version}: {'; '.join(doubts)}"
            )
        move_alias(client, name, alias, version=version)
    logger.info(f"{alias} is {name} version {version} again, after version {present}")


def _promoted(version: ModelVersion, alias: str) -> str:
    """When it was promoted to an alias, in ISO format; empty if never."""
    return str(version.tags.get(f"{PREFIX}promoted.{alias}", ""))


def _doubts(client: MlflowClient, spec: ReleaseSpec, version: str, *, trusted: Sequence[SSlibKey]) -> Iterator[str]:
    """Why the alias does not go back to a version."""
    name = spec.tracking.model_name
    tags = version_of(client, name, version).tags
    if not trusted:
        yield (
            "no key is trusted, and without one anybody could say that it passed; give --key, or promote the recorded "
            f"release of version {version} again, which judges it anew"
        )
    elif TAG not in tags:
        yield f"it has no attestation; promote the recorded release of version {version} again, with one"
    else:
        withdrawn = Withdrawn(refused_at=refusal(tags))
        try:
            statement, problems = verify(
                tags[TAG], trusted, policy=spec.policy_digest(), model=name, version=version, withdrawn=withdrawn
            )
        except UserError as error:
            yield str(error)
            return
        yield from problems or verify_files(statement, version_files(client, name, version))


def status(spec: ReleaseSpec, trusted: Sequence[SSlibKey] = ()) -> str:
    """The registered versions as a table, the newest first: verdict, status, aliases, promotion, signature, files.

    Args:
        spec: The release spec; its tracking part names server and model.
        trusted: The public keys that are trusted; without any, signatures are not verified.

    Raises:
        UserError: If there is no such model, or MLflow refuses or cannot be reached.
    """
    name = spec.tracking.model_name
    require_registry(spec.tracking_uri())
    with registry_at(spec.tracking_uri()) as client:
        aliases = model_of(client, name).aliases
        versions = versions_of(client, name)
    rows = [["version", "verdict", "status", "aliases", "promoted", "signed", "files"]]
    for version in sorted(versions, key=lambda version: int(version.version), reverse=True):
        tags = version.tags
        named = [alias for alias, holder in aliases.items() if str(holder) == str(version.version)]
        status = tags.get(f"{PREFIX}status", "-")
        rows.append(
            [
                str(version.version),
                tags.get(f"{PREFIX}headline") or tags.get(f"{PREFIX}verdict", "-"),
                "superseded" if status == "promoted" and spec.tracking.alias not in named else status,
                ", ".join(sorted(named)) or "-",
                _promoted(version, spec.tracking.alias)[:19] or "-",
                _signed(tags.get(TAG), name, str(version.version), trusted=trusted),
                tags.get(f"{PREFIX}digest", "-")[:12],
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join([name, *lines])


def _signed(attestation: str | None, name: str, version: str, *, trusted: Sequence[SSlibKey]) -> str:
    """What a version's attestation is worth, in a word. It takes verify to see whether it is a PASS that holds."""
    if attestation is None:
        return "no"
    try:
        predicate = read_unverified(attestation).predicate
    except UserError:
        return "garbage"
    if (predicate.model, predicate.version) != (name, version):
        return "another's"
    if not trusted:
        return "unverified"
    try:
        verify(attestation, trusted)
    except UserError:
        return "untrusted"
    return "yes"


def quoted(name: str) -> str:
    """A name as MLflow's filters take it."""
    return f'"{name}"' if "'" in name else f"'{name}'"


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version of a model, with its tags; by number, too, because a search leaves out what has a prompt's tag."""
    from mlflow.exceptions import MlflowException

    found = {str(version.version): version for version in _searched(client, name)}
    latest = model_of(client, name).latest_versions
    for number in range(1, 1 + max((int(version.version) for version in latest), default=0)):
        if str(number) not in found:
            try:
                found[str(number)] = version_of(client, name, str(number))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # it may have been deleted
                    raise
    return list(found.values())


def _searched(client: MlflowClient, name: str) -> Iterator[ModelVersion]:
    token = None
    while True:
        page = client.search_model_versions(f"name = {quoted(name)}", page_token=token)
        yield from page
        if not (token := page.token):
            return
