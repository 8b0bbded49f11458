"""The release spec: one document that says what is hardened, attacked, measured and allowed.

    spec = load_spec("specs/organism.yaml", ["defence.recipe=none"])
    spec.attacks.tasks()       # [AttackTask(key='grpo-1000', ...), ...]
    spec.evidence_digest()     # what evidence is bound to

Unknown keys, impossible values and contradictions are refused, all at once and each with its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenbuncher.core.documents import Origin, digest_of, parse_yaml, read_text, to_yaml
from tokenbuncher.core.fields import Contradiction
from tokenbuncher.core.overrides import apply_override
from tokenbuncher.core.problems import validated
from tokenbuncher.settings.consistency import CHECKS
from tokenbuncher.settings.policy import load_policy
from tokenbuncher.settings.sections import Sections
from tokenbuncher.settings.tracking_uri import absolute, sqlite_uri


class ReleaseSpec(Sections):
    """A whole release: data, model, defence, attacks, evaluation, policy, tracking, output; and where it trains."""

    def checks(self) -> Iterable[Iterator[Contradiction]]:
        """What is compared across sections."""
        return (check(self) for check in CHECKS)

    def evidence_digest(self) -> str:
        """sha256 of all that shapes the evidence: everything but name, policy, tracking, output and compute.

        Hyperparameters and mixed precision count where they are not the defaults: evidence that was made before specs
        had any stays bound.
        """
        usual = [number for number, attack in enumerate(self.attacks.suite) if not attack.changed_hyperparameters()]
        left_out = dict.fromkeys(("name", "policy", "tracking", "output", "compute"), True)
        attacks = {"suite": {number: {"hyperparameters"} for number in usual}}
        model = set() if self.model.mixed_precision else {"mixed_precision"}
        return digest_of(self.model_dump(mode="json", exclude={**left_out, "attacks": attacks, "model": model}))

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
        path: The YAML file. Relative paths inside it count from the working folder.
        overrides: Fields to change, as `field.path=value`. Values are YAML.
        policy: A policy file that replaces the policy of the spec.

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
