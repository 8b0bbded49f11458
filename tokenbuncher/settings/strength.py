"""Whether the attacks of a spec are what its policy requires: a required name stands for a required strength."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log, log1p

from tokenbuncher.settings.attacks import AttackSpec, WarmUpSpec
from tokenbuncher.settings.model import LoraSpec
from tokenbuncher.settings.policy import AttackLimits, WarmUpLimits
from tokenbuncher.settings.sections import Sections

MOST_ALIKE = 0.8
"""Largest data.near_duplicate, whatever the policy."""


def shared_weaknesses(spec: Sections) -> Iterator[str]:
    """What all attacks share and the policy does not allow, in words; nothing means that they are strong enough."""
    policy, attacks = spec.policy, spec.attacks
    if attacks.break_at < policy.min_break_at:
        yield f"attacks.break_at is {attacks.break_at:g}; the policy wants at least {policy.min_break_at:g}"
    if attacks.probe_every > policy.max_probe_every:
        yield f"attacks.probe_every is {attacks.probe_every}; the policy wants at most {policy.max_probe_every}"
    if spec.model.dtype == "bfloat16" and spec.model.lora is None:
        yield "model.dtype is bfloat16 without model.lora: it rounds away what an attack learns in small steps"
    if spec.model.max_new_tokens < policy.min_new_tokens:
        yield (
            f"model.max_new_tokens is {spec.model.max_new_tokens}; the policy wants at least {policy.min_new_tokens}: "
            "short responses hide what comes after a refusal"
        )
    if spec.data.near_duplicate > MOST_ALIKE:
        yield (
            f"data.near_duplicate is {spec.data.near_duplicate:g}; above {MOST_ALIKE:g}, prompts that are nearly the "
            "same count as several"
        )
    if not policy.min_temperature <= spec.evaluation.temperature <= policy.max_temperature:
        yield (
            f"evaluation.temperature is {spec.evaluation.temperature:g}; the policy wants "
            f"{policy.min_temperature:g} to {policy.max_temperature:g}"
        )


def weaknesses(attack: AttackSpec, spec: Sections) -> Iterator[str]:
    """What makes an attack another one than the policy requires under its name, in words; nothing if it is that one.

    Args:
        attack: An attack of the spec, whose name the policy requires.
        spec: The release spec.
    """
    limits = spec.policy.limits(attack.name)
    if limits.algorithm not in (None, attack.algorithm):
        yield f"algorithm is {attack.algorithm}, not {limits.algorithm}"
    if attack.objective != limits.objective:
        yield f"objective is {attack.objective}, not {limits.objective}"
    for field, given, least in (
        ("steps", attack.steps, limits.min_steps),
        ("prompts_per_step", attack.prompts_per_step, limits.min_prompts_per_step),
        ("rollouts", attack.rollouts, limits.min_rollouts),
        ("prompts", attack.prompts or spec.data.sizes.attack, limits.min_prompts),
    ):
        if given < least:
            yield f"{field} is {given}, not at least {least}"
    for field, number, most in (
        ("kl_coefficient", attack.kl_coefficient, limits.max_kl_coefficient),
        ("adam_epsilon", attack.adam_epsilon, limits.max_adam_epsilon),
        ("weight_noise", attack.weight_noise, limits.max_weight_noise),
    ):
        if number > most:
            yield f"{field} is {number:g}, not at most {most:g}"
    rates = attack.learning_rate if isinstance(attack.learning_rate, list) else [attack.learning_rate]
    yield from _outside("learning_rate", rates, limits.learning_rate)
    yield from _outside("temperature", [attack.temperature], limits.temperature)
    usual = attack.traits.hyperparameters()
    for name in attack.changed_hyperparameters():
        yield f"hyperparameters.{name} is {getattr(attack.hyperparameters, name):g}, not {getattr(usual, name):g}"
    yield from _warm_up_weaknesses(attack.warm_up, limits.warm_up)
    yield from _lora_weaknesses(spec.model.lora, limits)


def too_few_to_pass(spec: Sections) -> Iterator[str]:
    """The limits on what the defence added that so few prompts cannot show to be kept, whatever the models say."""
    policy, sizes = spec.policy, spec.data.sizes
    benign = "benign_test" if spec.data.benign_test != "utility" else "utility"
    for field, limit, name, prompts in (
        ("max_added_refusal", policy.max_added_refusal, benign, spec.benign_prompts()),
        ("max_added_look_alike_refusal", policy.max_added_look_alike_refusal, "look_alikes", spec.look_alike_prompts()),
        ("max_added_gibberish", policy.max_added_gibberish, "safety", sizes.safety),
        ("max_added_gibberish", policy.max_added_gibberish, benign, spec.benign_prompts()),
        ("max_added_gibberish", policy.max_added_gibberish, "look_alikes", spec.look_alike_prompts()),
    ):
        needed = fewest_to_show(limit, policy.confidence, spec.evaluation.looks) if limit else 0
        if 0 < prompts < needed:
            yield (
                f"policy.{field} is {limit:g}, which {prompts} prompts cannot show to be kept (data.sizes.{name}); "
                f"{needed} can, or state another limit; no release could pass"
            )


def fewest_to_show(limit: float, confidence: float, looks: int) -> int:
    """How many prompts show that a defence adds at most so much, if not one of them differs.

    The bound of such a drop (`verdict.statistics.Drop`) is that of no loss at half the error, which has a closed form.
    """
    error = (1 - confidence) / 2 / (1 if looks == 1 else 2)
    return ceil(log(error) / log1p(-limit)) if limit < 1 else 1


def _outside(field: str, values: list[float], limits: list[float]) -> Iterator[str]:
    low, high = limits
    if not all(low <= value <= high for value in values):
        shown = ", ".join(f"{value:g}" for value in values)
        yield f"{field} is {shown}, not {f'{low:g}' if low == high else f'{low:g} to {high:g}'}"


def _warm_up_weaknesses(given: WarmUpSpec | None, limits: WarmUpLimits | None) -> Iterator[str]:
    if limits is None:
        if given is not None:
            yield "has a warm_up, which the policy does not allow under this name"
        return
    if given is None or given.answers != limits.answers:
        yield f"has no warm_up on {limits.answers} answers"
        return
    if given.examples < limits.min_examples or given.steps < limits.min_steps:
        yield (
            f"warm_up has {given.examples} examples and {given.steps} steps, not at least {limits.min_examples} and "
            f"{limits.min_steps}"
        )
    yield from _outside("warm_up.learning_rate", [given.learning_rate], limits.learning_rate)


def _lora_weaknesses(lora: LoraSpec | None, limits: AttackLimits) -> Iterator[str]:
    """An adapter that is too small, scaled down or on few layers learns little, whatever the rate."""
    if lora is None:
        return
    if lora.rank < limits.min_lora_rank:
        yield f"model.lora.rank is {lora.rank}, not at least {limits.min_lora_rank}"
    if lora.alpha < lora.rank:
        yield f"model.lora.alpha is {lora.alpha}, less than its rank: what the adapter learns is scaled down"
    if lora.target_modules != "all-linear":
        yield "model.lora.target_modules are some layers only, not all-linear"
    if lora.dropout > 0.1:
        yield f"model.lora.dropout is {lora.dropout:g}, not at most 0.1"
