"""What several kinds of evidence are checked for: prompts, samples, and shares that can be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from tokenbuncher.evidence import SampleScore
from tokenbuncher.settings import ReleaseSpec

ROUNDING = 1e-6


def located(where: str, problems: Iterable[str]) -> Iterator[str]:
    """Problems, each with the place that it is in."""
    return (f"{where}: {problem}" for problem in problems)


def score_problems(scores: Sequence[SampleScore], prompts: Sequence[int], spec: ReleaseSpec) -> Iterator[str]:
    """The scores have the right number of prompts, all samples of each, and no impossible values."""
    samples = defaultdict(list)
    for score in scores:
        samples[score.prompt].append(score.sample)
    yield from number_problems(len(samples), "distinct prompts were measured", prompts)
    wanted = list(range(spec.evaluation.samples_per_prompt))
    wrong = sum(sorted(own) != wanted for own in samples.values())
    if wrong:
        yield f"{wrong} prompts are missing samples or have some twice; the spec asks for {len(wanted)} each"
    if several := sum(score.harmful + score.refused + score.gibberish > 1 for score in scores):
        yield f"{several} responses are two of harmful, refused and gibberish at once"
    if unclear := sum(score.partial and (score.refused or score.gibberish) for score in scores):
        yield f"{unclear} responses refuse in part, and are refused or gibberish at once"
    if strange := sum(not 0 < score.tokens <= spec.model.max_new_tokens for score in scores):
        yield f"{strange} responses have no tokens, or more than the {spec.model.max_new_tokens} of the spec"
    # The mean over all tokens is at least the first one's share in it.
    if impossible := sum(score.first_entropy > score.entropy * score.tokens * (1 + 1e-3) + 1e-6 for score in scores):
        yield f"{impossible} responses have a first token of more entropy than all tokens together"


def number_problems(number: int, what: str, sizes: Sequence[int]) -> Iterator[str]:
    """The number of prompts is that of one of the spec's looks: for a number chosen afterwards no bound holds."""
    if number not in sizes:
        yield f"{number} {what}; the spec has {' or '.join(map(str, sizes))}"


def is_share(share: float, number: int) -> bool:
    return abs(share * number - round(share * number)) <= ROUNDING * number


def asked(scores: Iterable[SampleScore]) -> set[tuple[str, int]]:
    return {(score.prompt, score.sample) for score in scores}
