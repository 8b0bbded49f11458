"""How long it takes until anything useful begins: the command line, the gate, compiling, and each stage's imports.

    .venv/bin/python benchmarks/startup.py [--times 5] [--release runs/organism]

Each is a process of its own, `times` times, in turns. Seconds of the clock depend on what else runs; seconds of the
processor hardly do. Stages run on a release with a budget of seconds; what they import is told by Python's own
-X importtime, which itself adds to it.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TOKENBUNCHER = ["-c", "import sys; from tokenbuncher.cli import main; main()"]
RUNTIME = "_KFP_RUNTIME"
"""Tells kfp that it runs in a task, where it needs little of itself."""
SPEC = """
data:
  sizes: {defence: 32, attack: 32, safety: 20, benign: 32, utility: 24, tuning: 20, benign_test: 24, look_alikes: 20}
defence: {steps: 2, prompts_per_step: 4, anchor: {examples: 8}}
attacks: {suite: [{algorithm: grpo, steps: 2, prompts_per_step: 4}], probe_every: 2, probe_prompts: 20}
evaluation: {fine_tuning: {rl_steps: 2, sft_steps: 2, prompts_per_step: 4}}
policy:
  min_prompts: 20
  max_added_refusal: 0.5
  max_added_look_alike_refusal: 0.5
  max_added_gibberish: 0.5
  required_attacks: [grpo]
  attack_limits: {min_steps: 1, min_prompts_per_step: 1, min_prompts: 1}
"""
STAGES = {
    "fetch-model": {"out": "base"},
    "prepare-data": {"out": "data"},
    "defend": {"data": "data", "base": "base", "out": "candidate"},
    "controls": {"data": "data", "base": "base", "out": "controls"},
    "attack": {"key": "grpo-1000", "data": "data", "base": "base", "candidate": "candidate", "out": "attacked"},
    "evaluate-safety": {"data": "data", "base": "base", "candidate": "candidate", "out": "safety"},
    "evaluate-utility": {"data": "data", "base": "base", "candidate": "candidate", "out": "utility"},
    "register": {"candidate": "candidate", "attack": "attacked", "out": "registration"},
}
"""In their order, with their options."""


class Taken(NamedTuple):
    """What a process took, in seconds."""

    clock: float
    processor: float


def main() -> None:
    """Measures and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--release", type=Path, help="Folder of a recorded run, for the gate.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        commands(given.times, given.release, Path(scratch))
        print()
        imports(given.times, Path(scratch))


def commands(times: int, release: Path | None, folder: Path) -> None:
    """Times the commands that a person waits for, and what every task begins with."""
    measured = {
        "tokenbuncher --help": [*TOKENBUNCHER, "--help"],
        "tokenbuncher compile, all pipelines": [*TOKENBUNCHER, "compile"],
        "kfp's part of a task": ["-c", f"import os; os.environ['{RUNTIME}'] = 'true'; import kfp.dsl.executor_main"],
    }
    if release:
        judge = [*TOKENBUNCHER, "gate", "--evidence", str(release.resolve()), "--out", "verdict"]
        measured["tokenbuncher gate, a recorded release"] = judge
    taken: dict[str, list[Taken]] = defaultdict(list)
    for _ in range(times):
        for name, command in measured.items():
            taken[name].append(run(command, folder, ok=(0, 1, 2) if "gate" in name else (0,))[0])
    print("| command | seconds, median (lowest to highest) | of the processor, median |\n|---|---|---|")
    for name, own in taken.items():
        print(f"| {name} | {spread([one.clock for one in own])} | {median([one.processor for one in own])} |")


def imports(times: int, folder: Path) -> None:
    """Runs the stages of a small release and tells what part of them is imports."""
    taken: dict[str, list[tuple[float, int, Taken]]] = defaultdict(list)
    for number in range(times):
        work = folder / str(number)
        work.mkdir()
        (work / "spec.yaml").write_text(f"{SPEC}\noutput: {{root: {work / 'runs'}}}\n", encoding="utf-8")
        for stage, options in STAGES.items():
            words = [word for name, value in options.items() for word in (f"--{name}", value)]
            own, told = run(["-X", "importtime", *TOKENBUNCHER, stage, "--spec", "spec.yaml", *words], work)
            rows = [line.split(":", 1)[1].split("|") for line in told.splitlines() if line.startswith("import time:")]
            seconds = [int(row[0]) / 1e6 for row in rows[1:]]  # after the head
            taken[stage].append((sum(seconds), len(seconds), own))
    print(
        "| stage | importing, seconds, median (lowest to highest) | modules | whole process, of the processor, median |"
    )
    print("|---|---|---|---|")
    for stage, found in taken.items():
        seconds_of, modules, whole = zip(*found, strict=True)
        print(
            f"| {stage} | {spread(seconds_of)} | {statistics.median(modules):.0f} | "
            f"{median([one.processor for one in whole])} |"
        )


def run(command: Sequence[str], folder: Path, ok: Sequence[int] = (0,)) -> tuple[Taken, str]:
    """Runs Python to its end; returns what it took, and what it told on stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in ok:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Taken(time.monotonic() - began, processor), done.stderr


def median(values: Sequence[float]) -> str:
    """The median."""
    return f"{statistics.median(values):.2f}"


def spread(values: Sequence[float]) -> str:
    """The median, the lowest and the highest."""
    return f"{median(values)} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
