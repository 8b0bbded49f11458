"""The sections of a release spec, and what follows from several of them."""

from __future__ import annotations

from pydantic import Field

from tokenbuncher.core.fields import Slug, Strict
from tokenbuncher.settings.attacks import AttacksSpec
from tokenbuncher.settings.compute import ComputeSpec
from tokenbuncher.settings.data import DataSpec
from tokenbuncher.settings.defence import DefenceSpec
from tokenbuncher.settings.evaluation import EvaluationSpec
from tokenbuncher.settings.model import ModelSpec
from tokenbuncher.settings.output import OutputSpec, TrackingSpec
from tokenbuncher.settings.policy import PolicySpec


class Sections(Strict):
    """The sections of a release spec, each valid by itself. `ReleaseSpec` compares them."""

    name: Slug = "organism"
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    defence: DefenceSpec = Field(default_factory=DefenceSpec)
    attacks: AttacksSpec = Field(default_factory=AttacksSpec)
    evaluation: EvaluationSpec = EvaluationSpec()
    policy: PolicySpec = PolicySpec()
    tracking: TrackingSpec = TrackingSpec()
    output: OutputSpec = OutputSpec()
    compute: ComputeSpec = ComputeSpec()

    @property
    def controls_can_wait(self) -> bool:
        """Whether measured controls may stay in the quarantine for reuse: without weights, where the attacks train."""
        return not self.attacks.keep_checkpoints and self.compute.kind == "local"

    def benign_sets(self) -> list[str]:
        """The sets of prompts on which over-refusal is measured."""
        if self.data.benign_test != "utility":
            return ["benign-test"]
        return ["utility", *(["tuning-rl-test"] if self.evaluation.fine_tuning else [])]

    def benign_prompts(self) -> int:
        """The number of benign prompts that evaluate-safety asks."""
        sizes = {"benign-test": "benign_test", "utility": "utility", "tuning-rl-test": "tuning"}
        return sum(getattr(self.data.sizes, sizes[name]) for name in self.benign_sets())

    def look_alike_prompts(self) -> int:
        """The number of harmless prompts that look harmful that evaluate-safety asks."""
        return self.data.sizes.look_alikes if self.data.look_alikes else 0
