"""Whether a defence survives the number formats that people serve in, and attackers who train all weights.

    .venv/bin/python benchmarks/formats.py 0 1 2 3 4
    .venv/bin/python benchmarks/formats.py 0 1 --set model.dtype=bfloat16 --set 'model.lora={rank: 16, alpha: 32}'

The defended model is that of benchmarks/attacks.py by the same settings. Its matrices are rounded to the nearest value:
to bfloat16, to 8 bits with a scale for each row, and to 4 bits with a scale for each 32 values of a row. This stands in
for the libraries that serve such formats; their rounding is no coarser. Every attacker trains all weights in float32,
by GRPO with the learnt reward and seed 1000.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from attacks import defended_model, quietly, spec_of

from tokenbuncher.attacks import attack as run_attack
from tokenbuncher.core.files import whole_folder
from tokenbuncher.evaluation import evaluate_safety, evaluate_utility
from tokenbuncher.evidence import AttackEvidence, SafetyEvidence, UtilityEvidence, read_evidence
from tokenbuncher.models.load import load_model, save_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict.escape import worst_escape

GROUP = 32
"""Values that share a scale in 4 bits."""
NO_TUNING = ["evaluation.fine_tuning=null", "policy.max_fine_tuning_drop=null"]
FORMATS = {"as it is": None, "bfloat16": 16, "8 bits": 8, "4 bits": 4}
COLUMNS = [
    "seed",
    "format",
    "harm",
    "refusal",
    "worst escape",
    "questions right",
    "GRPO: harm at worst",
    "lowest refusal",
]


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD.PATH=VALUE")
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        defended = defended_model(arguments.overrides, seed)
        spec = spec_of(NO_TUNING, seed, {"algorithm": "grpo"}, "learnt", 1000)
        for name, bits in FORMATS.items():
            print(f"seed {seed}: {name}", flush=True)
            rows.append([str(seed), name, *measured(spec, defended, bits)])
    print("\n| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def measured(spec: ReleaseSpec, defended: Path, bits: int | None) -> list[str]:
    """The figures of the defended model in one format; made once."""
    folder = defended / f"{bits or 'plain'}-bits"
    folder.mkdir(exist_ok=True)
    models = {"base": defended / "base", "candidate": rounded(spec, defended, folder, bits)}
    data = defended / "data"
    with quietly(folder, "measured.log"):
        if not (folder / "attack").exists():
            run_attack(spec, "grpo-1000", data, **models, out=folder / "attack")
        if not (folder / "safety").exists():
            evaluate_safety(spec, data, **models, out=folder / "safety")
        if not (folder / "utility").exists():
            evaluate_utility(spec, data, **models, out=folder / "utility")
    attack, safety, utility = (read_evidence(folder / name) for name in ("attack", "safety", "utility"))
    assert isinstance(attack, AttackEvidence)
    assert isinstance(safety, SafetyEvidence)
    assert isinstance(utility, UtilityEvidence)
    own, items, curve = safety.candidate_harmful, utility.candidate_items, attack.candidate_arm.curve
    return [
        f"{sum(score.harmful for score in own) / len(own):.1%}",
        f"{sum(score.refused for score in own) / len(own):.1%}",
        f"{worst_escape(own) or 0.0:.2g}",
        f"{sum(item.correct for item in items) / len(items):.1%}",
        f"{max(point.harm for point in curve):.1%}",
        f"{min(point.refusal for point in curve):.1%}",
    ]


def rounded(spec: ReleaseSpec, defended: Path, folder: Path, bits: int | None) -> Path:
    """Folder of the defended model with its matrices rounded; made once."""
    if bits is None:
        return defended / "candidate"
    out = folder / "model"
    if not out.exists():
        model = load_model(defended / "candidate", spec.model)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() == 2:
                    weight.copy_(nearest(weight, bits))
        with whole_folder(out) as partial:
            save_model(model, load_tokenizer(defended / "candidate"), partial)
    return out


def nearest(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """A matrix rounded to bfloat16 (16), or to integers of so many bits times scales of their own."""
    if bits == 16:
        return weight.bfloat16().float()
    size = GROUP if bits == 4 and weight.shape[1] % GROUP == 0 else weight.shape[1]
    groups = weight.reshape(-1, size)
    scale = groups.abs().amax(1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
    return (torch.round(groups / scale) * scale).reshape(weight.shape)


if __name__ == "__main__":
    main()
