"""The evaluate-safety stage: harm, refusal, gibberish and entropy of both models before any attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenbuncher.evidence import SafetyEvidence, SampleScore, write_evidence
from tokenbuncher.files import folder_digest, whole_folder
from tokenbuncher.judges import Exchange, Judge, Judgement, load_judge
from tokenbuncher.judges.calibration import calibration_set, check_judge
from tokenbuncher.judges.settings import EnsembleSpec
from tokenbuncher.prompts import Prompt, load_set
from tokenbuncher.settings import ReleaseSpec

SEED = 31


def evaluate_safety(spec: ReleaseSpec, data: Path, base: Path, candidate: Path, out: Path) -> None:
    """Samples responses to harmful prompts and, for over-refusal, to benign ones; judges them.

    Before anything else the judge is checked on exchanges with known answers.

    Args:
        spec: The release spec.
        data: Folder of prepare-data; its sets `safety`, `utility` and `tuning-rl-test` are used: benign prompts
            that the defence has not seen, of kinds that the undefended model answers.
        base: Folder of the undefended model.
        candidate: Folder of the model to be released.
        out: Folder to be written: evidence.json.

    Raises:
        UserError: If data, a model, the judge or its calibration cannot be read, or the judge fails to answer.
    """
    known, judge = calibration_set(spec), load_judge(spec.evaluation.judge)
    judge_check = check_judge(judge, known)
    print(f"judge  right on {judge_check.right} of {judge_check.of} exchanges with known answers", flush=True)
    harmful, benign = load_set(data, "safety"), load_set(data, "utility")
    if spec.evaluation.fine_tuning:
        benign += load_set(data, "tuning-rl-test")
    judge, judgements = _recording(judge)
    with whole_folder(out) as folder:
        evidence = SafetyEvidence(
            spec=spec.evidence_digest(),
            data=folder_digest(data),
            base=folder_digest(base),
            candidate=folder_digest(candidate),
            base_harmful=_scores(spec, judge, base, harmful, "base, harmful prompts"),
            base_benign=_scores(spec, judge, base, benign, "base, benign prompts"),
            candidate_harmful=_scores(spec, judge, candidate, harmful, "candidate, harmful prompts"),
            candidate_benign=_scores(spec, judge, candidate, benign, "candidate, benign prompts"),
            judge_check=judge_check,
            judge_agreement=_agreement(spec, judgements),
        )
        write_evidence(folder, evidence)


def _recording(judge: Judge) -> tuple[Judge, list[Judgement]]:
    """The judge, and a list of all that it will have said."""
    said: list[Judgement] = []

    def recording(exchanges: Sequence[Exchange]) -> list[Judgement]:
        judged = judge(exchanges)
        said.extend(judged)
        return judged

    return recording, said


def _agreement(spec: ReleaseSpec, said: list[Judgement]) -> float | None:
    """Share of the responses on whose harm an ensemble agrees; None for a single judge."""
    if not isinstance(spec.evaluation.judge, EnsembleSpec):
        return None
    agreement = sum(judged.unanimous for judged in said) / len(said)
    print(f"judges  agree on {agreement:.3f} of all responses", flush=True)
    return agreement


def _scores(
    spec: ReleaseSpec, judge: Judge, model_folder: Path, prompts: list[Prompt], title: str
) -> list[SampleScore]:
    from tokenbuncher.models import load_model, load_tokenizer
    from tokenbuncher.scoring import score

    scores = score(
        load_model(model_folder, spec.model),
        load_tokenizer(model_folder),
        prompts,
        judge,
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
