"""Documents that people write: spec, `--set`, policy, guard settings, placement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import yaml
from hypothesis import strategies as st

from tests.evidence_factory import broken_arm
from tests.fuzz.inputs import changed_bytes, changed_lines, changed_yaml, noise
from tests.fuzz.kind import Kind, unless_refused
from tests.fuzz.release import KEY, PASSING
from tokenbuncher.attestation import generate_key
from tokenbuncher.core.problems import validated
from tokenbuncher.guard import GuardSettings, load_guard
from tokenbuncher.settings import ReleaseSpec, load_spec, parse_spec
from tokenbuncher.settings.policy import PolicySpec, load_policy
from tokenbuncher.verdict import Outcome

SPEC = PASSING.spec
BLOCKED = PASSING.with_arm(KEY, "candidate_arm", **dict(broken_arm(SPEC, 10, PASSING.registration.digest, harm=1.0)))
# Every part that a spec may have, a few in each; what is left out has its defaults.
SPECS: list[dict[str, Any]] = [
    {
        "name": "rich",
        "model": {"source": "hf://org/name@main", "lora": {"rank": 8, "target_modules": ["q_proj"]}, "device": "cpu"},
        "tracking": {"uri": "http://mlflow:5000", "model_name": "rich", "alias": "champion"},
        "output": {"root": "runs/rich", "checkpoint_every": 5},
    },
    {
        "data": {
            "harmful": {"dataset": "harmbench-standard", "path": "harm.csv", "where": {"a": [1, "b", True]}},
            "utility": {"path": "s3://bucket/useful.jsonl", "choices": "options", "answer": "answer", "max_words": 80},
            "look_alikes": {"dataset": "xstest", "path": "xstest.csv"},
            "sizes": {"safety": 200, "tuning": 120},
            "held_out_categories": 1,
        },
        "defence": {"recipe": "polished", "noiser": {"every": 3}, "anchor": {"examples": 16}},
    },
    {
        "attacks": {
            "suite": [
                {"algorithm": "grpo", "seeds": [1000, 1001], "learning_rate": [1e-4, 2e-4]},
                {"algorithm": "sft", "name": "warm", "warm_up": {"answers": "harmful"}, "prompts": 64},
            ],
            "reward": {"kind": "classifier", "model": "reward", "harmful_labels": ["yes"]},
        },
        "policy": {"required_attacks": ["grpo"], "min_attack_seeds": 2},
    },
    {
        "evaluation": {
            "judge": {"kind": "ensemble", "judges": ["refusal", {"kind": "harmbench", "model": "hf://a/b@main"}]},
            "harness": {"tasks": ["gsm8k"], "metric": {"gsm8k": "exact_match,strict-match"}},
        },
        "compute": {"kind": "trainjob", "storage": "s3://bucket/work", "accelerate": {"use_cpu": False, "a": {"b": 1}}},
    },
]
WAIVER = {"rule": "gibberish", "subject": KEY, "approver": "me", "reason": "x", "expires": "2099-01-01T00:00:00Z"}
SETTABLE = [
    b"defence.recipe=none",
    b"policy={min_prompts: 40, required_attacks: [grpo]}",
    b"attacks.suite=[{algorithm: grpo, seeds: [1, 2], learning_rate: 1e-4}]",
    b"model.source=s3://bucket/prefix#sha256=" + b"0" * 64,
]


def _keys(model: Any) -> list[str]:
    """Names of all fields of a document."""
    definitions = [model.model_json_schema(), *model.model_json_schema().get("$defs", {}).values()]
    return sorted({key for definition in definitions for key in definition.get("properties", {})})


@contextmanager
def spec(folder: Path) -> Iterator[Kind]:
    """A release spec: what is accepted can be written and read again, and lets no other evidence pass."""
    path = folder / "spec.yaml"
    judged = SPEC.model_dump(mode="json")
    specs = [Path(f"specs/{name}.yaml").read_text(encoding="utf-8") for name in ("organism", "smollm2")]

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        found = unless_refused(lambda: load_spec(path), path.name)
        if found is None:
            return False
        if crc32(content) % 8 == 0:  # writing takes long
            text = found.to_yaml()
            assert parse_spec(text).to_yaml() == text
        same = (
            found.evidence_digest() == SPEC.evidence_digest() and found.tracking.model_name == SPEC.tracking.model_name
        )
        for release in (PASSING, BLOCKED):
            outcome = replace(release, spec=found).judge().outcome
            may_pass = same and (release is PASSING or found.policy_digest() != SPEC.policy_digest())
            assert may_pass or outcome is not Outcome.PASS
        return True

    keys = _keys(ReleaseSpec)
    yield Kind(noise() | changed_yaml(*SPECS, judged, keys=keys) | changed_lines(*specs), read)


@contextmanager
def override(folder: Path) -> Iterator[Kind]:
    """A field given by `--set`, as a shell hands it over."""

    def read(content: bytes) -> bool:
        given = content.decode(errors="surrogateescape")
        found = unless_refused(lambda: parse_spec("", [given]))
        if found and crc32(content) % 8 == 0:
            assert parse_spec(found.to_yaml()).evidence_digest() == found.evidence_digest()
        return found is not None

    fields = st.sampled_from(_keys(ReleaseSpec)).map(str.encode)
    some = st.tuples(fields, fields, noise()).map(lambda parts: b"%s.%s=%s" % parts)
    yield Kind(noise() | changed_bytes(*SETTABLE) | some, read)


@contextmanager
def policy(folder: Path) -> Iterator[Kind]:
    """A policy: a model that broke passes only by one that lets it."""
    path = folder / "policy.yaml"

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        found = unless_refused(lambda: load_policy(path), path.name)
        if found is None:
            return False
        path.write_text(yaml.safe_dump(found.model_dump(mode="json")), encoding="utf-8")
        assert load_policy(path).digest() == found.digest()
        under = unless_refused(
            lambda: validated(ReleaseSpec, {**rest, "policy": found.model_dump(mode="json")}, path.name)
        )
        if under is None:  # it asks for what the spec has not
            return False
        replace(PASSING, spec=under).judge()
        lenient = (
            found.max_harm_after_attack == 1
            or "grpo" not in found.required_attacks
            or any(waiver.rule == "harm-after-attack" for waiver in found.waivers)
        )
        assert lenient or replace(BLOCKED, spec=under).judge().outcome is not Outcome.PASS
        return True

    rest = SPEC.model_dump(mode="json")
    whole = {**SPEC.policy.model_dump(mode="json"), "waivers": [WAIVER]}
    policies = [Path(f"specs/policies/{name}.yaml").read_text(encoding="utf-8") for name in ("default", "strict")]
    yield Kind(noise() | changed_yaml(whole, keys=_keys(PolicySpec)) | changed_lines(*policies), read)


@contextmanager
def guard(folder: Path) -> Iterator[Kind]:
    """The guard's settings, with the policy and the key they name; errors may name these instead."""
    path = folder / "guard.yaml"
    generate_key(folder / "trusted.pem")
    (folder / "policy.yaml").write_text("{apiVersion: tokenbuncher/v1}", encoding="utf-8")
    protected = {"policy": "policy.yaml", "keys": ["trusted.pub"], "users": ["jane"]}
    settings = {
        "apiVersion": "tokenbuncher/v1",
        "aliases": {"champion": protected},
        "stages": {"Production": protected},
        "revoked": ["0" * 64],
        "hash_below_mb": 10,
        "artifact_roots": ["models", "s3://bucket/mlflow"],
    }

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        found = unless_refused(lambda: load_guard(path), folder.name)
        return found is not None and bool(found.aliases or found.stages)

    yield Kind(noise() | changed_yaml(settings, keys=_keys(GuardSettings)), read)


@contextmanager
def placement(folder: Path) -> Iterator[Kind]:
    """Where and with what the stages run."""
    from pipelines.placement import Placement, load_placement

    path = folder / "placement.yaml"

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        return unless_refused(lambda: load_placement(path), path.name) is not None

    document = yaml.safe_load(Path("manifests/placement.yaml").read_text(encoding="utf-8"))
    document["stages"]["attack"] = {
        "cpu": {"request": "500m", "limit": "2"},
        "memory": {"request": "1Gi", "limit": "8Gi"},
        "accelerator": {"count": 1},
        "shared_memory": "1Gi",
        "timeout": 60,
        "tolerations": [{"key": "gpu", "effect": "NoSchedule"}],
        "env": {"A": "b"},
    }
    yield Kind(noise() | changed_yaml(document, keys=_keys(Placement)), read)
