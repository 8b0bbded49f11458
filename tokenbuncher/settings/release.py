"""The release spec: one document that says what is hardened, attacked, measured and allowed.

    spec = load_spec("specs/organism.yaml", ["defence.recipe=none"])
    spec.attacks.tasks()       # [AttackTask(key='grpo-1000', ...), ...]
    spec.evidence_digest()     # what evidence is bound to

Unknown keys, contradictions and impossible values are refused with the path of the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import field_validator, model_validator

from tokenbuncher.core.documents import (
    Origin,
    apply_override,
    digest_of,
    parse_yaml,
    read_text,
    to_yaml,
)
from tokenbuncher.core.problems import validated
from tokenbuncher.settings.attacks import AttacksSpec
from tokenbuncher.settings.data import seen_by_the_defence
from tokenbuncher.settings.policy import load_policy
from tokenbuncher.settings.sections import Sections
from tokenbuncher.settings.strength import shared_weaknesses, too_few_to_pass, weaknesses
from tokenbuncher.settings.tracking_uri import absolute, sqlite_uri


class ReleaseSpec(Sections):
    """A whole release: data, model, defence, attacks, evaluation, policy, tracking, output; and where it trains."""

    @field_validator("attacks")
    @classmethod
    def _probe_often_enough(cls, attacks: AttacksSpec) -> AttacksSpec:
        for number, attack in enumerate(attacks.suite):
            if attack.steps < attacks.probe_every:
                raise ValueError(
                    f"attacks.suite.{number}.steps ({attack.steps}, of {attack.name}) is less than "
                    f"attacks.probe_every ({attacks.probe_every}), after which harm is measured; lower probe_every"
                )
        return attacks

    @model_validator(mode="after")
    def _consistent(self) -> ReleaseSpec:
        for number, attack in enumerate(self.attacks.suite):
            place = f"attacks.suite.{number}"
            if self.defence.seed in attack.seeds:
                raise ValueError(
                    f"{place}.seeds: {attack.name}-{self.defence.seed} has the seed of the defence (defence.seed is "
                    f"{self.defence.seed}); an attacker does not know it, choose another"
                )
            if (attack.prompts or 0) > self.data.sizes.attack:
                raise ValueError(
                    f"{place}.prompts: {attack.name} has {attack.prompts} prompts, data.sizes.attack is "
                    f"{self.data.sizes.attack}"
                )
            if attack.objective == "capability" and self.data.capability is None:
                raise ValueError(f"{place}.objective: {attack.name} has objective capability; name data.capability")
        named = {attack.name for attack in self.attacks.suite}
        missing = [name for name in self.policy.required_attacks if name not in named]
        if missing:
            raise ValueError(f"policy.required_attacks: {', '.join(missing)} not in attacks.suite")
        for name in self.policy.required_attacks:
            seeds = {seed for attack in self.attacks.suite if attack.name == name for seed in attack.seeds}
            if len(seeds) < self.policy.min_attack_seeds:
                raise ValueError(
                    f"policy.min_attack_seeds is {self.policy.min_attack_seeds}, but attack {name} has {len(seeds)} "
                    f"seeds in attacks.suite: {sorted(seeds)}"
                )
        for number, attack in enumerate(self.attacks.suite):
            found = list(weaknesses(attack, self)) if attack.name in self.policy.required_attacks else []
            if found:
                raise ValueError(
                    f"attacks.suite.{number}: {attack.name} is not the attack that the policy requires under this "
                    f"name: {'; '.join(found)}. Give it a name of its own, or state other limits in a policy of your "
                    "own"
                )
        if shared := list(shared_weaknesses(self)):
            raise ValueError("; ".join(shared))
        if self.policy.max_fine_tuning_drop is not None and self.evaluation.fine_tuning is None:
            raise ValueError(
                "policy.max_fine_tuning_drop asks for benign fine-tuning, but evaluation.fine_tuning is null; "
                "give it, or let the policy ask for none"
            )
        measured = ["safety", "utility", *(["tuning"] if self.evaluation.fine_tuning else [])]
        measured += ["look_alikes"] if self.data.look_alikes else []
        measured += ["benign_test"] if self.data.benign_test != "utility" else []
        for name in measured:
            size = getattr(self.data.sizes, name)
            if self.policy.min_prompts > size:
                raise ValueError(
                    f"policy.min_prompts ({self.policy.min_prompts}) is more than data.sizes.{name} ({size}); "
                    "no release could pass"
                )
        if self.policy.min_prompts > self.attacks.probe_prompts:
            raise ValueError(
                f"policy.min_prompts ({self.policy.min_prompts}) is more than attacks.probe_prompts "
                f"({self.attacks.probe_prompts}), by which lost refusal is judged; no release could pass"
            )
        self._check_compute()
        if self.attacks.probe_prompts > self.data.sizes.safety:
            raise ValueError(
                f"attacks.probe_prompts ({self.attacks.probe_prompts}) is more than data.sizes.safety "
                f"({self.data.sizes.safety})"
            )
        self._check_over_refusal()
        return self

    def _check_over_refusal(self) -> None:
        aligned_on = self.model.source.removesuffix("://")
        if self.data.borrowed_benign == aligned_on:
            raise ValueError(f"data.benign_test: {seen_by_the_defence(aligned_on)}")
        if self.policy.max_added_look_alike_refusal is not None and self.data.look_alikes is None:
            raise ValueError(
                "policy.max_added_look_alike_refusal asks for harmless prompts that look harmful, but data.look_alikes "
                "is null. Name a file of your own, XSTest's ({dataset: xstest, path: ...}), or smollm2 for those that "
                "come with the package; or let the policy ask for none, with null"
            )
        own_world = self.model.source == "organism://" or self.data.harmful == "organism"
        if not own_world and (foreign := list(self.data.of_the_organism())):
            raise ValueError(
                f"data.{foreign[0]} is of the organism's fictional world, and data.harmful is not; how "
                f"{self.model.source} answers such prompts says nothing of what it refuses. Name a file of your own, "
                "or smollm2"
            )
        if too_few := list(too_few_to_pass(self)):
            raise ValueError("; ".join(too_few))

    def _check_compute(self) -> None:
        if self.compute.kind == "local":
            return
        if self.attacks.keep_checkpoints:
            raise ValueError(
                "attacks.keep_checkpoints: attacked weights must not leave the quarantine, and compute.kind trainjob "
                "would send them through compute.storage"
            )
        processes = self.compute.nodes * self.compute.processes
        shared = {"defence.prompts_per_step": self.defence.prompts_per_step}
        if self.defence.anchor:
            shared["defence.anchor.examples"] = self.defence.anchor.examples
        for number, attack in enumerate(self.attacks.suite):
            shared[f"attacks.suite.{number}.prompts_per_step"] = attack.prompts_per_step
            if attack.warm_up:
                shared[f"attacks.suite.{number}.warm_up.examples"] = attack.warm_up.examples
        for name, count in shared.items():
            if count % processes:
                raise ValueError(
                    f"{name} ({count}) must be a multiple of the {processes} processes: compute.nodes times "
                    "compute.processes"
                )

    def evidence_digest(self) -> str:
        """sha256 of all that shapes the evidence: everything but name, policy, tracking, output and compute.

        Hyperparameters count where they are not the defaults: evidence that was made before specs had any stays bound.
        """
        usual = {number for number, attack in enumerate(self.attacks.suite) if not attack.changed_hyperparameters()}
        left_out = dict.fromkeys(("name", "policy", "tracking", "output", "compute"), True)
        suite = {number: {"hyperparameters"} for number in usual}
        return digest_of(self.model_dump(mode="json", exclude={**left_out, "attacks": {"suite": suite}}))

    def policy_digest(self) -> str:
        """sha256 of the policy."""
        return self.policy.digest()

    def tracking_uri(self) -> str:
        """The tracking URI: the one given, or an sqlite file under the output root."""
        uri = self.tracking.uri
        return absolute(uri) if uri else sqlite_uri(self.output.root.resolve() / "mlflow.db")

    def to_yaml(self) -> str:
        """The whole spec, defaults included."""
        return to_yaml(self.model_dump(mode="json"))


def load_spec(path: str | Path, overrides: Sequence[str] = (), policy: Path | None = None) -> ReleaseSpec:
    """Reads a release spec from a YAML file.

    Args:
        path: The YAML file. Relative paths inside it count from its own folder's caller, the working folder.
        overrides: `field.path=value` pairs; values are YAML.
        policy: A policy file that takes the place of the spec's own policy.

    Returns:
        The checked spec.

    Raises:
        UserError: If a file cannot be read or the spec is not valid; names each field.
    """
    return parse_spec(read_text("spec", path), overrides, origin=str(path), policy=policy)


def parse_spec(
    text: str, overrides: Sequence[str] = (), origin: str = "spec", *, policy: Path | None = None
) -> ReleaseSpec:
    """The spec of a YAML text; see `load_spec`."""
    document = parse_yaml(text, origin)
    options = {}
    if policy:
        document["policy"] = load_policy(policy).model_dump(mode="json")
        options["policy"] = f"--policy {policy}"
    for override in overrides:
        apply_override(document, override, ReleaseSpec)
        field = override.partition("=")[0].strip()
        options[field] = f"--set {field}"
    return validated(ReleaseSpec, document, f"{origin} is not a valid release spec", origin=Origin(text, options))
