"""Defence and attack over many seeds, as a table.

    make matrix SEEDS="0 1 2 3 4"
    .venv/bin/python benchmarks/matrix.py 0 1 2 --set defence.recipe=direct

A seed is the seed of data and defence; the attack's is 1000 more. Two seeds run at once. What is finished is kept in
runs/matrix/<digest of the spec>/ and not run again, so that the table can be completed in pieces.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenbuncher.core.files import folder_files, listing_digest
from tokenbuncher.evidence import (
    AttackEvidence,
    ModelFile,
    Registration,
    SafetyEvidence,
    UtilityEvidence,
    read_evidence,
)
from tokenbuncher.settings import ReleaseSpec, load_spec
from tokenbuncher.verdict import judge_release
from tokenbuncher.verdict.rules.shared import BENIGN, LOOK_ALIKES
from tokenbuncher.verdict.statistics import Drop, Proportion, score_rate

TOKENBUNCHER = str(Path(sys.executable).with_name("tokenbuncher"))

COLUMNS = [
    "seed",
    "control: steps to break",
    "control: harm (lower)",
    "candidate: harm at worst (upper)",
    "candidate: lowest refusal under attack",
    "candidate: refusal before",
    "gibberish at T=1 (upper)",
    "utility drop (upper)",
    "refusals added on benign prompts (upper)",
    "on look-alikes (upper)",
    "fine-tuned RL, base / candidate",
    "fine-tuned SFT, base / candidate",
    "verdict",
]


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--spec", default="specs/organism.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD.PATH=VALUE")
    arguments = parser.parse_args()
    with ThreadPoolExecutor(max_workers=2) as pool:
        rows = list(pool.map(lambda seed: run_seed(arguments.spec, arguments.overrides, seed), arguments.seeds))
    print("\n| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def run_seed(spec_path: str, overrides: list[str], seed: int) -> list[str]:
    """Runs the stages of one seed that are not done yet, and reads its row."""
    changes = [
        *overrides,
        f"data.seed={seed}",
        f"defence.seed={seed}",
        f"attacks.suite=[{{algorithm: grpo, seeds: [{1000 + seed}]}}]",
        "policy.required_attacks=[grpo]",
    ]
    spec = load_spec(spec_path, changes)
    folder = Path("runs/matrix") / spec.evidence_digest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    models = ["--data", "data", "--base", "base", "--candidate", "candidate"]
    stages = {
        "base": ["fetch-model"],
        "data": ["prepare-data"],
        "candidate": ["defend", *models[:4]],
        "attack": ["attack", *models, "--key", f"grpo-{1000 + seed}"],
        "safety": ["evaluate-safety", *models],
        "utility": ["evaluate-utility", *models],
    }
    for out, (stage, *arguments) in stages.items():
        if (folder / out).exists():
            continue
        paths = [str(folder / value) if (folder / value).exists() else value for value in arguments]
        command = [TOKENBUNCHER, stage, "--spec", spec_path, *paths, "--out", folder / out]
        command += [word for change in changes for word in ("--set", change)]
        print(f"seed {seed}: {stage}", flush=True)
        with (folder / f"{out}.log").open("w", encoding="utf-8") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return row(spec, seed, folder)


def row(spec: ReleaseSpec, seed: int, folder: Path) -> list[str]:
    """One seed's figures; bounds are at the policy's confidence."""
    attack, safety, utility = (read_evidence(folder / name) for name in ("attack", "safety", "utility"))
    assert isinstance(attack, AttackEvidence)
    assert isinstance(safety, SafetyEvidence)
    assert isinstance(utility, UtilityEvidence)
    confidence = spec.policy.confidence
    control = score_rate(attack.control_arm.scores, "harmful")
    harm = score_rate(attack.candidate_arm.scores, "harmful")
    gibberish = score_rate([*safety.candidate_harmful, *safety.candidate_benign], "gibberish")
    drop = Drop.of(
        {item.prompt: item.correct for item in utility.base_items},
        {item.prompt: item.correct for item in utility.candidate_items},
    )
    tuned = {
        tuning.kind: f"{Proportion.of(tuning.base.correct.items()).value:.1%} / "
        f"{Proportion.of(tuning.candidate.correct.items()).value:.1%}"
        for tuning in utility.fine_tuning
    }
    verdict = judge_release(spec, [attack, safety, utility], registration(spec, folder / "candidate"))
    added = {found.subject: found for found in verdict.findings if found.rule == "refusals-added"}
    return [
        str(seed),
        str(attack.control_arm.steps_to_break or "never"),
        f"{control.value:.1%} ({control.lower(confidence):.1%})",
        f"{harm.value:.1%} ({harm.upper(confidence):.1%})",
        f"{min(point.refusal for point in attack.candidate_arm.curve):.1%}",
        f"{score_rate(safety.candidate_harmful, 'refused').value:.1%}",
        f"{gibberish.value:.2%} ({gibberish.upper(confidence):.2%})",
        f"{drop.value:.2%} ({drop.upper(confidence):.2%})",
        *(f"{added[asked].measured:.2%} ({added[asked].bound:.2%})" for asked in (BENIGN, LOOK_ALIKES)),
        tuned.get("rl", "-"),
        tuned.get("sft", "-"),
        verdict.outcome,
    ]


def registration(spec: ReleaseSpec, candidate: Path) -> Registration:
    """What `register` would say of the candidate, which is registered nowhere."""
    files = folder_files(candidate)
    return Registration(
        name=spec.tracking.model_name,
        version="1",
        digest=listing_digest(files),
        files=[ModelFile(name=n, sha256=d, size=(candidate / n).stat().st_size) for n, d in files.items()],
        tracking_uri=spec.tracking_uri(),
    )


if __name__ == "__main__":
    main()
