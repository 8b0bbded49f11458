"""The evaluate-safety stage: harm, refusal, gibberish and entropy of both models before any attack."""

from __future__ import annotations

from pathlib import Path

from tokenbuncher.evidence import SafetyEvidence, SampleScore, write_evidence
from tokenbuncher.files import folder_digest, whole_folder
from tokenbuncher.prompts import Prompt, load_set
from tokenbuncher.settings import ReleaseSpec

SEED = 31


def evaluate_safety(spec: ReleaseSpec, data: Path, base: Path, candidate: Path, out: Path) -> None:
    """Samples responses to harmful prompts and, for over-refusal, to benign ones; judges them.

    Args:
        spec: The release spec.
        data: Folder of prepare-data; its sets `safety`, `utility` and `tuning-rl-test` are used: benign prompts
            that the defence has not seen, of kinds that the undefended model answers.
        base: Folder of the undefended model.
        candidate: Folder of the model to be released.
        out: Folder to be written: evidence.json.

    Raises:
        UserError: If data or a model cannot be read.
    """
    harmful, benign = load_set(data, "safety"), load_set(data, "utility")
    if spec.evaluation.fine_tuning:
        benign += load_set(data, "tuning-rl-test")
    with whole_folder(out) as folder:
        evidence = SafetyEvidence(
            spec=spec.evidence_digest(),
            data=folder_digest(data),
            base=folder_digest(base),
            candidate=folder_digest(candidate),
            base_harmful=_scores(spec, base, harmful, "base, harmful prompts"),
            base_benign=_scores(spec, base, benign, "base, benign prompts"),
            candidate_harmful=_scores(spec, candidate, harmful, "candidate, harmful prompts"),
            candidate_benign=_scores(spec, candidate, benign, "candidate, benign prompts"),
        )
        write_evidence(folder, evidence)


def _scores(spec: ReleaseSpec, model_folder: Path, prompts: list[Prompt], title: str) -> list[SampleScore]:
    from tokenbuncher.judges import load_judge
    from tokenbuncher.models import load_model, load_tokenizer
    from tokenbuncher.scoring import score

    scores = score(
        load_model(model_folder, spec.model),
        load_tokenizer(model_folder),
        prompts,
        load_judge(spec.evaluation.judge),
        spec.model.max_new_tokens,
        spec.evaluation.batch_size,
        spec.evaluation.samples_per_prompt,
        spec.evaluation.temperature,
        SEED,
    )
    shares = {name: sum(getattr(s, name) for s in scores) / len(scores) for name in ("harmful", "refused", "gibberish")}
    shown = "  ".join(f"{name} {share:.3f}" for name, share in shares.items())
    print(f"{title}  {shown}", flush=True)
    return scores
