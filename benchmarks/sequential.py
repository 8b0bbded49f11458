"""Sequential evaluation against asking every prompt: how often the verdict errs, and how many prompts it takes.

    .venv/bin/python benchmarks/sequential.py

Simulated models are judged by the gate's own claims. The anytime-valid rule that they are compared with bets a uniform
mixture of rates against the threshold, a likelihood-ratio supermartingale, after every ten prompts (Waudby-Smith and
Ramdas 2024, doi:10.1093/jrsssb/qkad009). benchmarks/looks.py runs the stages themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.special import betainc, betaln
from scipy.stats import binomtest

from tokenbuncher.evidence import SampleScore, UtilityItem
from tokenbuncher.settings import ReleaseSpec, load_spec
from tokenbuncher.verdict import Outcome
from tokenbuncher.verdict.claims import Claim
from tokenbuncher.verdict.looks import planned
from tokenbuncher.verdict.rules.attacks import harm_after_attack, positive_control
from tokenbuncher.verdict.rules.utility import utility_drop
from tokenbuncher.verdict.statistics import Drop, Proportion

SPEC = "specs/organism.yaml"
LOOKS = 8
SPREADS = {"alike": 0.0, "mixed": 0.5, "all or nothing": 1.0}
"""How much prompts differ in their rates: the correlation between two samples of a prompt."""


@dataclass(frozen=True)
class Simulated:
    """What became of many evaluations of models with the same true rate."""

    outcomes: np.ndarray
    """Of each, as text."""
    asked: np.ndarray
    """Prompts asked in each."""

    def share(self, outcome: Outcome) -> float:
        """How many of them came to it."""
        return float((self.outcomes == outcome).mean())

    def error(self, outcome: Outcome) -> str:
        """The share with its exact 95 % interval."""
        count = int((self.outcomes == outcome).sum())
        interval = binomtest(count, len(self.outcomes)).proportion_ci(0.95)
        return f"{count / len(self.outcomes):.3%} ({interval.low:.3%} to {interval.high:.3%})"


def evaluate(
    claims: Sequence[Claim], counts: Sequence[np.ndarray], rate: Callable[..., Proportion | Drop]
) -> Simulated:
    """Simulated evaluations, each judged by the claim at one look after the other until that is settled.

    Args:
        claims: At each look; their estimates say on how many prompts.
        counts: At each look what has been counted by then, a row for each evaluation.
        rate: Makes the estimate of a row and the number of prompts.
    """
    outcomes, asked = np.full(len(counts[0]), "", dtype=object), np.zeros(len(counts[0]), dtype=int)
    for claim, counted in zip(claims, counts, strict=True):
        going = np.flatnonzero(asked == 0)
        if not len(going):
            break
        rows, which = np.unique(counted[going], axis=0, return_inverse=True)
        prompts = claim.estimate.prompts
        judged = [replace(claim, estimate=rate(*map(float, row), prompts)) for row in rows]
        ends = np.array([claim is claims[-1] or one.settled() for one in judged])[which.ravel()]
        stopped = going[ends]
        outcomes[stopped] = np.array([one.outcome() for one in judged], dtype=object)[which.ravel()][ends]
        asked[stopped] = prompts
    return Simulated(outcomes, asked)


def evaluate_anytime(claim: Claim, sizes: Sequence[int], counts: Sequence[np.ndarray]) -> Simulated:
    """The same by an anytime-valid rule for "at most": evidence on either side of the threshold of 1 / error."""
    needed, threshold = -np.log(1 - claim.confidence), claim.threshold
    outcomes, asked = np.full(len(counts[0]), "", dtype=object), np.zeros(len(counts[0]), dtype=int)
    for prompts, counted in zip(sizes, counts, strict=True):
        harm = counted[:, 0] / 2
        null = harm * np.log(threshold) + (prompts - harm) * np.log1p(-threshold)
        mixed = betaln(harm + 1, prompts - harm + 1) - null
        with np.errstate(divide="ignore"):
            below = np.log(betainc(harm + 1, prompts - harm + 1, threshold) / threshold) + mixed
            above = np.log(betainc(prompts - harm + 1, harm + 1, 1 - threshold) / (1 - threshold)) + mixed
        enough = prompts >= claim.min_prompts
        holds, fails = enough & (below >= needed), enough & (above >= needed)
        stopped = (asked == 0) & (holds | fails | (prompts == sizes[-1]))
        doubt = np.where(harm / prompts > threshold, Outcome.BLOCK, Outcome.INCONCLUSIVE)
        outcomes[stopped] = np.where(holds, Outcome.PASS, doubt)[stopped]
        asked[stopped] = prompts
    return Simulated(outcomes, asked)


def drawn(shares: Sequence[float], sizes: Sequence[int], repetitions: int, seed: int) -> list[np.ndarray]:
    """What has been counted at each size: how many prompts fall into each class but the last, which is the rest."""
    rng = np.random.default_rng(seed)
    parts = np.diff([0, *sizes])
    classes = [*shares, max(0.0, 1 - sum(shares))]
    return list(np.cumsum([rng.multinomial(part, classes, repetitions)[:, :-1] for part in parts], axis=0))


def harmful_samples(rate: float, spread: float, sizes: Sequence[int], repetitions: int, seed: int) -> list[np.ndarray]:
    """Harmful samples at each size, of two a prompt; prompts' own rates have a beta distribution."""
    both = rate**2 + spread * rate * (1 - rate)
    one = 2 * rate * (1 - rate) * (1 - spread)
    return [counted @ np.array([[2], [1]]) for counted in drawn([both, one], sizes, repetitions, seed)]


def of_samples(harmful: float, prompts: int) -> Proportion:
    """The rate of so many harmful samples, of two a prompt."""
    return Proportion(harmful / 2 / prompts, prompts, 2 * prompts)


def spec_of(prompts: int, looks: int, *overrides: str) -> ReleaseSpec:
    """The built-in model's release with so many prompts for safety and utility, and so many looks."""
    sizes = [f"data.sizes.safety={prompts}", f"data.sizes.utility={prompts}", f"evaluation.looks={looks}"]
    return load_spec(SPEC, [*sizes, *overrides])


def harm_claims(spec: ReleaseSpec) -> list[Claim]:
    """The claim on harm after an attack, at each look."""
    task = spec.attacks.tasks()[0]
    sizes = planned(spec.data.sizes.safety, spec.evaluation.looks)
    return [harm_after_attack(spec, task, scores(prompts), curve=[], worst_step=0) for prompts in sizes]


def drop_claims(spec: ReleaseSpec) -> list[Claim]:
    """The claim on the utility drop, at each look."""
    sizes = planned(spec.data.sizes.utility, spec.evaluation.looks)
    return [utility_drop(spec, items(prompts), items(prompts), subject="utility questions") for prompts in sizes]


def scores(prompts: int) -> list[SampleScore]:
    """Harmless scores of so many prompts: claims are made of them, and then given other estimates."""
    marks = {"harmful": False, "refused": True, "gibberish": False, "partial": False, "finished": True}
    measures = {"tokens": 1, "entropy": 0.0, "first_entropy": 0.0}
    return [SampleScore(prompt=str(prompt), sample=0, **marks, **measures) for prompt in range(prompts)]


def items(prompts: int) -> list[UtilityItem]:
    """Right answers to so many questions."""
    marks = {"correct": True, "parsed": True, "finished": True, "tokens": 1, "repetition": 0.0}
    return [UtilityItem(prompt=str(prompt), task="", harness=None, options=None, **marks) for prompt in range(prompts)]


def at(claims: Sequence[Claim]) -> list[int]:
    """The numbers of prompts of claims."""
    return [claim.estimate.prompts for claim in claims]


ONE_ATTACK = "policy.required_attacks=[grpo]"


def print_errors(repetitions: int) -> None:
    """How often the verdict on harm errs, on the threshold of 5 % and next to it."""
    head("attacks", "prompts", "spread", "true harm", "error", "promised", "all prompts", f"{LOOKS} looks")
    for attacks, overrides, truths in ((1, [ONE_ATTACK], (0.045, 0.05, 0.055)), (6, [], (0.05,))):
        for prompts in (200, 1000):
            plans = [harm_claims(spec_of(prompts, looks, *overrides)) for looks in (1, LOOKS)]
            for spread, correlation in SPREADS.items():
                for truth in truths:
                    wrong, promised = Outcome.PASS, f"{1 - plans[0][0].confidence:.2%}"
                    if truth < plans[0][0].threshold:
                        wrong, promised = Outcome.BLOCK, "-"
                    sampled = partial(harmful_samples, truth, correlation, repetitions=repetitions, seed=1)
                    errors = [evaluate(claims, sampled(sizes=at(claims)), of_samples).error(wrong) for claims in plans]
                    row(attacks, prompts, spread, f"{truth:.1%}", wrong, promised, *errors)


def print_savings(repetitions: int) -> None:
    """Prompts that the verdict on harm takes, and how often it passes, by the true harm."""
    head(
        "prompts",
        "true harm",
        "PASS: all prompts",
        "4 looks",
        f"{LOOKS} looks",
        "anytime",
        "asked: 4 looks",
        f"{LOOKS} looks",
        "anytime",
    )
    for prompts in (200, 400, 1000):
        once, few, many = (harm_claims(spec_of(prompts, looks)) for looks in (1, 4, LOOKS))
        every_ten = list(range(10, prompts + 1, 10))
        for truth in (0.0, 0.005, 0.01, 0.02, 0.03, 0.1, 0.5):
            sampled = partial(harmful_samples, truth, SPREADS["mixed"], repetitions=repetitions, seed=2)
            found = [evaluate(claims, sampled(sizes=at(claims)), of_samples) for claims in (once, few, many)]
            found.append(evaluate_anytime(once[0], every_ten, sampled(sizes=every_ten)))
            passed = [f"{one.share(Outcome.PASS):.1%}" for one in found]
            row(prompts, f"{truth:.1%}", *passed, *(f"{one.asked.mean() / prompts:.0%}" for one in found[1:]))


def print_drops(repetitions: int) -> None:
    """The same for the accuracy lost, at most 2 %."""
    head(
        "questions",
        "lost",
        "gained",
        "PASS: all questions",
        f"{LOOKS} looks",
        "BLOCK: all questions",
        f"{LOOKS} looks",
        "asked",
    )
    for questions in (500, 1319):
        once, many = (drop_claims(spec_of(questions, looks)) for looks in (1, LOOKS))
        for lost, gained in ((0, 0), (0.002, 0.001), (0.01, 0.01), (0.02, 0.0), (0.04, 0.02), (0.1, 0.0)):
            found = [
                evaluate(claims, drawn([lost, gained], at(claims), repetitions, 3), Drop) for claims in (once, many)
            ]
            shares = [f"{one.share(outcome):.2%}" for outcome in (Outcome.PASS, Outcome.BLOCK) for one in found]
            row(questions, f"{lost:.1%}", f"{gained:.1%}", *shares, f"{found[1].asked.mean() / questions:.0%}")


def print_controls(repetitions: int) -> None:
    """How often the positive control passes by chance, its harm being on the threshold at every measured step."""
    # A probe chooses the step. On the built-in model that is one sample of each of 100 prompts, and the scores are two
    # samples more of these and 100 others; if there is one sample and all prompts are probed, they are the probe's own.
    head("scores", "steps to choose from", "promised", "each step's own bound", "all steps' bounds together")
    rng = np.random.default_rng(4)
    for what, prompts, own in (("200 prompts, two samples more", 200, False), ("the probe's own 100", 100, True)):
        spec = spec_of(prompts, 1, "data.sizes.utility=200")
        task = spec.attacks.tasks()[0]
        together = positive_control(spec, task, scores(prompts))
        alone = replace(together, confidence=spec.policy.confidence)
        steps = len(spec.attacks.probed(task.attack.steps))
        probes = rng.binomial(100, together.threshold, (repetitions, steps))
        harmful = 2 * probes.max(axis=1) if own else rng.binomial(2 * prompts, together.threshold, repetitions)
        found = [evaluate([claim], [harmful[:, None]], of_samples) for claim in (alone, together)]
        row(what, steps, f"{1 - spec.policy.confidence:.1%}", *(one.error(Outcome.PASS) for one in found))


def head(*columns: object) -> None:
    """The first two lines of a table."""
    row(*columns)
    print("|" + "---|" * len(columns), flush=True)


def row(*cells: object) -> None:
    """A line of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=50_000, help="default: %(default)s")
    repetitions = parser.parse_args().repetitions
    for table in (print_errors, print_savings, print_drops, print_controls):
        print(f"\n{table.__doc__}\n")
        table(repetitions)


if __name__ == "__main__":
    main()
