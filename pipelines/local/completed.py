"""Completed stages of an interrupted run, taken over if all that they depend on is the same now.

kfp.local asks the object here for outputs before it runs a task, and shows it those of a task that it has run. Its own
cache asks where inputs lie, not what is in them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

from kfp import dsl
from pydantic import BaseModel, ValidationError

from pipelines.local.kfp_local import artifact_at
from tokenbuncher.core.documents import digest_of
from tokenbuncher.core.files import folder_digest, folder_files, listing_digest, write_text
from tokenbuncher.core.log import event
from tokenbuncher.settings import parse_spec
from tokenbuncher.storage.dependencies import Doubtful, surroundings

logger = logging.getLogger(f"tokenbuncher.{__name__}")

RECORD = "completed.json"


class Output(BaseModel):
    """An output of a task."""

    path: str
    """Below the folder of the task."""
    schema_title: str


class CompletedTask(BaseModel):
    """What is written into the folder of a task when it is completed."""

    key: str
    """Of all that its outputs depend on."""
    digest: str
    """Of the files in the folder."""
    outputs: dict[str, Output]


class Completed:
    """Takes the place of kfp.local's cache."""

    def __init__(self, artifacts: Path, interrupted: Path) -> None:
        """
        Args:
            artifacts: Folder for the outputs of this run.
            interrupted: Folder with those of an interrupted run.
        """
        self.artifacts, self.interrupted = artifacts, interrupted
        self._names: dict[str, str] = {}
        self._taking_over = Lock()

    def compute_key(self, component_name: str, arguments: Mapping[str, Any], **_: Any) -> str:
        """A digest of all that the outputs of a task depend on; unique if that cannot be told."""
        stage, given = component_name.removeprefix("comp-"), dict(arguments)
        spec = parse_spec(given.pop("spec"))
        artifacts = {name: value for name, value in given.items() if isinstance(value, dsl.Artifact)}
        others = {name: value for name, value in given.items() if name not in artifacts}
        try:
            around = surroundings(spec)
        except Doubtful:
            return uuid4().hex
        key = digest_of(
            {
                "stage": [stage, others],
                "surroundings": around,
                "spec": [spec.evidence_digest(), spec.compute.model_dump(mode="json")],
                # Evaluations in several looks end when the policy's rules are settled.
                "policy": spec.policy.model_dump(mode="json", exclude={"name", "waivers", "valid_days"}),
                "inputs": {name: folder_digest(Path(artifact.path)) for name, artifact in artifacts.items()},
            }
        )
        self._names[key] = " ".join([stage, *others.values()])
        return key

    def get(self, key: str) -> dict[str, dsl.Artifact] | None:
        """The outputs of a task with that key, brought to the artifacts of this run; None if there are none."""
        with self._taking_over:  # tasks run side by side, and what one moves, another's search would not find
            for record, folder in self._records():
                if record.key == key and (there := self._taken_over(folder, record)):
                    logger.info("from the interrupted run", extra=event("kept", stage=self._names[key]))
                    outputs = record.outputs.items()
                    return {
                        name: artifact_at(there / output.path, name, output.schema_title) for name, output in outputs
                    }
        return None

    def put(self, key: str, outputs: Mapping[str, dsl.Artifact]) -> None:
        """Records that a task with that key is completed."""
        paths = {name: Path(output.path) for name, output in outputs.items()}
        folder = next(iter(paths.values())).parent
        made = {name: Output(path=path.name, schema_title=outputs[name].schema_title) for name, path in paths.items()}
        write_text(
            folder / RECORD, CompletedTask(key=key, digest=_digest(folder), outputs=made).model_dump_json(indent=1)
        )

    def _records(self) -> Iterator[tuple[CompletedTask, Path]]:
        for path in self.interrupted.rglob(RECORD):
            try:
                yield CompletedTask.model_validate_json(path.read_bytes()), path.parent
            except (OSError, ValidationError):  # not whole, so not completed
                continue

    def _taken_over(self, folder: Path, record: CompletedTask) -> Path | None:
        """Where the folder of a task is now; None if it is not as it was when the task was completed."""
        try:
            (run,) = self.artifacts.iterdir()  # fetch-model has been run
            there = run.joinpath(*folder.relative_to(self.interrupted).parts[1:])
            if record.digest != _digest(folder):
                return None
            there.parent.mkdir(parents=True, exist_ok=True)
            return folder.rename(there)
        except (OSError, ValueError):
            return None


def _digest(folder: Path) -> str:
    files = folder_files(folder)
    return listing_digest({name: digest for name, digest in files.items() if name != RECORD})
