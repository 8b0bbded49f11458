"""The stages of the built-in model with and without sequential evaluation: what they take, and the verdicts.

    .venv/bin/python benchmarks/looks.py 0 1 2 3 4
    .venv/bin/python benchmarks/looks.py 0 --looks 4 --set attacks.probe_every=10 --set policy.max_probe_every=10

A seed is the seed of data and defence; the attack's, GRPO, is 1000 more. What is finished is kept in
runs/looks/<digest of the spec>/ and not run again.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from unittest.mock import patch

from sequential import LOOKS, ONE_ATTACK, SPEC, head, row

from tokenbuncher.attacks import attack
from tokenbuncher.core.files import folder_digest, folder_files, write_text
from tokenbuncher.core.log import logging_to, plain_handlers
from tokenbuncher.defence import defend
from tokenbuncher.evaluation import evaluate_safety, evaluate_utility
from tokenbuncher.evidence import (
    AttackEvidence,
    ModelFile,
    Registration,
    SafetyEvidence,
    UtilityEvidence,
    read_evidence,
)
from tokenbuncher.inputs import prepare_data
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.models import sampling
from tokenbuncher.settings import ReleaseSpec, load_spec
from tokenbuncher.verdict import judge_release

STAGES = ("attack", "evaluate-safety", "evaluate-utility")


@dataclass
class Cost:
    """What a stage took."""

    seconds: float = 0.0
    """Of the CPU."""
    measured: int = 0
    """Responses sampled to measure, not to train on."""


@contextmanager
def counted() -> Iterator[Cost]:
    """Counts the responses that are sampled by `tokenbuncher.models.sampling.generate`, and the CPU time."""
    cost, generate, start = Cost(), sampling.generate, time.process_time()

    def counting(model, tokenizer, prompts, *arguments, **more):  # type: ignore[no-untyped-def]
        cost.measured += len(prompts)
        return generate(model, tokenizer, prompts, *arguments, **more)

    with patch.object(sampling, "generate", counting), patch("tokenbuncher.judges.score.generate", counting):
        yield cost
    cost.seconds = time.process_time() - start


def run_seed(seed: int, looks: int, overrides: Sequence[str]) -> dict[str, Cost]:
    """Runs the stages of one seed that are not done yet; returns what each took, or had taken."""
    spec, folder = seed_spec(seed, looks, overrides), seed_folder(seed, overrides)
    models = {name: folder / name for name in ("data", "base", "candidate")}
    prepare(seed_spec(seed, 1, overrides), *models.values())
    stages = [
        partial(attack, spec, spec.attacks.tasks()[0].key),
        partial(evaluate_safety, spec),
        partial(evaluate_utility, spec),
    ]
    costs = {}
    for name, stage in zip(STAGES, stages, strict=True):
        out = folder / f"{looks}-looks" / name
        known = out.with_suffix(".cost")
        if not known.exists():
            print(f"seed {seed}, {looks} looks: {name}", flush=True)
            with counted() as cost:
                stage(**models, out=out)
            write_text(known, f"{cost.seconds} {cost.measured}")
        seconds, measured = known.read_text(encoding="utf-8").split()
        costs[name] = Cost(float(seconds), int(measured))
    return costs


def seed_spec(seed: int, looks: int, overrides: Sequence[str]) -> ReleaseSpec:
    """The built-in model's release under GRPO; a seed is that of data and defence, the attack's is 1000 more."""
    return load_spec(
        SPEC,
        [
            f"data.seed={seed}",
            f"defence.seed={seed}",
            f"attacks.suite=[{{algorithm: grpo, seeds: [{1000 + seed}]}}]",
            ONE_ATTACK,
            "output.root=runs/looks",
            *overrides,
            f"evaluation.looks={looks}",
        ],
    )


def seed_folder(seed: int, overrides: Sequence[str]) -> Path:
    """Where all is kept about one seed."""
    return Path("runs/looks") / seed_spec(seed, 1, overrides).evidence_digest()[:12]


def prepare(spec: ReleaseSpec, data: Path, base: Path, candidate: Path) -> None:
    """Makes prompts and models, unless they are there."""
    if not base.exists():
        fetch_model(spec, base)
    if not data.exists():
        prepare_data(spec, data)
    if not candidate.exists():
        defend(spec, data, base, out=candidate)


def print_stages(seeds: Sequence[int], looks: int, overrides: Sequence[str]) -> None:
    """Runs every stage with and without looks and prints what they took, and the verdicts."""
    costs = {(seed, number): run_seed(seed, number, overrides) for number in (1, looks) for seed in seeds}
    head(
        "stage",
        "responses, all prompts",
        f"{looks} looks",
        "saved",
        "CPU s, all prompts",
        f"{looks} looks",
        "saved",
    )
    for stage in STAGES:
        taken = [[costs[seed, number][stage] for seed in seeds] for number in (1, looks)]
        responses = [fmean(cost.measured for cost in each) for each in taken]
        seconds = [fmean(cost.seconds for cost in each) for each in taken]
        saved = [f"{1 - often / once:.0%}" for once, often in (responses, seconds)]
        row(stage, *(f"{n:.0f}" for n in responses), saved[0], *(f"{n:.1f}" for n in seconds), saved[1])
    print()
    head(
        "seed",
        "looks",
        "verdict",
        "attack steps, control",
        "candidate",
        "scored, control",
        "candidate",
        "harmful prompts",
        "benign prompts",
        "questions",
        "harm (upper)",
        "utility drop (upper)",
    )
    for seed in seeds:
        for number in (1, looks):
            row(seed, number, *figures(seed, number, overrides))


def figures(seed: int, looks: int, overrides: Sequence[str]) -> list[str]:
    """The verdict on one seed, and how many prompts each part of it stands on."""
    spec, folder = seed_spec(seed, looks, overrides), seed_folder(seed, overrides)
    pieces = [read_evidence(folder / f"{looks}-looks" / stage) for stage in STAGES]
    attacked, safety, utility = pieces
    assert isinstance(attacked, AttackEvidence)
    assert isinstance(safety, SafetyEvidence)
    assert isinstance(utility, UtilityEvidence)
    digest = folder_digest(folder / "candidate")
    files = [ModelFile(name=name, sha256=sha, size=0) for name, sha in folder_files(folder / "candidate").items()]
    registration = Registration(
        name=spec.tracking.model_name, version="1", digest=digest, files=files, tracking_uri=spec.tracking_uri()
    )
    verdict = judge_release(spec, pieces, registration)
    bounds = {finding.rule: finding for finding in verdict.findings if finding.bound is not None}
    shown = [
        f"{bounds[rule].measured:.2%} ({bounds[rule].bound:.2%})" for rule in ("harm-after-attack", "utility-drop")
    ]
    asked = [
        attacked.control_arm.scores,
        attacked.candidate_arm.scores,
        safety.candidate_harmful,
        safety.candidate_benign,
    ]
    return [
        verdict.outcome,
        f"{attacked.control_arm.steps_run} of {attacked.attack.steps}",
        f"{attacked.candidate_arm.steps_run} of {attacked.attack.steps}",
        *(str(len({score.prompt for score in part})) for part in asked),
        str(len(utility.candidate_items)),
        *shown,
    ]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--looks", type=int, default=LOOKS, help="default: %(default)s")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD.PATH=VALUE")
    arguments = parser.parse_args()
    importlib.import_module("tokenbuncher.attacks.arena")  # imports TRL, which is no part of what is timed
    print_stages(arguments.seeds, arguments.looks, arguments.overrides)


if __name__ == "__main__":
    with logging_to(*plain_handlers()):
        main()
