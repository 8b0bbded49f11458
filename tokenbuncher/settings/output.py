"""Where results go: the registry and the run's folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.fields import Positive, Strict, WrittenPath
from tokenbuncher.settings.artifact_uris import checked_root
from tokenbuncher.settings.tracking_uri import checked_tracking_uri, refuse_password


class TrackingSpec(Strict):
    """The MLflow server and the names in its registry."""

    uri: str | None = Field(
        None,
        description="http://HOST:PORT, https://HOST or sqlite:///FILE, without a password. Defaults to an sqlite file "
        "under output.root.",
    )
    artifact_root: str | None = Field(
        None,
        description="Location below which the experiment's files must lie, such as `s3://bucket/mlflow`. Defaults to "
        "where the server itself puts an experiment.",
    )
    model_name: Annotated[str, Field(pattern=r"^[^/:\s][^/:]*$", max_length=256)] = "organism"
    alias: Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$", max_length=100)] = "champion"

    @field_validator("uri")
    @classmethod
    def _of_a_known_form(cls, uri: str | None) -> str | None:
        if uri is None:
            return None
        try:
            refuse_password(uri)
            return checked_tracking_uri(uri)
        except UserError as error:
            raise ValueError(str(error)) from error

    @field_validator("artifact_root")
    @classmethod
    def _is_a_place(cls, root: str | None) -> str | None:
        if root is not None:
            try:
                checked_root(root)
            except UserError as error:
                raise ValueError(str(error)) from error
        return root

    @field_validator("model_name")
    @classmethod
    def _as_mlflow_takes_it(cls, name: str) -> str:
        if name in (".", "..") or name != name.strip() or not name.isprintable():
            raise ValueError("MLflow takes no name of dots alone, with spaces around it or with control characters")
        if "'" in name and '"' in name:
            raise ValueError("MLflow cannot look up a name that has both ' and \"; leave one of them out")
        return name

    @field_validator("alias")
    @classmethod
    def _free_for_use(cls, alias: str) -> str:
        if alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
            raise ValueError("MLflow keeps `latest` and names like `v1` for itself; choose another")
        return alias


class OutputSpec(Strict):
    """Where runs are written."""

    root: WrittenPath = Path("runs")
    checkpoint_every: Positive = Field(
        20, description="Steps between two checkpoints. An interrupted defence or attack resumes from the last one."
    )
    reuse_controls: bool = Field(
        False,
        description="Keep the controls of attacks in root/quarantine, including what the broken model says, and reuse "
        "those of the same base model, prompts, attack and tool version within policy.valid_days.",
    )
