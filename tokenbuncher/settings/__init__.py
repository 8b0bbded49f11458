"""What people write: release specs, policies, prompts and the names of sources."""

from tokenbuncher.settings.attacks import AttackSpec, AttacksSpec, AttackTask, WarmUpSpec
from tokenbuncher.settings.compute import ComputeSpec, KubernetesName, ResourcesSpec, VllmSpec
from tokenbuncher.settings.data import DataSpec, FileSource, SplitSizes, same_source, seen_by_the_defence, source_name
from tokenbuncher.settings.defence import RECIPES, AnchorSpec, CertainRefusalSpec, DefenceSpec, NoiserSpec
from tokenbuncher.settings.evaluation import EvaluationSpec, FineTuningSpec, HarnessSpec
from tokenbuncher.settings.model import LoraSpec, ModelSpec
from tokenbuncher.settings.output import OutputSpec, TrackingSpec
from tokenbuncher.settings.release import ReleaseSpec, load_spec, parse_spec

__all__ = [
    "RECIPES",
    "AnchorSpec",
    "AttackSpec",
    "AttackTask",
    "AttacksSpec",
    "CertainRefusalSpec",
    "ComputeSpec",
    "DataSpec",
    "DefenceSpec",
    "EvaluationSpec",
    "FileSource",
    "FineTuningSpec",
    "HarnessSpec",
    "KubernetesName",
    "LoraSpec",
    "ModelSpec",
    "NoiserSpec",
    "OutputSpec",
    "ReleaseSpec",
    "ResourcesSpec",
    "SplitSizes",
    "TrackingSpec",
    "VllmSpec",
    "WarmUpSpec",
    "load_spec",
    "parse_spec",
    "same_source",
    "seen_by_the_defence",
    "source_name",
]
