"""Registered versions: their files, tags and aliases, and the way back to the former one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tokenbuncher.attestation import TAG
from tokenbuncher.files import folder_files, listing_digest
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.tracking import Refused, connected, require_registry
from tokenbuncher.verdict import FILE_NAME, Outcome, read_verdict

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PREFIX = "tokenbuncher."


def champion(client: MlflowClient, name: str, alias: str) -> str | None:
    """The version that has the alias; None if none has."""
    version = client.get_registered_model(name).aliases.get(alias)
    return None if version is None else str(version)


def tag(client: MlflowClient, name: str, version: str, **tags: str | None) -> None:
    """Sets the tool's own tags on a version, those that have a value."""
    from mlflow.exceptions import MlflowException

    for key, value in tags.items():
        if value is not None:
            try:
                client.set_model_version_tag(name, version, PREFIX + key, value)
            except MlflowException as error:
                # MLflow inserts where it found none; another process may have done so in between.
                if "unique constraint" not in str(error).lower():
                    raise
                client.set_model_version_tag(name, version, PREFIX + key, value)


def download(client: MlflowClient, name: str, version: str, scratch: Path) -> Path:
    """The folder with the files of a version, below a folder for it."""
    from mlflow.artifacts import download_artifacts

    uri = client.tracking_uri
    source = client.get_model_version_download_uri(name, version)
    return Path(download_artifacts(artifact_uri=source, dst_path=str(scratch), tracking_uri=uri, registry_uri=uri))


def version_files(client: MlflowClient, name: str, version: str) -> dict[str, str]:
    """sha256 of every file of a version, which are downloaded for it, by relative POSIX path."""
    with TemporaryDirectory() as scratch:
        return folder_files(download(client, name, version, Path(scratch)))


def rollback(spec: ReleaseSpec) -> None:
    """Moves the alias back to the version promoted before the present one, if its verdict still holds.

    Raises:
        Refused: If there is none, its verdict is not a PASS, has expired, is by another policy than the spec's, or is
            about other files than it has now.
        UserError: If MLflow refuses or cannot be reached.
    """
    name, alias = spec.tracking.model_name, spec.tracking.alias
    require_registry(spec.tracking_uri())
    with connected(spec.tracking_uri()) as client:
        present = champion(client, name, alias)
        if present is None:
            raise Refused(Outcome.INCONCLUSIVE, f"{alias} is on no version of {name}; there is nothing to go back from")
        versions = {str(version.version): _promoted(version, alias) for version in versions_of(client, name)}
        since = versions.pop(present)  # empty if somebody moved the alias by other means
        earlier = {version: when for version, when in versions.items() if when and (not since or when < since)}
        if not earlier:
            raise Refused(Outcome.INCONCLUSIVE, f"no version of {name} was {alias} before version {present}")
        version = max(earlier, key=lambda version: earlier[version])
        _check_kept_verdict(client, spec, version)
        client.set_registered_model_alias(name, alias, version)
    print(f"{alias} is {name} version {version} again, after version {present}")


def _promoted(version: ModelVersion, alias: str) -> str:
    """When it was promoted to an alias, in ISO format; empty if never."""
    return str(version.tags.get(f"{PREFIX}promoted.{alias}", ""))


def _check_kept_verdict(client: MlflowClient, spec: ReleaseSpec, version: str) -> None:
    name = spec.tracking.model_name
    run = client.get_model_version(name, version).run_id
    with TemporaryDirectory() as scratch:
        verdict = read_verdict(Path(client.download_artifacts(run, FILE_NAME, scratch)))
    doubts = []
    if verdict.outcome is not Outcome.PASS:
        doubts.append(f"its verdict is {verdict.outcome}")
    if (verdict.name, verdict.version) != (name, version):
        doubts.append(f"its verdict is about {verdict.name} version {verdict.version}")
    if verdict.policy != spec.policy_digest():
        doubts.append(
            f"its verdict is by policy {verdict.policy[:12]}, not {spec.policy_digest()[:12]}; run its gate again"
        )
    if datetime.now(UTC) >= verdict.expires:
        doubts.append(f"its verdict expired at {verdict.expires.isoformat(timespec='seconds')}; run its gate again")
    if listing_digest(version_files(client, name, version)) != verdict.candidate:
        doubts.append("its files are not those that were judged")
    if doubts:
        raise Refused(
            Outcome.INCONCLUSIVE, f"the alias does not go back to {name} version {version}: {'; '.join(doubts)}"
        )


def status(spec: ReleaseSpec) -> str:
    """The registered versions as a table, the newest first: verdict, status, aliases, promotion, files.

    Raises:
        UserError: If there is no such model, or MLflow refuses or cannot be reached.
    """
    name = spec.tracking.model_name
    require_registry(spec.tracking_uri())
    with connected(spec.tracking_uri()) as client:
        aliases = client.get_registered_model(name).aliases
        versions = versions_of(client, name)
    rows = [["version", "verdict", "status", "aliases", "promoted", "signed", "files"]]
    for version in sorted(versions, key=lambda version: int(version.version), reverse=True):
        tags = version.tags
        named = [alias for alias, holder in aliases.items() if str(holder) == str(version.version)]
        status = tags.get(f"{PREFIX}status", "-")
        rows.append(
            [
                str(version.version),
                tags.get(f"{PREFIX}verdict", "-"),
                "superseded" if status == "promoted" and spec.tracking.alias not in named else status,
                ", ".join(sorted(named)) or "-",
                _promoted(version, spec.tracking.alias)[:19] or "-",
                "yes" if TAG in tags else "no",
                tags.get(f"{PREFIX}digest", "-")[:12],
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join([name, *lines])


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version of a model, with its tags."""
    found: list[ModelVersion] = []
    wanted = f"name = {quoted(name)}"
    page = client.search_model_versions(wanted)
    found += page
    while page.token:
        page = client.search_model_versions(wanted, page_token=page.token)
        found += page
    return found


def quoted(name: str) -> str:
    """A name as MLflow's filters take it."""
    return f'"{name}"' if "'" in name else f"'{name}'"
