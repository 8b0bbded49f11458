"""Positive controls measured beforehand: the attacks on the base model, which prove that they are strong.

What a control comes to depends on nothing of the candidate. So it can be measured while there is none yet, and serve
every later one of the same base. Until it is used it lies in the quarantine, as it holds what the broken model says,
under a key of all that it depends on.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from tokenbuncher.attacks.arms import ARM, STEPS, fate, read_arm, strongest
from tokenbuncher.attacks.begun import begun
from tokenbuncher.attacks.meter import CONTROL
from tokenbuncher.core.documents import digest_of
from tokenbuncher.core.environment import installed_versions, swift_imports
from tokenbuncher.core.files import folder_digest, whole_folder, working_folder, write_text
from tokenbuncher.evidence import ControlSource
from tokenbuncher.models.lengths import check_lengths
from tokenbuncher.models.load import device_of
from tokenbuncher.settings import AttackTask, ReleaseSpec
from tokenbuncher.storage import cached, forget, in_cache
from tokenbuncher.storage.dependencies import Doubtful, surroundings
from tokenbuncher.training import ranks

logger = logging.getLogger(__name__)

QUARANTINE = "quarantine"
SOURCE = "control.json"
SUMMARY = "controls.json"


def controls(spec: ReleaseSpec, data: Path, base: Path, *, out: Path) -> None:
    """Measures the control of every attack of the spec, for the attacks to find in the quarantine.

    An attack that finds none measures it itself, as all do where weights are kept or trainings are sent away.

    Args:
        spec: The release spec.
        data: Folder of prepare-data.
        base: Folder of the base model.
        out: Folder to be written: controls.json, which says what became of the model under each attack.

    Raises:
        UserError: If data or the model cannot be read, or another process measures the same.
    """
    told = {}
    check_lengths(spec, data, base)
    with whole_folder(out) as folder:
        known = Controls(spec, folder_digest(data), folder_digest(base))
        for task in spec.attacks.tasks() if known.can_wait else []:
            if found := known.keep(task, data, base):
                told[task.key] = fate(read_arm(found))
                logger.info(f"{task.key}: {told[task.key]}")
        write_text(folder / SUMMARY, json.dumps(told, indent=1) + "\n")
    logger.info(f"{len(told)} of {len(spec.attacks.tasks())} measured before the attacks")


class Controls:
    """The controls in the quarantine that a release may use."""

    def __init__(self, spec: ReleaseSpec, data: str, base: str) -> None:
        """
        Args:
            spec: The release spec.
            data: Digest of the prompt sets.
            base: Digest of the base model.
        """
        self.spec, self.data, self.base = spec, data, base
        self.quarantine = spec.output.root / QUARANTINE
        self.store = self.quarantine / "controls"

    @property
    def can_wait(self) -> bool:
        """Whether a control may lie there: without weights, and where the attack will find it, by the same judge."""
        return self.spec.controls_can_wait and ranks.count() == 1 and self._serves is not None

    def of(self, task: AttackTask, data: Path, base: Path, *, work: Path) -> tuple[Path, ControlSource | None]:
        """The control of an attack.

        Args:
            task: The attack.
            data: Folder of prepare-data.
            base: Folder of the base model.
            work: Where it is measured if it was not before.

        Returns:
            The folder of its most harmful run; and where it is from, if it was measured before.
        """
        found = None
        if self.can_wait:
            found = self.keep(task, data, base) if self.spec.output.reuse_controls else self.find(task)
        if found:
            source = ControlSource.model_validate_json((found / SOURCE).read_text(encoding="utf-8"))
            logger.info(f"{CONTROL}: as measured at {source.measured:%Y-%m-%d %H:%M} UTC, key {source.key[:12]}")
            return found, source
        return strongest(self.spec, task, CONTROL, model=base, data=data, work=work), None

    def keep(self, task: AttackTask, data: Path, base: Path) -> Path | None:
        """The folder of a control, measured unless it is there; None if others could have written there."""
        self._open()
        if not self._is_private():
            return None
        key = self._key(task)
        return self._found(key) or cached(
            self.store, key, lambda folder: self._measure(task, key, data, base=base, folder=folder)
        )

    def find(self, task: AttackTask) -> Path | None:
        """The folder of a control, if it is there whole, of this base, not stale, and no other's work."""
        return self._found(self._key(task)) if self._is_private() else None

    def used(self, source: ControlSource) -> None:
        """Deletes a control whose attack has ended, unless it is to serve others."""
        if not self.spec.output.reuse_controls:
            forget(self.store, source.key)
            with suppress(OSError):  # others may lie there
                self.store.rmdir()
                self.quarantine.rmdir()

    def _measure(self, task: AttackTask, key: str, data: Path, *, base: Path, folder: Path) -> None:
        with working_folder(self.quarantine, CONTROL, key) as work:
            began = begun(self.spec, work)
            run = strongest(self.spec, task, CONTROL, model=base, data=data, work=work)
            from tokenbuncher.attacks.latent import FILE_NAME

            folder.mkdir()
            for name in (ARM, STEPS, FILE_NAME):
                shutil.copyfile(run / name, folder / name)
            write_text(
                folder / SOURCE, ControlSource(key=key, measured=began, versions=installed_versions()).model_dump_json()
            )

    def _found(self, key: str) -> Path | None:
        folder = in_cache(self.store, key)
        if folder and not self._is_sound(folder, key):
            forget(self.store, key)
            return None
        return folder

    def _is_sound(self, folder: Path, key: str) -> bool:
        try:
            source = ControlSource.model_validate_json((folder / SOURCE).read_text(encoding="utf-8"))
            arm = read_arm(folder)
        except (OSError, ValidationError):
            return False
        alike = (source.key, arm.model, source.versions) == (key, self.base, installed_versions())
        return alike and self.spec.policy.is_fresh(source.measured)

    def _is_private(self) -> bool:
        """Whether nobody else can have written there: a forged control would make a weak attack look strong."""
        private = self._is_ours() and not stat.S_IMODE(self.store.stat().st_mode) & 0o077
        if not private and os.path.lexists(self.store):
            logger.info(f"{self.store} is not this user's alone: no control is taken from there")
        return private

    def _is_ours(self) -> bool:
        try:
            found = self.store.lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()

    def _open(self) -> None:
        """Makes the store, anew if others could have written there, and deletes what is stale."""
        if self._is_ours() and not self._is_private():
            shutil.rmtree(self.store)
        self.store.mkdir(parents=True, exist_ok=True, mode=0o700)
        for sha256 in self.store.glob("*/sha256"):
            if not self.spec.policy.is_fresh(datetime.fromtimestamp(sha256.stat().st_mtime, UTC)):
                shutil.rmtree(sha256.parent)

    def _key(self, task: AttackTask) -> str:
        """A digest of all that the control depends on."""
        spec = self.spec
        with swift_imports():
            device = device_of(spec.model)
        return digest_of(
            {
                "data": self.data,
                "base": self.base,
                "task": task.model_dump(mode="json", exclude={"attack": {"seeds"}}),
                "spec": spec.model_dump(mode="json", include={"model", "data", "evaluation"}),
                "attacks": spec.attacks.model_dump(mode="json", exclude={"suite"}),
                "policy": spec.policy.model_dump(mode="json", exclude={"name", "waivers", "valid_days"}),
                "compute": [device, spec.compute.model_dump(mode="json", include={"vllm"})],
                "serves": self._serves,
            }
        )

    @cached_property
    def _serves(self) -> list[str] | None:
        """Which releases a control may serve, with the tool, judge and reward that it was measured with.

        Those of all specs, or of this one; of none if the judge or the reward may change before the attack.
        """
        if self.spec.output.reuse_controls:
            try:
                return ["all", surroundings(self.spec, for_later_runs=True)]
            except Doubtful as doubt:
                logger.info(f"controls are not reused: {doubt} may have changed; pin it by its digest")
        try:
            return [self.spec.name, self.spec.evidence_digest(), surroundings(self.spec)]
        except Doubtful as doubt:
            logger.info(f"controls are not measured beforehand: {doubt} may change; pin it by its digest")
            return None
