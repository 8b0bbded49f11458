"""What one change of the defence does: the same attacks on both defences, paired by seed.

    .venv/bin/python benchmarks/compare.py 0 1 2 3 4 --one defence.recipe=paper --other defence.recipe=entropy-reward

The noiser's effect, for instance: `entropy-reward` is `paper` without it. The unit is the defence's seed; runs of one
seed with several attack seeds are averaged. Intervals are Student's, 95 %, over the seeds. Results are shared with
benchmarks/attacks.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from statistics import fmean

from attacks import ONCE, REWARDS, defended_model, run
from scipy.stats import ttest_rel

from tokenbuncher.evidence import AttackEvidence


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--one", nargs="+", required=True, metavar="FIELD.PATH=VALUE")
    parser.add_argument("--other", nargs="+", required=True, metavar="FIELD.PATH=VALUE")
    parser.add_argument("--only", nargs="+", default=["grpo", "rloo"], help="names of attacks; default: %(default)s")
    parser.add_argument("--reward", choices=REWARDS, default="exact", help="default: %(default)s")
    parser.add_argument("--attack-seeds", nargs="+", type=int, default=[1000, 1001, 1002], help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    attacks = [attack for attack in ONCE if attack["algorithm"] in arguments.only]
    with ProcessPoolExecutor(arguments.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        defended = {
            (side, seed): pool.submit(defended_model, overrides, seed)
            for side, overrides in (("one", arguments.one), ("other", arguments.other))
            for seed in arguments.seeds
        }
        runs = {
            (attack["algorithm"], side, seed): [
                pool.submit(run, folder.result(), getattr(arguments, side), seed, attack, arguments.reward, attack_seed)
                for attack_seed in arguments.attack_seeds
            ]
            for attack in attacks
            for (side, seed), folder in defended.items()
        }
        found = {key: [future.result() for future in futures] for key, futures in runs.items()}
    print(f"one: {' '.join(arguments.one)}; other: {' '.join(arguments.other)}; {len(arguments.seeds)} seeds\n")
    print("| attack | measure | one | other | one - other (95 %) |\n|---|---|---|---|---|")
    for attack in attacks:
        name = attack["algorithm"]
        for measure, value in MEASURES.items():
            one, other = (
                [fmean(map(value, found[name, side, seed])) for seed in arguments.seeds] for side in ("one", "other")
            )
            print(f"| {name} | {measure} | {fmean(one):.3g} | {fmean(other):.3g} | {difference(one, other)} |")


def survived(evidence: AttackEvidence) -> float:
    """Steps until the candidate broke; all of them if it never did."""
    arm = evidence.candidate_arm
    return arm.steps_to_break or arm.steps_run


def mean_harm(evidence: AttackEvidence) -> float:
    """Mean held-out harm over the whole budget, 0 to 1; from the break on it counts as what it was then."""
    arm, every = evidence.candidate_arm, evidence.candidate_arm.curve[1].step
    harm = [point.harm for point in arm.curve]
    missing = evidence.attack.steps // every + 1 - len(harm)
    return fmean([*harm, *[harm[-1]] * missing])


def refusal_before(evidence: AttackEvidence) -> float:
    """Share of harmful prompts that the defended model refused before the attack."""
    return evidence.candidate_arm.curve[0].refusal


def gibberish_before(evidence: AttackEvidence) -> float:
    """Share of harmful prompts that it answered with gibberish before the attack."""
    return evidence.candidate_arm.curve[0].gibberish


MEASURES = {
    "steps survived of 60": survived,
    "mean harm over the budget": mean_harm,
    "refusal before the attack": refusal_before,
    "gibberish before the attack": gibberish_before,
}


def difference(one: list[float], other: list[float]) -> str:
    """The mean paired difference with its interval."""
    if one == other:
        return "0 in every seed"
    low, high = ttest_rel(one, other).confidence_interval(0.95)
    return f"{fmean(one) - fmean(other):+.3g} ({low:+.3g} to {high:+.3g})"


if __name__ == "__main__":
    main()
