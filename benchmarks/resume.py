"""Kills every trainer at random steps with SIGKILL and compares what the resumed run ends with.

    .venv/bin/python benchmarks/resume.py [--times 5]

Prints one line for each trainer: how often the figures of the resumed run were those of an unbroken one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenbuncher.core.environment import quiet_libraries
from tokenbuncher.core.log import LineHandler, TextFormatter, logging_to
from tokenbuncher.settings.algorithms import ALGORITHMS

STEPS = 12
RECIPES = ["log-entropy", "polished"]


def main() -> None:
    """Runs every trainer unbroken once, and killed and resumed so many times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    quiet_libraries()
    # Imported before the processes are forked, or each would spend most of its time on it.
    from tokenbuncher.attacks import arena  # noqa: F401
    from tokenbuncher.defence import trainer  # noqa: F401
    from tokenbuncher.inputs import prepare_data
    from tokenbuncher.inputs.fetch import fetch_model
    from tokenbuncher.settings import parse_spec

    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        spec = parse_spec("", _changes("grpo", "log-entropy", folder))
        in_process(lambda: (fetch_model(spec, folder / "base"), prepare_data(spec, folder / "data")))
        for name in [*ALGORITHMS, *RECIPES]:
            work = folder / name
            in_process(lambda name=name, work=work: run(name, folder, work / "unbroken"))
            expected = figures(work / "unbroken")
            same, killed_at = 0, []
            for time in range(times):
                step, arm = rng.randint(1, STEPS), rng.choice([1, 2]) if name in ALGORITHMS else 1
                root = work / str(time)
                killed = in_process(lambda name=name, root=root, s=step, a=arm: run(name, folder, root, kill_at=(s, a)))
                assert killed == -signal.SIGKILL, f"{name} was not killed but ended with {killed}"
                in_process(lambda name=name, root=root: run(name, folder, root))
                same += figures(root) == expected
                killed_at.append(
                    f"{'control' if arm == 1 else 'candidate'} {step}" if name in ALGORITHMS else str(step)
                )
            print(f"{name}: {same} of {times} the same (killed at step {', '.join(killed_at)})", flush=True)


LIMITS = "{min_steps: 1, min_prompts_per_step: 1, min_prompts: 1}"
FEW = "max_added_refusal: 0.5, max_added_look_alike_refusal: 0.5, max_added_gibberish: 0.5"


def _changes(algorithm: str, recipe: str, root: Path) -> list[str]:
    return [
        "data.sizes={defence: 64, attack: 64, safety: 40, benign: 64, utility: 40, tuning: 40, benign_test: 40, "
        "look_alikes: 40}",
        f"attacks.suite=[{{algorithm: {algorithm}, steps: {STEPS}, prompts_per_step: 8}}]",
        "attacks.break_at=1.0",
        "attacks.probe_every=4",
        "attacks.probe_prompts=40",
        f"defence={{recipe: {recipe}, steps: {STEPS}, prompts_per_step: 8}}",
        f"policy={{min_prompts: 40, required_attacks: [{algorithm}], attack_limits: {LIMITS}, {FEW}}}",
        f"output={{root: {root}, checkpoint_every: 3}}",
    ]


def run(name: str, folder: Path, root: Path, kill_at: tuple[int, int] | None = None) -> None:
    """The attack or defence; `kill_at` is a step, and how many times the log must come to it."""
    from tokenbuncher.attacks import attack
    from tokenbuncher.defence import defend
    from tokenbuncher.settings import parse_spec
    from tokenbuncher.training.callbacks import StepLog

    if kill_at:
        original, seen = StepLog.on_log, [0]

        def on_log(self: StepLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            original(self, args, state, control, **kwargs)
            seen[0] += state.global_step == kill_at[0] * self.updates
            if seen[0] == kill_at[1]:
                os.kill(os.getpid(), signal.SIGKILL)

        StepLog.on_log = on_log  # type: ignore[method-assign]
    if name in ALGORITHMS:
        spec = parse_spec("", _changes(name, "log-entropy", root))
        attack(spec, f"{name}-1000", folder / "data", base=folder / "base", candidate=folder / "base", out=root / "out")
    else:
        defend(parse_spec("", _changes("grpo", name, root)), folder / "data", folder / "base", out=root / "out")


def figures(root: Path) -> Any:
    """What a run came to, without times: the evidence of an attack, the weights of a defence."""
    from tokenbuncher.core.files import folder_digest

    evidence = root / "out" / "evidence.json"
    if not evidence.exists():
        return folder_digest(root / "out")
    found = json.loads(evidence.read_text(encoding="utf-8"))
    return [
        {key: value for key, value in found[arm].items() if key not in ("seconds", "cpu_seconds")}
        for arm in ("control_arm", "candidate_arm")
    ]


def in_process(work: Callable[[], Any]) -> int:
    """Does the work in a process of its own, silently; returns its exit code, minus the signal if it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open(os.devnull, "w", encoding="utf-8") as out, logging_to(LineHandler(out, TextFormatter())):
                work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
