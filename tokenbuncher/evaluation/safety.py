"""The evaluate-safety stage: harm, refusal, gibberish and entropy of both models before any attack."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tokenbuncher.checkpoint import stored_formats
from tokenbuncher.environment import installed_versions
from tokenbuncher.evidence import ModelReading, SafetyEvidence, SampleScore, write_evidence
from tokenbuncher.files import check_output, folder_digest, whole_folder
from tokenbuncher.judges import Exchange, Judge, Judgement, load_judge
from tokenbuncher.judges.calibration import calibration_set, check_judge
from tokenbuncher.judges.settings import EnsembleSpec
from tokenbuncher.lengths import check_lengths
from tokenbuncher.looks import parts, sampling_seed
from tokenbuncher.prompts import Prompt, load_manifest, load_set
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.templates import DAY, PIN
from tokenbuncher.verdict.claims import Claim, settled
from tokenbuncher.verdict.rules import benign_claims, harmful_claims

SEED = 31


def evaluate_safety(spec: ReleaseSpec, data: Path, base: Path, candidate: Path, out: Path) -> None:
    """Samples responses to harmful prompts and, for over-refusal, to benign ones; judges them.

    Before anything else the judge is checked on exchanges with known answers. The candidate is asked until the rules on
    its responses are settled; the undefended model, on which there are none, is asked the same prompts.

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
    check_output(out)
    check_lengths(spec, data, base)
    known, judge = calibration_set(spec), load_judge(spec.evaluation.judge)
    judge_check = check_judge(judge, known)
    print(f"judge  right on {judge_check.right} of {judge_check.of} exchanges with known answers", flush=True)
    harmful, benign = load_set(data, "safety"), load_set(data, "utility")
    if spec.evaluation.fine_tuning:
        benign += load_set(data, "tuning-rl-test")
    judge, judgements = _recording(judge)
    looks, seed = spec.evaluation.looks, spec.data.seed
    with whole_folder(out) as folder:
        score = partial(_scores, spec, judge)
        candidate_harmful = score(candidate, parts(harmful, looks, seed), "candidate, harmful prompts", harmful_claims)
        base_harmful = score(base, [_asked(harmful, candidate_harmful)], "base, harmful prompts")
        candidate_benign = score(candidate, parts(benign, looks, seed), "candidate, benign prompts", benign_claims)
        base_benign = score(base, [_asked(benign, candidate_benign)], "base, benign prompts")
        evidence = SafetyEvidence(
            spec=spec.evidence_digest(),
            data=folder_digest(data),
            base=folder_digest(base),
            candidate=folder_digest(candidate),
            versions=installed_versions(),
            manifest=load_manifest(data),
            base_reading=_reading(base, spec),
            candidate_reading=_reading(candidate, spec),
            base_harmful=base_harmful,
            base_benign=base_benign,
            candidate_harmful=candidate_harmful,
            candidate_benign=candidate_benign,
            judge_check=judge_check,
            judge_agreement=_agreement(spec, judgements),
        )
        write_evidence(folder, evidence)
    harm, refusal = _share(candidate_harmful, "harmful"), _share(candidate_benign, "refused")
    print(
        f"candidate  harm {harm:.3f} on {len(_prompts(candidate_harmful))} of {len(harmful)} harmful prompts, "
        f"refusal {refusal:.3f} on {len(_prompts(candidate_benign))} of {len(benign)} benign prompts",
        flush=True,
    )


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
    spec: ReleaseSpec,
    judge: Judge,
    model_folder: Path,
    looks: list[list[Prompt]],
    title: str,
    claims: Callable[[ReleaseSpec, list[SampleScore]], list[Claim]] = lambda *_: [],
) -> list[SampleScore]:
    """The model's scores, look by look until the claims on them are settled."""
    from tokenbuncher.models import load_model, load_tokenizer
    from tokenbuncher.scoring import score

    model, tokenizer = load_model(model_folder, spec.model), load_tokenizer(model_folder)
    scores: list[SampleScore] = []
    for look, prompts in enumerate(looks):
        scores += score(
            model,
            tokenizer,
            prompts,
            judge,
            spec.model.max_new_tokens,
            spec.evaluation.batch_size,
            spec.evaluation.samples_per_prompt,
            spec.evaluation.temperature,
            sampling_seed(SEED, look),
            title,
        )
        if settled(claims(spec, scores)):
            break
    shown = "  ".join(f"{what} {_share(scores, what):.3f}" for what in ("harmful", "refused", "gibberish"))
    print(f"{title}  {shown}", flush=True)
    return scores


def _reading(folder: Path, spec: ReleaseSpec) -> ModelReading:
    from tokenbuncher.models import chat_template, load_tokenizer

    template = chat_template(load_tokenizer(folder))
    return ModelReading(
        template=hashlib.sha256(template.encode()).hexdigest(),
        day=f"{DAY:%Y-%m-%d}" if template.startswith(PIN) else None,
        stored=stored_formats(folder),
        measured=spec.model.dtype,
    )


def _share(scores: list[SampleScore], what: str) -> float:
    return sum(getattr(score, what) for score in scores) / len(scores)


def _prompts(scores: list[SampleScore]) -> set[str]:
    return {score.prompt for score in scores}


def _asked(prompts: list[Prompt], scores: list[SampleScore]) -> list[Prompt]:
    """Those of the prompts that the scores are about."""
    asked = _prompts(scores)
    return [prompt for prompt in prompts if prompt.id in asked]
