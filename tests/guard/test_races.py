"""Two attackers who change a version while the guard reads its files; the alias never ends on what was not judged."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from tests.guard.conftest import Guarded, every_database, together
from tests.guard.test_bypasses import other_run
from tests.guard.test_store import Attested
from tokenbuncher.attestation import FILE_NAME, TAG
from tokenbuncher.gate import gate

TRIES = int(os.environ.get("TEST_RACES", "20"))
MEGABYTES = 128
"""Enough to be hashed for as long as an attacker needs for some requests."""


class Stage:
    """A judged version, and what attackers can make that looks like it."""

    def __init__(self, guarded: Guarded, attested: Attested, candidate: Path, tmp_path: Path) -> None:
        (candidate / "model.safetensors").write_bytes(os.urandom(MEGABYTES * 2**20))
        registered = attested()
        self.client = guarded.client
        self.name = registered.release.registration.name
        self.registered, self.signer, self.folder = registered, guarded.signer, tmp_path
        self.judge()
        self.good, self.run = str(registered.version.source), registered.version.run_id
        self.evil_run = other_run(guarded, tmp_path)
        self.evil = f"{guarded.client.get_run(self.evil_run).info.artifact_uri}/model"

    def judge(self) -> None:
        """Signs that the version passed, now: of one that is made later than that, an attestation says nothing."""
        registered, out = self.registered, self.folder / "judged-again"
        gate(registered.release.spec, registered.evidence, registered.registration, out=out, signer=self.signer)
        self.attestation = (out / FILE_NAME).read_text(encoding="utf-8")

    def make(self, name: str, source: str, run: str) -> None:
        """A model with one version, which carries the attestation."""
        self.client.create_registered_model(name)
        self.client.create_model_version(name, source, run, {TAG: self.attestation}, await_creation_for=0)

    def clear(self) -> None:
        for name in (self.name, f"{self.name}-evil", f"{self.name}-aside"):
            with suppress(MlflowException):
                self.client.delete_registered_model(name)

    def moved_to(self) -> str | None:
        """The source that whoever asks for the alias is given; None if nobody has it."""
        with suppress(MlflowException):
            return str(self.client.get_model_version_by_alias(self.name, "champion").source)
        return None


@pytest.fixture
def stage(guarded: Guarded, attested: Attested, candidate: Path, tmp_path: Path) -> Stage:
    return Stage(guarded, attested, candidate, tmp_path)


def remake(stage: Stage) -> None:
    stage.client.delete_registered_model(stage.name)
    stage.make(stage.name, stage.evil, stage.evil_run)


def exchange(stage: Stage) -> None:
    stage.client.rename_registered_model(stage.name, f"{stage.name}-aside")
    stage.client.rename_registered_model(f"{stage.name}-evil", stage.name)


def move(stage: Stage) -> None:
    stage.client.set_registered_model_alias(stage.name, "champion", "1")


def to_production(stage: Stage) -> None:
    stage.client.transition_model_version_stage(stage.name, "1", "Production")


def seconds(do: Callable[[Stage], None], stage: Stage) -> float:
    """How long it takes when nobody is in the way."""
    stage.clear()
    stage.make(stage.name, stage.good, stage.run)
    began = time.monotonic()
    do(stage)
    return time.monotonic() - began


@pytest.mark.timeout(1500)
@every_database
@pytest.mark.parametrize("change", [remake, exchange], ids=lambda f: f.__name__)
def test_nobody_wins_a_race_with_the_guard(change: Callable[[Stage], None], stage: Stage, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    won, told = [], []
    takes = seconds(move, stage)

    def attack(attacker: int) -> None:
        if attacker:
            time.sleep(random.uniform(0, takes))
        try:
            (change if attacker else move)(stage)
        except MlflowException as error:
            told.append(str(error))

    for number in range(TRIES // 2):
        if number % 20 == 19:
            stage.judge()
        stage.clear()
        stage.make(stage.name, stage.good, stage.run)
        if change is exchange:
            stage.make(f"{stage.name}-evil", stage.evil, stage.evil_run)
        together(2, attack)
        if stage.moved_to() == stage.evil:
            won.append(told[-1:])
    assert won == []
    assert not any("before the version was" in error for error in told)
    if TRIES >= 200:  # one in ten or so is fast enough; of few tries it may be none
        assert any("was changed while it was checked" in error for error in told), Counter(e[:120] for e in told)


@every_database
def test_a_version_that_is_changed_while_it_is_read_is_told_so(stage: Stage, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told: list[str] = []
    takes = seconds(to_production, stage)

    def attack(attacker: int) -> None:
        if attacker:
            time.sleep(random.uniform(0, takes))
            stage.client.set_model_version_tag(stage.name, "1", TAG, "{}")
            return
        try:
            to_production(stage)
        except MlflowException as error:
            told.append(str(error))

    for _ in range(20):
        stage.clear()
        stage.make(stage.name, stage.good, stage.run)
        together(2, attack)
        if any("was changed while it was checked" in error for error in told):
            return
    pytest.fail(f"it was never changed in time: {told}")
