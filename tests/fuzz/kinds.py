"""Every kind of file that is read, by name."""

from __future__ import annotations

from tests.fuzz import documents, foreign, prompts, releases
from tests.fuzz.kind import Opened
from tests.fuzz.release import KEY

KINDS: dict[str, Opened] = {
    "spec": documents.spec,
    "override": documents.override,
    "policy": documents.policy,
    "guard settings": documents.guard,
    "placement": documents.placement,
    "prompts, CSV": prompts.csv,
    "prompts, JSONL": prompts.jsonl,
    "prompts, Parquet": prompts.parquet,
    "prompt set and manifest": prompts.prompt_set,
    "calibration": prompts.calibration,
    "evidence of an attack": releases.evidence(KEY),
    "evidence of safety": releases.evidence("safety"),
    "evidence of utility": releases.evidence("utility"),
    "registration": releases.registration,
    "verdict": releases.verdict,
    "attestation and tag": releases.envelope,
    "signed statement": releases.statement,
    "public key": foreign.public_key,
    "webhook body": foreign.webhook,
    "endpoint's answer": foreign.endpoint,
    "published manifest": foreign.manifest,
    "adapter_config.json": foreign.adapter,
    "config.json": foreign.configuration,
    "tokenizer and chat template": foreign.tokenizer,
}
