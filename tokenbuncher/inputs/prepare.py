"""The prepare-data stage: prompts from their sources into disjoint, checked sets."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path

from tokenbuncher.builtin import smollm2
from tokenbuncher.builtin.organism import world
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import check_output, whole_folder, write_text
from tokenbuncher.inputs import sources
from tokenbuncher.inputs.columns import CATEGORY_SEPARATOR, read_file
from tokenbuncher.inputs.fetch import local_model
from tokenbuncher.models.lengths import check_room
from tokenbuncher.settings import DataSpec, FileSource, ReleaseSpec, source_name
from tokenbuncher.settings.leakage import find_leaks, normalise, places_among, places_around, similar_pairs
from tokenbuncher.settings.prompts import MANIFEST, Manifest, Prompt, SourceEntry, write_set

logger = logging.getLogger(__name__)

SHOWN_LEAKS = 5
APART = {
    "benign_test": {"benign": "one that the defence is not anchored on"},
    "look_alikes": {
        "benign": "one that the defence is not anchored on",
        "benign_test": "one of look-alikes",
        "utility": "one of look-alikes",
    },
    "more_harmful": {"harmful": "list", "capability": "list"},
}
"""Fields of `data` whose file must not be that of these, and what to name instead."""
ASKED_FOR_HARM = ("attack", "safety", "capability-attack", "capability-safety")
"""Sets of harmful prompts that the defence has not seen."""


def prepare_data(spec: ReleaseSpec, out: Path) -> None:
    """Writes the prompt sets and their manifest.

    Sets: defence, attack, safety (harmful); capability-attack, capability-safety, if the spec has capability
    questions; benign, utility; for each kind of benign fine-tuning tuning-KIND-train and tuning-KIND-test; benign-test,
    unless over-refusal is measured on utility; and look-alikes, if the spec has any.

    Args:
        spec: The release spec.
        out: Folder to which the sets and the manifest are written.

    Raises:
        UserError: If a source is missing, malformed or too small, a prompt stands in two sets, or one is too long for
            the model, if that is on this machine; else `defend`, or what comes first, refuses it.
    """
    check_output(out)
    data, files = spec.data, _Files(spec.data)
    sets = {**_harmful_sets(data, files), **_capability_sets(data, files), **_benign_sets(spec, files)}
    sets |= _measured_sets(spec, files, sets)
    # First, because a defence holds out the last: it is measured on the list that the model is judged by.
    sets["defence"] = [*_more_harmful(data, files, sets), *sets["defence"]]
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
    _check_room(spec, sets)
    with whole_folder(out) as folder:
        manifest = Manifest(
            seed=data.seed,
            sets={name: write_set(folder, name, prompts, source=_origin(data, name)) for name, prompts in sets.items()},
            near_duplicate=data.near_duplicate,
            leakage=leaks,
            sources=files.read,
            held_out_categories=_held_out(sets) if data.held_out_categories else [],
        )
        write_text(folder / MANIFEST, manifest.text())
    logger.info(", ".join(f"{name} {len(prompts)}" for name, prompts in sets.items()))


def _check_room(spec: ReleaseSpec, sets: dict[str, list[Prompt]]) -> None:
    """Refuses prompts that are too long already here, if the model is on this machine and any prompts are of files."""
    model = local_model(spec.model)
    if model and any(isinstance(source, FileSource) for _, source in spec.data):
        check_room(spec, sets, model)


class _Files:
    """The files of prompts that the spec names, without duplicates."""

    def __init__(self, data: DataSpec) -> None:
        self.data = data
        self.read: dict[str, SourceEntry] = {}
        self.kept: dict[str, list[Prompt]] = {}

    def prompts(self, name: str) -> list[Prompt]:
        """The prompts of the file in that field of `data`."""
        source = getattr(self.data, name)
        found = read_file(source)
        repeated = self._repeated(found.prompts, source.path)
        kept = [prompt for row, prompt in found.prompts.items() if row not in repeated]
        self.kept[name] = kept
        self.read[name] = SourceEntry(
            location=source.path, sha256=found.sha256, rows=found.rows, dropped=len(repeated), kept=len(kept)
        )
        return kept

    def drop(self, name: str, number: int) -> None:
        """Records the number of prompts of a file that are left out because other sets have them."""
        entry = self.read[name]
        self.read[name] = entry.model_copy(update={"dropped": entry.dropped + number, "kept": entry.kept - number})

    def refuse_same_files(self, name: str) -> None:
        """What measures, or trains, is not the very file that is for something else, whatever its name."""
        own = self.read.get(name)
        for field, advice in APART[name].items():
            other = self.read.get(field)
            if own and other and own.sha256 == other.sha256:
                raise UserError(
                    f"data.{name} and data.{field} are the same file: {own.location} and {other.location}; name "
                    f"another {advice}"
                )

    def _repeated(self, prompts: dict[int, Prompt], path: str) -> set[int]:
        """Rows with prompts of earlier rows; those that are nearly the same count if they are to be dropped."""
        first: dict[str, int] = {}
        exact = {row for row, prompt in prompts.items() if first.setdefault(normalise(prompt.text), row) != row}
        if self.data.duplicates == "drop":
            rows = list(first.values())
            texts = [prompts[row].text for row in rows]
            return exact | {rows[later] for _, later, _ in similar_pairs(texts, self.data.near_duplicate)}
        if exact:
            row = min(exact)
            raise UserError(
                f"dataset {path}: rows {first[normalise(prompts[row].text)]} and {row} are the same prompt; remove one "
                "or set data.duplicates: drop"
            )
        return set()


def _harmful_sets(data: DataSpec, files: _Files) -> dict[str, list[Prompt]]:
    sizes = data.sizes
    if not isinstance(data.harmful, FileSource):
        return sources.organism_harmful(sizes, data.seed)
    prompts, origin = files.prompts("harmful"), data.harmful.path
    trained = {"defence": sizes.defence, "attack": sizes.attack}
    measured = {"safety": sizes.safety}
    if data.held_out_categories is None:
        return _split(prompts, trained | measured, data.seed, origin=origin)
    known, held_out = _by_category(prompts, data.held_out_categories, data.seed, origin=origin)
    return {
        **_split(known, trained, data.seed, origin=f"{origin} without the held-out categories"),
        **_split(held_out, measured, data.seed, origin=f"{origin} in the held-out categories"),
    }


def _by_category(prompts: Sequence[Prompt], count: int, seed: int, *, origin: str) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts of no held-out category, and of nothing but such; a prompt of both is in neither."""
    categories = sorted({category for prompt in prompts for category in _categories(prompt)})
    if count >= len(categories):
        raise UserError(
            f"data.held_out_categories is {count}, but {origin} has {len(categories)} categories and one must be left: "
            + ", ".join(categories)
        )
    held_out = set(random.Random(seed).sample(categories, count))
    return (
        [prompt for prompt in prompts if not _categories(prompt) & held_out],
        [prompt for prompt in prompts if _categories(prompt) <= held_out],
    )


def _categories(prompt: Prompt) -> set[str]:
    return set(prompt.task.split(CATEGORY_SEPARATOR))


def _held_out(sets: dict[str, list[Prompt]]) -> list[str]:
    return sorted({category for prompt in sets["safety"] for category in _categories(prompt)})


def _capability_sets(data: DataSpec, files: _Files) -> dict[str, list[Prompt]]:
    if data.capability is None:
        return {}
    if data.capability == "organism":
        return sources.organism_capability(data.sizes, data.seed)
    questions = files.prompts("capability")
    if not all(question.answer for question in questions):
        raise UserError("data.capability: name the column of the right options in data.capability.answer")
    counts = {"capability-attack": data.sizes.attack, "capability-safety": data.sizes.safety}
    return _split(questions, counts, data.seed, origin="data.capability")


def _benign_sets(spec: ReleaseSpec, files: _Files) -> dict[str, list[Prompt]]:
    data, sizes = spec.data, spec.data.sizes
    rng = random.Random(data.seed + 1)
    taken: set[str] = set()
    sets: dict[str, list[Prompt]] = {}
    tuning = sizes.tuning if spec.evaluation.fine_tuning else 0

    if data.benign == "organism":
        sets["benign"] = sources.organism_benign(world.BENIGN, sizes.benign, rng, taken=taken)
    else:
        prompts = smollm2.benign() if data.benign == "smollm2" else files.prompts("benign")
        counts = {
            "benign": sizes.benign,
            **({"benign-test": sizes.benign_test} if data.benign_test == "benign" else {}),
        }
        sets |= _split(prompts, counts, data.seed, origin="data.benign")

    if data.utility == "organism":
        sets["utility"] = sources.organism_benign(world.UTILITY, sizes.utility, rng, taken=taken)
        for kind, maker in (("rl", world.direction), ("sft", world.mark)):
            for part in ("train", "test") if tuning else ():
                sets[f"tuning-{kind}-{part}"] = sources.organism_benign([maker], tuning, rng, taken=taken)
    else:
        counts = {"utility": sizes.utility}
        if tuning:
            counts |= {f"tuning-{kind}-{part}": tuning for kind in ("rl", "sft") for part in ("train", "test")}
        questions = smollm2.utility() if data.utility == "smollm2" else files.prompts("utility")
        if not all(prompt.answer for prompt in questions):
            raise UserError("data.utility: name the column of the expected answers in data.utility.answer")
        sets |= _split(questions, counts, data.seed, origin="data.utility")
    return sets


def _measured_sets(spec: ReleaseSpec, files: _Files, others: dict[str, list[Prompt]]) -> dict[str, list[Prompt]]:
    """The prompts that are for measuring over-refusal alone, drawn after all others, which they leave as they are."""
    data, rng = spec.data, random.Random(spec.data.seed + 3)
    taken, sets = {prompt.group for prompts in others.values() for prompt in prompts}, {}
    seen = [prompt for prompts in others.values() for prompt in prompts]
    seen += files.kept.get("benign", []) if data.benign_test != "benign" else []
    seen += [*smollm2.everyday(), *smollm2.numbers()] if spec.model.source == "smollm2://" else []
    for field, kinds, shipped in (
        ("benign_test", world.UNSEEN, smollm2.unseen),
        ("look_alikes", world.LOOK_ALIKES, smollm2.look_alikes),
    ):
        source, count, name = getattr(data, field), getattr(data.sizes, field), field.replace("_", "-")
        if source == "organism" or (source, data.benign) == ("benign", "organism"):
            makers = kinds if source == "organism" else world.BENIGN
            sets[name] = sources.organism_benign(makers, count, rng, taken=taken)
        elif source == "smollm2" or isinstance(source, FileSource):
            prompts = shipped() if source == "smollm2" else files.prompts(field)
            files.refuse_same_files(field)
            known = places_among(prompts, seen, data.near_duplicate)
            whose = "another set, or of the source of data.benign"
            fresh = _without(prompts, known, field, files=files, whose=whose)
            sets |= _split(fresh, {name: count}, data.seed, origin=f"data.{field}")
        seen += sets.get(name, [])
    return sets


def _more_harmful(data: DataSpec, files: _Files, others: dict[str, list[Prompt]]) -> list[Prompt]:
    """Further prompts for the defence, drawn after all others, none of which is among them."""
    if data.more_harmful is None:
        return []
    prompts = smollm2.harmful_requests() if data.more_harmful == "smollm2" else files.prompts("more_harmful")
    files.refuse_same_files("more_harmful")
    seen = [prompt for prompts in others.values() for prompt in prompts]
    unseen = [prompt for name in ASKED_FOR_HARM for prompt in others.get(name, ())]
    known = places_among(prompts, seen, data.near_duplicate) | places_around(prompts, unseen)
    fresh = _without(prompts, known, "more_harmful", files=files, whose="other sets, or hold one of them")
    return _split(fresh, {"more": data.sizes.more_harmful}, data.seed, origin="data.more_harmful")["more"]


def _without(prompts: list[Prompt], known: set[int], field: str, *, files: _Files, whose: str) -> list[Prompt]:
    """The prompts but for those at the places that are known.

    Raises:
        UserError: If there are such, and duplicates are not to be dropped.
    """
    if known and files.data.duplicates == "fail":
        raise UserError(
            f"data.{field}: {len(known)} of {len(prompts)} prompts, the first is number {min(known) + 1}, are nearly "
            f"the same as prompts of {whose}; remove them or set data.duplicates: drop"
        )
    if field in files.read:
        files.drop(field, len(known))
    return [prompt for place, prompt in enumerate(prompts) if place not in known]


def _split(prompts: Sequence[Prompt], counts: dict[str, int], seed: int, *, origin: str) -> dict[str, list[Prompt]]:
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
    if name == "defence" and data.more_harmful:
        return f"{source_name(data.more_harmful)} and {source_name(data.harmful)}"
    if name in ("defence", "attack", "safety"):
        source = data.harmful
    elif name.startswith("capability"):
        source = data.capability
    elif name == "benign" or (name == "benign-test" and data.benign_test == "benign"):
        source = data.benign
    elif name in ("benign-test", "look-alikes"):
        source = getattr(data, name.replace("-", "_"))
        return source_name(source) if isinstance(source, FileSource) else f"{source}, for this alone"
    return source_name(source) if source else str(source)
