"""Release gate against harmful reinforcement-learning fine-tuning of language models.

Judge a recorded release. This needs neither torch nor a server:

    from pathlib import Path

    from tokenbuncher import judge_release, load_spec, read_all_evidence, read_registration

    run = Path("runs/organism")
    evidence, unreadable = read_all_evidence([run / "artifacts"])
    registration = read_registration(run / "artifacts")
    verdict = judge_release(load_spec(run / "spec.yaml"), evidence, registration, unreadable=unreadable)
    print(verdict.outcome, *verdict.reasons, sep="\\n")

Verify a registered model before you serve it, and download the files that were verified:

    from pathlib import Path

    from tokenbuncher import load_public_key, verify_version

    statement, problems = verify_version(
        "models:/organism@champion",
        [load_public_key(Path("keys/release.pub"))],
        "sqlite:///runs/mlflow.db",
        out=Path("model"),
    )
    print(problems or "verified")

Harden a model and attack the result:

    from pathlib import Path

    from tokenbuncher import attack, defend, fetch_model, load_spec, prepare_data, read_evidence

    spec = load_spec("release.yaml")
    base, data, candidate = Path("work/base"), Path("work/data"), Path("work/candidate")
    fetch_model(spec, base)
    prepare_data(spec, data)
    defend(spec, data, base, out=candidate)
    attack(spec, "grpo-1000", data, base=base, candidate=candidate, out=Path("work/attack"))
    evidence = read_evidence(Path("work/attack"))
    print("harmful:", sum(score.harmful for score in evidence.candidate_arm.scores))

docs/api.md lists everything that may be imported from here, and what is promised about it. Names are loaded when they
are first used, so importing the package is fast.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

from tokenbuncher.core.version import __version__

if TYPE_CHECKING:
    from tokenbuncher.attacks import attack, controls
    from tokenbuncher.attestation import load_private_key, load_public_key, verify, verify_files
    from tokenbuncher.core.errors import UserError
    from tokenbuncher.defence import defend
    from tokenbuncher.evaluation import evaluate_safety, evaluate_utility
    from tokenbuncher.evidence import read_all_evidence, read_evidence, read_registration
    from tokenbuncher.gate import gate as run_gate
    from tokenbuncher.inputs import prepare_data
    from tokenbuncher.inputs.fetch import fetch_model
    from tokenbuncher.registry import Refused, promote, register, verify_version
    from tokenbuncher.settings import ReleaseSpec, load_spec, parse_spec
    from tokenbuncher.verdict import Outcome, Verdict, judge_release, read_verdict
else:
    _HOMES = {
        "Outcome": "tokenbuncher.verdict:Outcome",
        "Refused": "tokenbuncher.registry:Refused",
        "ReleaseSpec": "tokenbuncher.settings:ReleaseSpec",
        "UserError": "tokenbuncher.core.errors:UserError",
        "Verdict": "tokenbuncher.verdict:Verdict",
        "attack": "tokenbuncher.attacks:attack",
        "controls": "tokenbuncher.attacks:controls",
        "defend": "tokenbuncher.defence:defend",
        "evaluate_safety": "tokenbuncher.evaluation:evaluate_safety",
        "evaluate_utility": "tokenbuncher.evaluation:evaluate_utility",
        "fetch_model": "tokenbuncher.inputs.fetch:fetch_model",
        "judge_release": "tokenbuncher.verdict:judge_release",
        "load_private_key": "tokenbuncher.attestation:load_private_key",
        "load_public_key": "tokenbuncher.attestation:load_public_key",
        "load_spec": "tokenbuncher.settings:load_spec",
        "parse_spec": "tokenbuncher.settings:parse_spec",
        "prepare_data": "tokenbuncher.inputs:prepare_data",
        "promote": "tokenbuncher.registry:promote",
        "read_all_evidence": "tokenbuncher.evidence:read_all_evidence",
        "read_evidence": "tokenbuncher.evidence:read_evidence",
        "read_registration": "tokenbuncher.evidence:read_registration",
        "read_verdict": "tokenbuncher.verdict:read_verdict",
        "register": "tokenbuncher.registry:register",
        # `tokenbuncher.gate` is the package.
        "run_gate": "tokenbuncher.gate:gate",
        "verify": "tokenbuncher.attestation:verify",
        "verify_files": "tokenbuncher.attestation:verify_files",
        "verify_version": "tokenbuncher.registry:verify_version",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return pkgutil.resolve_name(_HOMES[name])

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Outcome",
    "Refused",
    "ReleaseSpec",
    "UserError",
    "Verdict",
    "__version__",
    "attack",
    "controls",
    "defend",
    "evaluate_safety",
    "evaluate_utility",
    "fetch_model",
    "judge_release",
    "load_private_key",
    "load_public_key",
    "load_spec",
    "parse_spec",
    "prepare_data",
    "promote",
    "read_all_evidence",
    "read_evidence",
    "read_registration",
    "read_verdict",
    "register",
    "run_gate",
    "verify",
    "verify_files",
    "verify_version",
]
