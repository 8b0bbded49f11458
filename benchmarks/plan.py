"""Compares the planner's estimates with measured runs.

    .venv/bin/python benchmarks/plan.py

Prints a table; exit status 1 if an estimate that was not calibrated is off by more than a factor of 1.5.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from tokenbuncher.preflight.plan import parse_device, plan, shape_of
from tokenbuncher.settings import load_spec

ROOT = Path(__file__).parent.parent
FACTOR = 1.5


class Comparison(NamedTuple):
    """An estimate beside what was measured."""

    run: str
    figure: str
    measured: float
    estimated: float
    calibrates: bool

    @property
    def ratio(self) -> float:
        """Estimated to measured."""
        return self.estimated / self.measured

    @property
    def holds(self) -> bool:
        """Whether it is within the factor; what was calibrated shows nothing."""
        return self.calibrates or 1 / FACTOR <= self.ratio <= FACTOR


def comparisons() -> Iterator[Comparison]:
    """Every measured figure of plan.yaml with its estimate."""
    for run in yaml.safe_load((ROOT / "benchmarks" / "plan.yaml").read_text(encoding="utf-8"))["runs"]:
        spec = load_spec(ROOT / run["spec"], run.get("set", ()))
        estimate = plan(spec, shape_of(spec), parse_device("cpu"))
        stages = {stage.name: stage for stage in estimate.stages}
        for name, seconds in run.get("seconds", {}).items():
            yield Comparison(run["spec"], name, seconds, stages[name].seconds, name in run["calibrates"])
        if "memory" in run:
            yield Comparison(run["spec"], "memory, GB", run["memory"] / 1e9, estimate.memory / 1e9, False)


def main() -> None:
    """Prints the table."""
    found = list(comparisons())
    print("| spec | figure | measured | estimated | ratio |\n|---|---|---|---|---|")
    for one in found:
        mark = " (calibrated)" if one.calibrates else "" if one.holds else " **off**"
        print(f"| {one.run} | {one.figure} | {one.measured:g} | {one.estimated:.3g} | {one.ratio:.2f}{mark} |")
    sys.exit(not all(one.holds for one in found))


if __name__ == "__main__":
    main()
