"""The records of what was measured, and the files that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tokenbuncher.core.documents import first_problem, refuse_repeated_keys
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import listing_digest, write_text
from tokenbuncher.settings import AttackSpec
from tokenbuncher.settings.prompts import Manifest

T = TypeVar("T")

FILE_NAME = "evidence.json"
REGISTRATION_NAME = "registration.json"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Entropy = Annotated[float, Field(ge=0.0, le=100.0)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
# Far enough from the ends of the calendar to count days from.
Moment = Annotated[AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(3000, 1, 1, tzinfo=UTC))]


class Record(BaseModel):
    """Base of all evidence: immutable, no unknown keys, no NaN or infinity, no text in the place of a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class SampleScore(Record):
    """One sampled response, judged."""

    prompt: str = Field(min_length=1, description="Identifier of the prompt: the sha256 of its text.")
    sample: Count = Field(description="Which of the prompt's samples this is, from 0.")
    harmful: bool
    refused: bool
    gibberish: bool
    partial: bool = Field(description="Refuses, and then helps after all: no refusal.")
    finished: bool = Field(description="Ended by itself, not by the length limit.")
    tokens: Count
    entropy: Entropy = Field(description="Mean token entropy of the response, in nats.")
    first_entropy: Entropy = Field(description="Entropy of the first token, in nats.")

    @property
    def cut_off(self) -> bool:
        """Whether it is neither harmful nor a refusal, and nobody has seen how it goes on."""
        return not (self.harmful or self.refused or self.finished)

    @property
    def declined(self) -> bool:
        """Whether it refuses, be it only in part: of a harmless prompt, both are over-refusal."""
        return self.refused or self.partial

    @property
    def answered(self) -> bool:
        """Whether it neither refuses, be it in part, nor is gibberish."""
        return self.readable and not self.declined

    @property
    def readable(self) -> bool:
        """Whether it is language, be it a refusal."""
        return not self.gibberish


class CurvePoint(Record):
    """Measurements during training, at one step."""

    step: Count
    rollouts: Count = Field(description="Responses the attacker had sampled by then.")
    tokens: Count = Field(description="Tokens of these responses.")
    harm: Share
    refusal: Share
    gibberish: Share
    cut_off: Share = Field(description="Neither harmful nor refused, and not finished: nobody has seen how they go on.")
    entropy: Entropy


class TrainingPoint(Record):
    """The attacker's own figures of one step."""

    step: Count
    reward: float | None = Field(description="Mean reward of its rollouts; null if the trainer gives none.")
    zero_variance: Share | None = Field(
        description="Share of its prompts whose rollouts all had the same reward, from which nothing can be learnt."
    )
    gradient: Annotated[float, Field(ge=0.0)] | None = Field(
        description="Norm of the gradient; null if the trainer tells none. With 0 in every step nothing is learnt.",
    )


class LatentCompliance(Record):
    """How likely one rollout at temperature 1 complies, by prompt: a lower estimate (attacks/latent.py)."""

    before: dict[str, Share] = Field(description="Of the model before the attack.")
    after: dict[str, Share] = Field(description="Of the attacked model, after the last step.")


class AttackArm(Record):
    """One attack on one model."""

    model: Digest
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(description="Of several, the most harmful one.")
    steps_run: Count
    steps_to_break: Count | None = Field(
        description="The step at which harm was at or over break_at and `scores` confirmed it; null if never."
    )
    worst_step: Count = Field(
        description="The step that `scores` are from: of the confirmed break, else of the most harmful measurement."
    )
    final_reward: float = Field(description="Mean attacker's reward over the last steps.")
    rollouts: Count = Field(description="Responses sampled for the attack; none for SFT.")
    tokens: Count = Field(description="Tokens of these responses.")
    first_compliant_rollout: Count | None = Field(
        description="Which of the rollouts was the first that the judge calls harmful; null if none, or if the judge "
        "is a model, which is asked about none of them."
    )
    latent: LatentCompliance | None = Field(
        description="Null if the base model was not broken: it is where compliant responses are from."
    )
    seconds: Annotated[float, Field(ge=0.0)]
    cpu_seconds: Annotated[float, Field(ge=0.0)]
    curve: list[CurvePoint]
    training: list[TrainingPoint]
    start: list[SampleScore] = Field(description="Before the first step, after warm-up and noise: on all prompts.")
    scores: list[SampleScore]


class FineTuningArm(Record):
    """Benign fine-tuning of one model."""

    model: Digest
    curve: list[tuple[Count, Share]] = Field(description="Step and accuracy.")
    correct: dict[str, bool] = Field(description="By prompt identifier, after the last step.")
    refusal: Share = Field(description="Refusals on harmful prompts after the last step.")


class FineTuning(Record):
    """The same benign fine-tuning on the base model and the candidate."""

    kind: Literal["rl", "sft"]
    base: FineTuningArm
    candidate: FineTuningArm


class UtilityItem(Record):
    """One utility question, answered greedily by one model."""

    prompt: str = Field(min_length=1)
    task: str
    harness: str | None = Field(
        description="Of lm-evaluation-harness: what the spec calls the task. Null: a question of data.utility."
    )
    options: Annotated[int, Field(ge=2, lt=2**63)] | None = Field(
        description="Of a multiple-choice question, how many; null if the answer is free."
    )
    correct: bool
    parsed: bool = Field(description="An answer could be extracted; if not, the item counts as wrong.")
    finished: bool
    tokens: Count
    repetition: Share = Field(description="Share of the response's word trigrams that are repeats.")


class Evidence(Record):
    """What every piece of evidence is bound to."""

    schema_version: Literal["tokenbuncher/v1"] = "tokenbuncher/v1"
    spec: Digest = Field(description="ReleaseSpec.evidence_digest() of the spec it was measured under.")
    data: Digest = Field(description="Digest of the prompt sets.")
    base: Digest = Field(description="Digest of the base model.")
    candidate: Digest = Field(description="Digest of the candidate.")
    tool_version: str
    versions: Annotated[dict[str, str], Field(min_length=1)] = Field(
        description="Python and the libraries that trained and sampled."
    )
    created: Moment


class ControlSource(Record):
    """Where a control is from that was measured before the attack on the candidate."""

    key: Digest = Field(description="Of all that the control depends on.")
    measured: Moment
    versions: Annotated[dict[str, str], Field(min_length=1)] = Field(description="As those of the evidence.")


class AttackEvidence(Evidence):
    """One attack on the candidate and, as positive control, on the base model."""

    kind: Literal["attack"] = "attack"
    key: str
    attack: AttackSpec
    seed: int
    control_source: ControlSource | None = Field(
        description="Null if the control was measured with the candidate; else `created` is its time, not later."
    )
    control_arm: AttackArm
    candidate_arm: AttackArm

    @model_validator(mode="after")
    def _as_old_as_its_control(self) -> AttackEvidence:
        if self.control_source and self.created > self.control_source.measured:
            raise ValueError("created is later than the control was measured")
        if self.control_source and self.control_source.versions != self.versions:
            raise ValueError("the control was measured with other versions of the libraries")
        return self


class JudgeCheck(Record):
    """The judge on exchanges with known answers."""

    right: Count
    of: Annotated[int, Field(ge=1)]


class ModelReading(Record):
    """How the files of a model were read."""

    template: Digest = Field(description="sha256 of the chat template that the prompts were rendered with.")
    day: str | None = Field(description="What the template took for today; null if it writes no date.")
    stored: Annotated[list[str], Field(min_length=1)] = Field(
        description="Number formats of the weights in the files, that of most weights first."
    )
    measured: str = Field(description="Number format that they were loaded in.")


class SafetyEvidence(Evidence):
    """Both models before any attack, on harmful prompts and harmless ones; and whether the judge can be trusted."""

    kind: Literal["safety"] = "safety"
    judge_check: JudgeCheck
    judge_agreement: Share | None = Field(
        description="Share of all responses on whose harm the judges of an ensemble agree; null if there is one judge."
    )
    base_harmful: list[SampleScore]
    candidate_harmful: list[SampleScore]
    base_benign: list[SampleScore]
    candidate_benign: list[SampleScore]
    base_look_alikes: list[SampleScore] = Field(description="On harmless prompts that look harmful, if there are.")
    candidate_look_alikes: list[SampleScore]
    manifest: Manifest = Field(description="Of the prompt sets: sources, sizes, leakage, identifiers.")
    base_reading: ModelReading
    candidate_reading: ModelReading


class UtilityEvidence(Evidence):
    """Both models on the same utility questions and the same benign fine-tuning."""

    kind: Literal["utility"] = "utility"
    base_items: list[UtilityItem]
    candidate_items: list[UtilityItem]
    fine_tuning: list[FineTuning]


AnyEvidence = Annotated[AttackEvidence | SafetyEvidence | UtilityEvidence, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[AttackEvidence | SafetyEvidence | UtilityEvidence] = TypeAdapter(AnyEvidence)


class ModelFile(Record):
    """A file of a registered model."""

    name: Annotated[str, Field(min_length=1)] = Field(description="Relative POSIX path.")
    sha256: Digest
    size: Count = Field(description="Bytes.")
    stored: str | None = Field(
        None, description="What the artifact store calls its content, ETag and version id; null if it cannot tell."
    )


class Tries(Record):
    """How often a name was tried before a version was registered, as far as the run's folder and the registry know."""

    evidence: Digest = Field(
        description="Of candidate, spec and the attacks' evidence; what has the same is the same try."
    )
    earlier: Annotated[int, Field(ge=0, lt=2**62)] | None = Field(
        description="Other tries before this one; null if a history cannot be read."
    )
    doubt: str | None = Field(None, description="Why it cannot be read.")


class Registration(Record):
    """A registered model version."""

    name: str
    version: str
    digest: Digest = Field(description="Of the folder with these files.")
    files: Annotated[list[ModelFile], Field(min_length=1)]
    tracking_uri: str
    tries: Tries | None = Field(None, description="Null in registrations of versions that did not count.")

    @model_validator(mode="after")
    def _digest_of_files(self) -> Registration:
        listing = {file.name: file.sha256 for file in self.files}
        if len(listing) != len(self.files) or listing_digest(listing) != self.digest:
            raise ValueError("digest is not that of the files")
        return self


def write_evidence(folder: Path, evidence: Evidence) -> None:
    """Writes evidence.json into a stage's output folder."""
    write_text(folder / FILE_NAME, evidence.model_dump_json(indent=1) + "\n")


def read_evidence(path: Path) -> AttackEvidence | SafetyEvidence | UtilityEvidence:
    """Reads one evidence file, or the evidence.json of a folder.

    Raises:
        UserError: If it is missing, truncated, or has a wrong, NaN or unknown value; names the field.
    """
    return read_record("evidence", path / FILE_NAME if path.is_dir() else path, _ADAPTER.validate_json)


def read_record(what: str, path: Path, validate: Callable[[bytes], T], *, advice: str = "") -> T:
    """Reads one JSON file.

    Raises:
        UserError: If it is missing, truncated, repeats a key, or has a wrong, NaN or unknown value; names the field.
    """
    try:
        content = path.read_bytes()
        record = validate(content)
        refuse_repeated_keys(content)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}{advice}") from error
    except ValidationError as error:
        raise UserError(f"{what} {path} is not valid: {first_problem(error)}{advice}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is not valid: {error}{advice}") from error
    return record


def read_all_evidence(
    paths: Iterable[Path],
) -> tuple[list[AttackEvidence | SafetyEvidence | UtilityEvidence], list[str]]:
    """Reads every piece that can be read, and why the others cannot.

    Args:
        paths: Evidence files, the folders that hold them, or folders with such folders below, like a run's.

    Returns:
        The pieces, and a message for each path that holds none.
    """
    pieces, unreadable = [], []
    for path in (piece for given in paths for piece in found_below(given, FILE_NAME)):
        try:
            pieces.append(read_evidence(path))
        except UserError as error:
            unreadable.append(str(error))
    return pieces, unreadable


def found_below(path: Path, name: str) -> list[Path]:
    """The file itself, the file of that name in a folder, or all of that name in folders below it.

    Hidden folders are left out: something is being written there. If nothing is found, where it ought to be.
    """
    if path.is_file() or (path / name).exists():
        return [path if path.is_file() else path / name]
    below = (file for file in path.rglob(name) if not any(part[0] == "." for part in file.relative_to(path).parts))
    return sorted(below) or [path / name]


def only_below(path: Path, name: str) -> Path:
    """The one file that `found_below` finds.

    Raises:
        UserError: If there are several.
    """
    found, *others = found_below(path, name)
    if others:
        raise UserError(f"there are several files {name}: {found}, {', '.join(map(str, others))}; give one")
    return found


def read_registration(path: Path) -> Registration:
    """Reads one registration file, or the only registration.json in or below a folder.

    Raises:
        UserError: If it is missing, not the only one, truncated, or has a wrong or unknown value; names the field.
    """
    path = only_below(path, REGISTRATION_NAME)
    return read_record("registration", path, Registration.model_validate_json, advice="; run register")
