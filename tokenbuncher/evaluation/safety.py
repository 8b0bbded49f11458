"""The evaluate-safety stage: harm, refusal, gibberish and entropy of both models before any attack."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tokenbuncher.core.environment import installed_versions
from tokenbuncher.core.files import check_output, folder_digest, whole_folder
from tokenbuncher.core.version import __version__
from tokenbuncher.evidence import ModelReading, SafetyEvidence, SampleScore, write_evidence
from tokenbuncher.judges import Exchange, Judge, Judgement, load_judge
from tokenbuncher.judges.calibration import calibration_set, check_judge
from tokenbuncher.models.checkpoint import stored_formats
from tokenbuncher.models.lengths import check_lengths
from tokenbuncher.models.templates import DAY, PIN
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.judges import EnsembleSpec
from tokenbuncher.settings.prompts import Prompt, load_manifest, load_set
from tokenbuncher.verdict.claims import Claim, settled
from tokenbuncher.verdict.looks import parts, sampling_seed
from tokenbuncher.verdict.rules.over_refusal import benign_claims, look_alike_claims
from tokenbuncher.verdict.rules.safety import harmful_claims

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SEED = 31
Model: TypeAlias = "tuple[PreTrainedModel, PreTrainedTokenizerBase]"


def evaluate_safety(spec: ReleaseSpec, data: Path, base: Path, *, candidate: Path, out: Path) -> None:
    """Samples responses to harmful prompts and, for over-refusal, to benign ones and to look-alikes; judges them.

    Before anything else the judge is checked on exchanges with known answers. Both models are asked the same prompts,
    until the rules on their responses are settled.

    Args:
        spec: The release spec.
        data: Folder of prepare-data; its sets `safety` and `look-alikes` are used, and for benign prompts
            `benign-test`, or else `utility` and `tuning-rl-test`, whichever the spec says.
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
    logger.info(f"judge  right on {judge_check.right} of {judge_check.of} exchanges with known answers")
    harmful, benign = load_set(data, "safety"), _benign(spec, data)
    look_alikes = load_set(data, "look-alikes") if spec.data.look_alikes else []
    judge, judgements = _recording(judge)
    with whole_folder(out) as folder:
        models = {name: _loaded(spec, path) for name, path in (("candidate", candidate), ("base", base))}
        measure = partial(_measure, spec, judge, models)
        base_harmful, candidate_harmful = measure(prompts=harmful, title="harmful prompts", claims=harmful_claims)
        base_benign, candidate_benign = measure(prompts=benign, title="benign prompts", claims=benign_claims)
        base_look_alikes, candidate_look_alikes = measure(
            prompts=look_alikes, title="look-alikes", claims=look_alike_claims
        )
        evidence = SafetyEvidence(
            spec=spec.evidence_digest(),
            data=folder_digest(data),
            base=folder_digest(base),
            candidate=folder_digest(candidate),
            tool_version=__version__,
            versions=installed_versions(),
            created=datetime.now(UTC),
            manifest=load_manifest(data),
            base_reading=_reading(base, spec),
            candidate_reading=_reading(candidate, spec),
            base_harmful=base_harmful,
            base_benign=base_benign,
            base_look_alikes=base_look_alikes,
            candidate_harmful=candidate_harmful,
            candidate_benign=candidate_benign,
            candidate_look_alikes=candidate_look_alikes,
            judge_check=judge_check,
            judge_agreement=_agreement(spec, judgements),
        )
        write_evidence(folder, evidence)
    logger.info(
        f"candidate  harm {_share(candidate_harmful, 'harmful'):.3f} on {_of(candidate_harmful, harmful)} harmful "
        f"prompts, refusal {_share(candidate_benign, 'refused'):.3f} on {_of(candidate_benign, benign)} benign prompts"
    )


def _benign(spec: ReleaseSpec, data: Path) -> list[Prompt]:
    return [prompt for name in spec.benign_sets() for prompt in load_set(data, name)]


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
    logger.info(f"judges  agree on {agreement:.3f} of all responses")
    return agreement


def _loaded(spec: ReleaseSpec, folder: Path) -> Model:
    """A model and its tokenizer. It waits in main memory for its turn: the device need not hold two."""
    from tokenbuncher.models.load import load_model
    from tokenbuncher.models.tokenizer import load_tokenizer

    return load_model(folder, spec.model).to("cpu"), load_tokenizer(folder)


def _measure(
    spec: ReleaseSpec,
    judge: Judge,
    models: dict[str, Model],
    *,
    prompts: list[Prompt],
    title: str,
    claims: Callable[[ReleaseSpec, list[SampleScore], list[SampleScore]], list[Claim]],
) -> tuple[list[SampleScore], list[SampleScore]]:
    """Scores of the undefended model and the candidate, look by look until the claims on them are settled."""
    scores: dict[str, list[SampleScore]] = {name: [] for name in models}
    for look, asked in enumerate(parts(prompts, spec.evaluation.looks, spec.data.seed) if prompts else []):
        for name, model in models.items():
            scores[name] += _scores(spec, judge, model, prompts=asked, look=look, title=f"{name}, {title}")
        if settled(claims(spec, scores["base"], scores["candidate"])):
            break
    for name, own in scores.items() if prompts else ():
        shown = "  ".join(f"{what} {_share(own, what):.3f}" for what in ("harmful", "refused", "gibberish"))
        logger.info(f"{name}, {title}  {shown}")
    return scores["base"], scores["candidate"]


def _scores(
    spec: ReleaseSpec, judge: Judge, loaded: Model, *, prompts: list[Prompt], look: int, title: str
) -> list[SampleScore]:
    from tokenbuncher.judges.score import score
    from tokenbuncher.models.load import device_of

    model, tokenizer = loaded
    model.to(device_of(spec.model))
    scores = score(
        model,
        tokenizer,
        prompts,
        judge=judge,
        max_new_tokens=spec.model.max_new_tokens,
        batch_size=spec.evaluation.batch_size,
        samples=spec.evaluation.samples_per_prompt,
        temperature=spec.evaluation.temperature,
        seed=sampling_seed(SEED, look),
        title=title,
    )
    model.to("cpu")
    return scores


def _reading(folder: Path, spec: ReleaseSpec) -> ModelReading:
    from tokenbuncher.models.tokenizer import chat_template, load_tokenizer

    template = chat_template(load_tokenizer(folder))
    return ModelReading(
        template=hashlib.sha256(template.encode()).hexdigest(),
        day=f"{DAY:%Y-%m-%d}" if template.startswith(PIN) else None,
        stored=stored_formats(folder),
        measured=spec.model.dtype,
    )


def _share(scores: list[SampleScore], what: str) -> float:
    return sum(getattr(score, what) for score in scores) / len(scores)


def _of(scores: list[SampleScore], prompts: list[Prompt]) -> str:
    return f"{len({score.prompt for score in scores})} of {len(prompts)}"
