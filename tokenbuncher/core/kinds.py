"""Kinds of documents, by their fields: one that is given in the place of another is recognised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tokenbuncher.core.documents import shortened
from tokenbuncher.core.fields import Strict

KINDS: dict[str, tuple[str, str]] = {
    "a release spec": (
        "model|data|defence|attacks|evaluation|policy|tracking|output|compute",
        "it belongs to --spec; a policy is its part `policy`, in a file of its own with apiVersion: tokenbuncher/v1",
    ),
    "a policy": (
        "(min|max)_.*|confidence|required_attacks|attack_limits|named_attacks|valid_days|waivers",
        "give it by --policy, or as the part `policy` of a release spec",
    ),
    "the settings of a guard": (
        "aliases|revoked|revoked_attestations|not_before|hash_below_mb|max_checks|artifact_roots",
        "give it by --guard, or name it in TOKENBUNCHER_GUARD",
    ),
    "a placement": ("images|all|quarantine|parallelism", "give it by --placement"),
    "a configuration of accelerate": (
        "compute_environment|distributed_type|fsdp_config|deepspeed_config|num_processes|num_machines|machine_rank|"
        "mixed_precision|main_training_function|rdzv_backend|same_network|use_cpu|downcast_bf16|debug",
        "name it in compute.accelerate of a release spec",
    ),
    "a compiled pipeline": (
        "pipelineInfo|deploymentSpec|sdkVersion|schemaVersion|components|root|platforms",
        "it is for Kubeflow; give the document that it was made for",
    ),
    "a registration": ("name|version|digest|files|tracking_uri|tries", "give it by --registration"),
    "a verdict": ("outcome|findings|reasons|waived|headline|tool_version", "give it by --verdict"),
    "an attestation": ("payload|payloadType|signatures", "see `tokenbuncher verify`"),
    "the evidence of a stage": (
        "kind|spec|base|candidate|versions|created|key|attack|seed|control_arm|candidate_arm|harm|judge_check",
        "give it by --evidence",
    ),
    "the configuration of a model": (
        "architectures|model_type|torch_dtype|vocab_size|hidden_size|transformers_version",
        "name the folder it is in as model.source of a release spec",
    ),
}
"""By kind of document: its own fields, as a pattern, and where it belongs."""


def other_kind(model: type[Strict], document: Mapping[str, Any]) -> str:
    """The document's kind and where it belongs, if it is not of the wanted kind; else an empty text."""
    unknown = [str(key) for key in document if key not in model.model_fields]
    if isinstance(document.get("kind"), str) and {"apiVersion", "metadata"} & document.keys():
        return f"a Kubernetes manifest ({shortened(document['kind'])}); give the document that belongs here"
    for name, (own, belongs) in KINDS.items():
        is_wanted = 2 * _count(own, model.model_fields) >= len(model.model_fields)
        if unknown and not is_wanted and 2 * _count(own, unknown) >= len(document):
            return f"{name}; {belongs}"
    return ""


def _count(pattern: str, names: Iterable[str]) -> int:
    return sum(bool(re.fullmatch(pattern, name)) for name in names)
