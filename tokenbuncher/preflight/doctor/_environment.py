"""Checks of the environment variables that late stages read."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tokenbuncher.attestation import signing_key
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.log import log_format
from tokenbuncher.preflight.doctor._diagnosis import Diagnosis, ok, problem
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.judges import EnsembleSpec, StrongRejectSpec


def check_environment(spec: ReleaseSpec) -> Iterator[Diagnosis]:
    """Whether the variables are there that the spec names, and those of the gate are of use."""
    found = [*_keys_of_judges(spec), *_readable()]
    yield from found
    if not found:
        yield ok("environment: what the spec and the gate read from it is there")


def _keys_of_judges(spec: ReleaseSpec) -> Iterator[Diagnosis]:
    judge = spec.evaluation.judge
    judges = list(judge.judges) if isinstance(judge, EnsembleSpec) else [judge]
    for one in (*judges, spec.attacks.reward):
        if isinstance(one, StrongRejectSpec) and one.key_env and not os.environ.get(one.key_env):
            yield problem(f"the judge {one.model} needs a key: {one.key_env} is not set", f"set {one.key_env}")


def _readable() -> Iterator[Diagnosis]:
    for read, remedy in (
        (signing_key, "correct TOKENBUNCHER_SIGNING_KEY or its passphrase, or unset it"),
        (log_format, "correct or unset it"),
    ):
        try:
            read()
        except UserError as error:
            yield problem(str(error), remedy)
