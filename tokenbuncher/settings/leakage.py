"""Finds prompts that are in two sets, exactly or nearly."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import ceil

from tokenbuncher.settings.prompts import Prompt

UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
"""Characters that nobody sees, beside those of category Cf (Unicode: Default_Ignorable_Code_Point)."""
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Kana, Han. Each character counts as a word."""


def normalise(text: str) -> str:
    """Text without case, punctuation, extra space, and differences that nobody sees: the words that are compared."""
    if text.isascii():
        return " ".join(re.findall(r"\w+", text.casefold()))
    # Before the composition of characters too: what nobody sees keeps a letter from its accent, an accent is no word.
    folded = unicodedata.normalize("NFKC", "".join(map(_lettered, text)))
    folded = unicodedata.normalize("NFKC", folded.casefold())
    return " ".join("".join(_spaced(_lettered(character)) for character in folded).split())


def _lettered(character: str) -> str:
    """The character if it is part of a word; a space if it parts words; nothing if nobody sees it."""
    category = unicodedata.category(character)
    if category == "Cf" or UNSEEN.match(character):
        return ""
    if character != "_" and category[0] not in "LMN":
        return " "
    raised = unicodedata.decomposition(character).startswith(("<super>", "<sub>"))
    return f" {character} " if raised else character


def _spaced(character: str) -> str:
    return f" {character} " if UNSPACED.match(character) else character


def shingles(text: str, size: int = 3) -> frozenset[str]:
    """Runs of so many words of the normalised text; the whole text if it is shorter."""
    words = normalise(text).split()
    return frozenset(" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1)))


def similar_pairs(texts: Sequence[str], threshold: float, size: int = 3) -> Iterator[tuple[int, int, float]]:
    """Pairs of texts whose word trigrams, or runs of another size, have a Jaccard similarity of at least the threshold.

    Exact: two such sets must share one of their rarest trigrams (prefix filtering, Chaudhuri et al. 2006),
    so only those are compared.

    Yields:
        Index of the earlier text, index of the later one, similarity in (0, 1].
    """
    sets = [shingles(text, size) for text in texts]
    frequency = Counter(shingle for one in sets for shingle in one)
    seen_with: defaultdict[str, list[int]] = defaultdict(list)
    for later, one in enumerate(sets):
        rarest = sorted(one, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rarest[: len(one) - ceil(threshold * len(one) - 1e-9) + 1]
        for earlier in sorted({index for shingle in prefix for index in seen_with[shingle]}):
            similarity = len(one & sets[earlier]) / len(one | sets[earlier])
            if similarity >= threshold:
                yield earlier, later, similarity
        for shingle in prefix:
            seen_with[shingle].append(later)


def places_among(prompts: Sequence[Prompt], known: Sequence[Prompt], threshold: float, *, size: int = 3) -> set[int]:
    """The places of prompts that are nearly the same as known ones.

    Args:
        prompts: The prompts.
        known: Other prompts.
        threshold: Jaccard similarity, in (0, 1], at which prompts are near duplicates.
        size: Words in each of the runs that are compared; with 1 their order does not count.
    """
    pairs = similar_pairs([prompt.text for prompt in (*known, *prompts)], threshold, size)
    return {later - len(known) for earlier, later, _ in pairs if earlier < len(known) <= later}


def places_around(prompts: Sequence[Prompt], known: Sequence[Prompt]) -> set[int]:
    """The places of prompts that hold a known one in words around it, or are held by one.

    A template around a question, or the question without its options, is far from it by Jaccard similarity.
    """
    asked, others = ([shingles(prompt.text) for prompt in of] for of in (prompts, known))
    return {outer for outer, _ in _holding(asked, others)} | {inner for _, inner in _holding(others, asked)}


def _holding(outer: Sequence[frozenset[str]], inner: Sequence[frozenset[str]]) -> Iterator[tuple[int, int]]:
    """Pairs of places of a set and of one that is a part of it."""
    by_one: defaultdict[str, list[int]] = defaultdict(list)
    for place, part in enumerate(inner):
        by_one[min(part)].append(place)
    for place, whole in enumerate(outer):
        yield from ((place, found) for one in whole for found in by_one.get(one, ()) if inner[found] <= whole)


def find_leaks(sets: Mapping[str, Sequence[Prompt]], threshold: float) -> list[str]:
    """Describes every prompt that is in two sets.

    Exact duplicates (but for case, punctuation and space), near duplicates, and prompts of the same group.
    The description gives places, never the text, which may be harmful.

    Args:
        sets: Prompts, by the name of their set.
        threshold: Jaccard similarity of word trigrams, in (0, 1], at which prompts are near duplicates.
    """
    placed = [(name, row, prompt) for name, prompts in sets.items() for row, prompt in enumerate(prompts, start=1)]
    leaks = []
    for first, second, similarity in similar_pairs([prompt.text for *_, prompt in placed], threshold):
        (a, row_a, prompt_a), (b, row_b, prompt_b) = placed[first], placed[second]
        if a != b:
            same = normalise(prompt_a.text) == normalise(prompt_b.text)
            what = "same prompt" if same else f"near duplicate ({similarity:.2f})"
            leaks.append(f"{a} {row_a} and {b} {row_b}: {what}")
    groups: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, row, prompt in placed:
        if prompt.group:
            groups[prompt.group].append((name, row))
    for places in groups.values():
        (first_set, first_row), *others = places
        leaks += [
            f"{first_set} {first_row} and {name} {row}: same subject" for name, row in others if name != first_set
        ]
    return leaks
