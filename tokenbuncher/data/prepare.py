"""The prepare-data stage: prompts from their sources into disjoint, checked sets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from tokenbuncher import smollm2
from tokenbuncher.data import sources
from tokenbuncher.data.leakage import find_leaks, normalise, similar_pairs
from tokenbuncher.errors import UserError
from tokenbuncher.files import whole_folder, write_text
from tokenbuncher.organism import world
from tokenbuncher.prompts import MANIFEST, Manifest, Prompt, write_set
from tokenbuncher.settings import DataSpec, FileSource, ReleaseSpec

SHOWN_LEAKS = 5


def prepare_data(spec: ReleaseSpec, out: Path) -> None:
    """Writes the prompt sets and their manifest.

    Sets: defence, attack, safety (harmful); capability-attack, capability-safety, if the spec has capability
    questions; benign, utility; and for each kind of benign fine-tuning tuning-KIND-train and tuning-KIND-test.

    Args:
        spec: The release spec.
        out: Folder to be written.

    Raises:
        UserError: If a source is missing, malformed or too small, or a prompt stands in two sets.
    """
    data = spec.data
    dropped: dict[str, int] = {}
    sets = {**_harmful_sets(data, dropped), **_capability_sets(data, dropped), **_benign_sets(spec, dropped)}
    for name, prompts in sets.items():
        if not prompts:
            raise UserError(f"prompt set '{name}' is empty")
    leaks = find_leaks(sets, data.near_duplicate)
    if leaks:
        shown = "\n".join(f"  {leak}" for leak in leaks[:SHOWN_LEAKS])
        raise UserError(
            f"{len(leaks)} leaks between prompt sets:\n{shown}\n"
            "set data.duplicates: drop to remove duplicates before the split, or clean the source"
        )
    with whole_folder(out) as folder:
        manifest = Manifest(
            seed=data.seed,
            sets={name: write_set(folder, name, prompts, _origin(data, name)) for name, prompts in sets.items()},
            near_duplicate=data.near_duplicate,
            leakage=leaks,
            dropped=dropped,
        )
        write_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    print(", ".join(f"{name} {len(prompts)}" for name, prompts in sets.items()), flush=True)


def _harmful_sets(data: DataSpec, dropped: dict[str, int]) -> dict[str, list[Prompt]]:
    sizes = data.sizes
    if not isinstance(data.harmful, FileSource):
        return sources.organism_harmful(sizes, data.seed)
    counts = {"defence": sizes.defence, "attack": sizes.attack, "safety": sizes.safety}
    return _split(_clean(data.harmful, data, dropped), counts, data.seed, str(data.harmful.path))


def _capability_sets(data: DataSpec, dropped: dict[str, int]) -> dict[str, list[Prompt]]:
    if data.capability is None:
        return {}
    if data.capability == "organism":
        return sources.organism_capability(data.sizes, data.seed)
    questions = _clean(data.capability, data, dropped)
    if not all(question.answer for question in questions):
        raise UserError("data.capability: name the column of the right options in data.capability.answer")
    counts = {"capability-attack": data.sizes.attack, "capability-safety": data.sizes.safety}
    return _split(questions, counts, data.seed, "data.capability")


def _benign_sets(spec: ReleaseSpec, dropped: dict[str, int]) -> dict[str, list[Prompt]]:
    data, sizes = spec.data, spec.data.sizes
    rng = random.Random(data.seed + 1)
    taken: set[str] = set()
    sets: dict[str, list[Prompt]] = {}
    tuning = sizes.tuning if spec.evaluation.fine_tuning else 0

    if data.benign == "organism":
        sets["benign"] = sources.organism_benign(world.BENIGN, sizes.benign, rng, taken)
    else:
        prompts = smollm2.benign() if data.benign == "smollm2" else _clean(data.benign, data, dropped)
        sets |= _split(prompts, {"benign": sizes.benign}, data.seed, "data.benign")

    if data.utility == "organism":
        sets["utility"] = sources.organism_benign(world.UTILITY, sizes.utility, rng, taken)
        for kind, maker in (("rl", world.direction), ("sft", world.mark)):
            for part in ("train", "test") if tuning else ():
                sets[f"tuning-{kind}-{part}"] = sources.organism_benign([maker], tuning, rng, taken)
    else:
        counts = {"utility": sizes.utility}
        if tuning:
            counts |= {f"tuning-{kind}-{part}": tuning for kind in ("rl", "sft") for part in ("train", "test")}
        questions = smollm2.utility() if data.utility == "smollm2" else _clean(data.utility, data, dropped)
        if not all(prompt.answer for prompt in questions):
            raise UserError("data.utility: name the column of the expected answers in data.utility.answer")
        sets |= _split(questions, counts, data.seed, "data.utility")
    return sets


def _clean(source: FileSource, data: DataSpec, dropped: dict[str, int]) -> list[Prompt]:
    """Reads a file and deals with the duplicates in it."""
    prompts = sources.read_file(source)
    if data.duplicates == "drop":
        repeats = {later for _, later, _ in similar_pairs([p.text for p in prompts], data.near_duplicate)}
        dropped[str(source.path)] = len(repeats)
        return [prompt for row, prompt in enumerate(prompts) if row not in repeats]
    first_row: dict[str, int] = {}
    for row, prompt in enumerate(prompts, start=1):
        earlier = first_row.setdefault(normalise(prompt.text), row)
        if earlier != row:
            raise UserError(
                f"dataset {source.path}: rows {earlier} and {row} are the same prompt; remove one or set "
                "data.duplicates: drop"
            )
    return prompts


def _split(prompts: Sequence[Prompt], counts: dict[str, int], seed: int, origin: str) -> dict[str, list[Prompt]]:
    needed = sum(counts.values())
    if needed > len(prompts):
        wanted = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UserError(
            f"{origin} has {len(prompts)} distinct prompts, but data.sizes asks for {needed} ({wanted}); lower them"
        )
    shuffled = random.Random(seed).sample(prompts, len(prompts))
    sets, start = {}, 0
    for name, count in counts.items():
        sets[name] = shuffled[start : start + count]
        start += count
    return sets


def _origin(data: DataSpec, name: str) -> str:
    source: FileSource | str | None = data.utility
    if name in ("defence", "attack", "safety"):
        source = data.harmful
    elif name.startswith("capability"):
        source = data.capability
    elif name == "benign":
        source = data.benign
    return str(source.path if isinstance(source, FileSource) else source)
