"""What is compared across the sections of a release spec: each check yields every contradiction that it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tokenbuncher.core.fields import Contradiction, Path
from tokenbuncher.settings.data import seen_by_the_defence
from tokenbuncher.settings.sections import Sections
from tokenbuncher.settings.strength import shared_weaknesses, too_few_to_pass, weaknesses

Check = Callable[[Sections], Iterator[Contradiction]]


def attacker_knows_no_seed(spec: Sections) -> Iterator[Contradiction]:
    """An attacker does not know the seed of the defence."""
    for number, attack in enumerate(spec.attacks.suite):
        if spec.defence.seed in attack.seeds:
            yield (
                ("attacks", "suite", number, "seeds"),
                f"{attack.name}-{spec.defence.seed} has the seed of the defence (defence.seed is {spec.defence.seed}); "
                "an attacker does not know it, choose another",
            )


def attacks_have_their_prompts(spec: Sections) -> Iterator[Contradiction]:
    """An attack trains on prompts that the data has."""
    for number, attack in enumerate(spec.attacks.suite):
        if (attack.prompts or 0) > spec.data.sizes.attack:
            yield (
                ("attacks", "suite", number, "prompts"),
                f"{attack.name} has {attack.prompts} prompts, data.sizes.attack is {spec.data.sizes.attack}",
            )


def capability_has_questions(spec: Sections) -> Iterator[Contradiction]:
    """An attack on harmful knowledge needs questions about it."""
    for number, attack in enumerate(spec.attacks.suite):
        if attack.objective == "capability" and spec.data.capability is None:
            yield (
                ("attacks", "suite", number, "objective"),
                f"{attack.name} has objective capability; name data.capability",
            )


def required_attacks_run(spec: Sections) -> Iterator[Contradiction]:
    """What the policy requires is in the suite, with as many seeds as it requires."""
    seeds: dict[str, set[int]] = {}
    for attack in spec.attacks.suite:
        seeds.setdefault(attack.name, set()).update(attack.seeds)
    if missing := [name for name in spec.policy.required_attacks if name not in seeds]:
        yield ("policy", "required_attacks"), f"policy.required_attacks: {', '.join(missing)} not in attacks.suite"
    for name in spec.policy.required_attacks:
        if 0 < len(seeds.get(name, ())) < spec.policy.min_attack_seeds:
            yield (
                ("policy", "min_attack_seeds"),
                f"policy.min_attack_seeds is {spec.policy.min_attack_seeds}, but attack {name} has {len(seeds[name])} "
                f"seeds in attacks.suite: {sorted(seeds[name])}",
            )


def required_attacks_are_strong(spec: Sections) -> Iterator[Contradiction]:
    """A required name stands for a required strength."""
    for number, attack in enumerate(spec.attacks.suite):
        found = list(weaknesses(attack, spec)) if attack.name in spec.policy.required_attacks else []
        if found:
            yield (
                ("attacks", "suite", number),
                f"{attack.name} is not the attack that the policy requires under this name: {'; '.join(found)}. Give "
                "it a name of its own, or state other limits in a policy of your own",
            )


def fine_tuning_is_measured(spec: Sections) -> Iterator[Contradiction]:
    """A limit on benign fine-tuning needs benign fine-tuning."""
    if spec.policy.max_fine_tuning_drop is not None and spec.evaluation.fine_tuning is None:
        yield (
            ("policy", "max_fine_tuning_drop"),
            "policy.max_fine_tuning_drop asks for benign fine-tuning, but evaluation.fine_tuning is null; give it, or "
            "let the policy ask for none",
        )


def sets_are_large_enough(spec: Sections) -> Iterator[Contradiction]:
    """Every measured set has as many prompts as the policy asks for."""
    measured = ["safety", "utility", *(["tuning"] if spec.evaluation.fine_tuning else [])]
    measured += ["look_alikes"] if spec.data.look_alikes else []
    measured += ["benign_test"] if spec.data.benign_test != "utility" else []
    sizes = {name: getattr(spec.data.sizes, name) for name in measured}
    small = [f"data.sizes.{name} ({size})" for name, size in sizes.items() if size < spec.policy.min_prompts]
    if small:
        yield (
            ("policy", "min_prompts"),
            f"policy.min_prompts ({spec.policy.min_prompts}) is more than {', '.join(small)}; no release could pass",
        )


def probes_are_large_enough(spec: Sections) -> Iterator[Contradiction]:
    """Harm after an attack is measured on as many prompts as the policy asks for and the data has."""
    probed = spec.attacks.probe_prompts
    if spec.policy.min_prompts > probed:
        yield (
            ("policy", "min_prompts"),
            f"policy.min_prompts ({spec.policy.min_prompts}) is more than attacks.probe_prompts ({probed}), by which "
            "lost refusal is judged; no release could pass",
        )
    if probed > spec.data.sizes.safety:
        yield (
            ("attacks", "probe_prompts"),
            f"attacks.probe_prompts ({probed}) is more than data.sizes.safety ({spec.data.sizes.safety})",
        )


def attacked_weights_stay(spec: Sections) -> Iterator[Contradiction]:
    """Attacked weights never leave the quarantine."""
    if spec.compute.kind == "trainjob" and spec.attacks.keep_checkpoints:
        yield (
            ("attacks", "keep_checkpoints"),
            "attacked weights must not leave the quarantine, and compute.kind trainjob would send them through "
            "compute.storage",
        )


def steps_divide_among_processes(spec: Sections) -> Iterator[Contradiction]:
    """Each process of a TrainJob has an equal share of every step."""
    processes = spec.compute.nodes * spec.compute.processes if spec.compute.kind == "trainjob" else 1
    for path, count in _examples_of_a_step(spec):
        if count % processes:
            yield (
                path,
                f"{'.'.join(map(str, path))} ({count}) must be a multiple of the {processes} processes: compute.nodes "
                "times compute.processes",
            )


def _examples_of_a_step(spec: Sections) -> Iterator[tuple[Path, int]]:
    yield ("defence", "prompts_per_step"), spec.defence.prompts_per_step
    if spec.defence.anchor:
        yield ("defence", "anchor", "examples"), spec.defence.anchor.examples
    if spec.defence.certain_refusal:
        yield ("defence", "certain_refusal", "benign_examples"), spec.defence.certain_refusal.benign_examples
    for number, attack in enumerate(spec.attacks.suite):
        yield ("attacks", "suite", number, "prompts_per_step"), attack.prompts_per_step
        if attack.warm_up:
            yield ("attacks", "suite", number, "warm_up", "examples"), attack.warm_up.examples


def over_refusal_is_measured_on_new_prompts(spec: Sections) -> Iterator[Contradiction]:
    """Over-refusal is measured on prompts that the model was not aligned on."""
    aligned_on = spec.model.source.removesuffix("://")
    if spec.data.borrowed_benign == aligned_on:
        yield ("data", "benign_test"), seen_by_the_defence(aligned_on)


def look_alikes_are_there(spec: Sections) -> Iterator[Contradiction]:
    """A limit on refused look-alikes needs look-alikes."""
    if spec.policy.max_added_look_alike_refusal is not None and spec.data.look_alikes is None:
        yield (
            ("policy", "max_added_look_alike_refusal"),
            "policy.max_added_look_alike_refusal asks for harmless prompts that look harmful, but data.look_alikes is "
            "null. Name a file of your own, XSTest's ({dataset: xstest, path: ...}), or smollm2 for those that come "
            "with the package; or let the policy ask for none, with null",
        )


def prompts_are_of_the_model_s_world(spec: Sections) -> Iterator[Contradiction]:
    """What is harmless in the built-in model's fictional world says nothing of another model."""
    if spec.model.source == "organism://" or spec.data.harmful == "organism":
        return
    for field in spec.data.of_the_organism():
        yield (
            ("data", field),
            f"data.{field} is of the organism's fictional world, and data.harmful is not; how {spec.model.source} "
            "answers such prompts says nothing of what it refuses. Name a file of your own, or smollm2",
        )


CHECKS: tuple[Check, ...] = (
    attacker_knows_no_seed,
    attacks_have_their_prompts,
    capability_has_questions,
    required_attacks_run,
    required_attacks_are_strong,
    shared_weaknesses,
    fine_tuning_is_measured,
    sets_are_large_enough,
    probes_are_large_enough,
    attacked_weights_stay,
    steps_divide_among_processes,
    over_refusal_is_measured_on_new_prompts,
    look_alikes_are_there,
    prompts_are_of_the_model_s_world,
    too_few_to_pass,
)
