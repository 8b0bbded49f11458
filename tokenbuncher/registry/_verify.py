"""Verifies a registered version, and downloads exactly the files that were verified."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tokenbuncher.attestation import (
    TAG,
    Statement,
    Withdrawn,
    attestation_digest,
    refusal,
    refused_only,
    verify,
    verify_files,
)
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import check_output, folder_files, whole_folder
from tokenbuncher.registry._refused import registry_at
from tokenbuncher.registry._versions import download
from tokenbuncher.storage.tracking import alias_holder, version_of

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

logger = logging.getLogger(__name__)

_MODEL_URI = re.compile(r"models:/(?P<name>[^/]+)(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))")


def verify_version(
    uri: str,
    trusted: Sequence[SSlibKey],
    tracking_uri: str | None,
    *,
    policy: str | None = None,
    out: Path | None = None,
    withdrawn: Callable[[str, str | None], Withdrawn] = refused_only,
) -> tuple[Statement, list[str]]:
    """Verifies the attestation of a registered version and every file of it.

    Args:
        uri: `models:/NAME/VERSION` or `models:/NAME@alias`.
        trusted: The public keys that are trusted.
        tracking_uri: The URI of the registry; if None, that of MLFLOW_TRACKING_URI.
        policy: The digest of the policy that it must have been judged by.
        out: A folder for the files that were verified. It is made, or replaced, only if everything holds.
        withdrawn: Gives what makes an attestation invalid early, by the model's name and the refusal that is on record
            for the version. By default it is that refusal alone.

    Returns:
        The statement, and what is wrong, in words; it holds if the list is empty.

    Raises:
        UserError: If the URI has another form, there is no such version, it has no attestation, or none of the keys
            signed it.
    """
    match = _MODEL_URI.fullmatch(uri)
    tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if match is None:
        raise UserError(f"{uri} is neither models:/NAME/VERSION nor models:/NAME@alias")
    if tracking_uri is None:
        raise UserError(f"where is {uri}? Give --tracking-uri or set MLFLOW_TRACKING_URI")
    name = match["name"]
    if out:
        check_output(out)
        out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out and out.parent) as scratch:
        with registry_at(tracking_uri) as client:
            version = match["version"] or alias_holder(client, name, match["alias"])
            if version is None:
                raise UserError(f"{name} has no version with alias {match['alias']}")
            tags = version_of(client, name, version).tags
            if TAG not in tags:
                raise UserError(f"{name} version {version} has no attestation; promote one that is signed")
            logger.info(f"attestation: sha256 {attestation_digest(tags[TAG])}")
            ended = withdrawn(name, refusal(tags))
            statement, problems = verify(
                tags[TAG], trusted, policy=policy, model=name, version=version, withdrawn=ended
            )
            folder = download(client, name, version, scratch=Path(scratch))
        problems += verify_files(statement, folder_files(folder))
        if out and not problems:
            with whole_folder(out) as whole:
                os.replace(folder, whole)
    return statement, problems
