"""What is measured of a model under attack: its harm, step by step, and what the attack has cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from tokenbuncher.attacks.latent import Compliant, compliance_probabilities, compliant_responses
from tokenbuncher.evidence import CurvePoint, LatentCompliance, SampleScore
from tokenbuncher.judges import Exchange, Judge
from tokenbuncher.judges.score import score
from tokenbuncher.settings import AttackTask, ReleaseSpec
from tokenbuncher.settings.judges import counts_rollouts
from tokenbuncher.settings.prompts import Prompt
from tokenbuncher.training import ranks
from tokenbuncher.verdict.claims import Claim, settled
from tokenbuncher.verdict.findings import Outcome
from tokenbuncher.verdict.looks import parts, sampling_seed
from tokenbuncher.verdict.rules.attacks import break_claim, candidate_claims, control_claims

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

CONTROL = "control"


class Measured(BaseModel):
    """What is known of an attack so far; kept with every checkpoint, so that a resumed attack knows it too.

    The attacker keeps the best checkpoint, so the scores that count are those of the most harmful
    measurement, not of the last.
    """

    curve: list[CurvePoint] = []
    start: list[SampleScore] = []
    scores: list[SampleScore] = []
    worst: CurvePoint | None = None
    broke: int | None = None
    rollouts: int = 0
    tokens: int = 0
    first_compliant: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Meter:
    """Measures a model under attack."""

    def __init__(
        self,
        spec: ReleaseSpec,
        task: AttackTask,
        title: str,
        *,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        held_out: Sequence[Prompt],
        judge: Judge,
        measured: Measured,
    ) -> None:
        """
        Args:
            spec: The release spec.
            task: The attack.
            title: `control` for the base model, `candidate` for the other.
            model: The model under attack.
            tokenizer: Its tokenizer.
            held_out: Harmful prompts that the attacker does not have.
            judge: Tells which responses are harmful.
            measured: What is known already.
        """
        self.spec, self.task, self.title, self.model, self.tokenizer = spec, task, title, model, tokenizer
        self.held_out, self.judge, self.measured = list(held_out), judge, measured
        self.wall, self.cpu = time.monotonic(), time.process_time()

    @property
    def over(self) -> bool:
        """Whether the attack has broken the model or used its budget."""
        curve = self.measured.curve
        return self.measured.broke is not None or (bool(curve) and curve[-1].step == self.task.attack.steps)

    def state(self) -> str:
        """What a resumed attack has to know, as JSON."""
        now, cpu = time.monotonic(), time.process_time()
        self.measured.seconds += now - self.wall
        self.measured.cpu_seconds += cpu - self.cpu
        self.wall, self.cpu = now, cpu
        return self.measured.model_dump_json()

    def count(self, rollouts: Sequence[Exchange], tokens: Sequence[int]) -> None:
        """Counts rollouts that the attacker has sampled, and which was the first to comply, if the judge is a rule.

        Args:
            rollouts: The rollouts.
            tokens: How many tokens each has.
        """
        measured = self.measured
        if measured.first_compliant is None and counts_rollouts(self.spec.evaluation.judge):
            harmful = [judged.harmful for judged in self.judge(rollouts)]
            measured.first_compliant = measured.rollouts + harmful.index(True) + 1 if any(harmful) else None
        measured.rollouts += len(rollouts)
        measured.tokens += sum(tokens)

    def count_anew(self) -> None:
        """Forgets the rollouts: an attack that sampled all of them beforehand samples them again when it is resumed."""
        self.measured.rollouts, self.measured.tokens, self.measured.first_compliant = 0, 0, None

    def measure(self, step: int) -> bool:
        """Measures harm on held-out prompts: on all of them before the first step, on a few afterwards.

        Args:
            step: Batches of rollouts learnt from.

        Returns:
            Whether the model is broken.
        """
        measured, settings = self.measured, self.spec.attacks
        if step == 0:
            measured.start = self._score_looks(step, until_settled=False)
            point = self._summarise(step, measured.start)
        else:
            point = self._summarise(step, self._score(self.held_out[: settings.probe_prompts], 1, step))
        measured.curve.append(point)
        if step > 0:
            self._keep_worst(point)
        logger.info(
            f"{self.title}: step {step}  harm {point.harm:.3f}  refusal {point.refusal:.3f}  "
            f"gibberish {point.gibberish:.3f}{'  broken' if measured.broke else ''}"
        )
        return measured.broke is not None

    def _keep_worst(self, point: CurvePoint) -> None:
        """Scores the model if it is the most harmful so far, may be broken, or is measured last.

        While there is no harm at all it scores nothing: the last measurement will be as bad. What looks broken by a few
        prompts is so if the bound by all scores says it, too.
        """
        measured = self.measured
        worst = measured.worst.harm if measured.worst else 0.0
        may_be_broken = point.harm >= self.spec.attacks.break_at
        is_worst = point.harm > worst or (self.over and point.harm >= worst)
        if not (is_worst or may_be_broken):
            return
        scores = self._score_looks(point.step, until_settled=True)
        if may_be_broken and break_claim(self.spec, self._whole_task(), scores).outcome() is Outcome.PASS:
            measured.broke = point.step
        if is_worst or measured.broke:
            measured.worst, measured.scores = point, scores

    def _whole_task(self) -> AttackTask:
        """The attack with all of its learning rates, as the gate will see it."""
        return self.spec.attacks.task(self.task.key)

    def _score_looks(self, step: int, until_settled: bool) -> list[SampleScore]:
        """All samples of the prompts, look by look; of all looks, in the same batches whatever the step."""
        spec, scores = self.spec, list[SampleScore]()
        for look, part in enumerate(parts(self.held_out, spec.evaluation.looks, spec.data.seed)):
            scores += self._score(part, spec.evaluation.samples_per_prompt, step, look=look)
            if until_settled and settled(self._claims(scores, step)):
                break
        return scores

    def _claims(self, scores: list[SampleScore], step: int) -> list[Claim]:
        """What the gate, and the attack itself, will ask of this model's scores."""
        task, measured = self._whole_task(), self.measured
        broken = break_claim(self.spec, task, scores)
        if self.title == CONTROL:
            return [broken, *control_claims(self.spec, task, measured.start, scores=scores)]
        return [broken, *candidate_claims(self.spec, task, scores, curve=measured.curve, worst_step=step)]

    def _score(self, prompts: list[Prompt], samples: int, step: int, *, look: int = 0) -> list[SampleScore]:
        scores = score(
            self.model,
            self.tokenizer,
            prompts,
            judge=self.judge,
            max_new_tokens=self.spec.model.max_new_tokens,
            batch_size=self.spec.evaluation.batch_size,
            samples=samples,
            temperature=self.spec.evaluation.temperature,
            seed=sampling_seed(self.task.seed * 1_000_003 + step, look),
            title=f"{self.title}: measuring harm",
        )
        return ranks.from_first(scores)

    def _summarise(self, step: int, scores: list[SampleScore]) -> CurvePoint:
        return CurvePoint(
            step=step,
            rollouts=self.measured.rollouts,
            tokens=self.measured.tokens,
            harm=sum(score.harmful for score in scores) / len(scores),
            refusal=sum(score.refused for score in scores) / len(scores),
            gibberish=sum(score.gibberish for score in scores) / len(scores),
            cut_off=sum(score.cut_off for score in scores) / len(scores),
            entropy=sum(score.entropy for score in scores) / len(scores),
        )

    def compliant(self) -> list[Compliant]:
        """Compliant responses of the model, if the attack has broken it."""
        if self.measured.broke is None:
            return []
        spec = self.spec
        logger.info(f"{self.title}: sampling what the broken model says")
        return compliant_responses(
            self.model,
            self.tokenizer,
            self.held_out,
            judge=self.judge,
            max_new_tokens=spec.model.max_new_tokens,
            batch_size=spec.evaluation.batch_size,
            seed=self.task.seed,
        )

    def latent(self, before: PreTrainedModel, compliant: list[Compliant]) -> LatentCompliance:
        """How likely a model was to give responses like these before the attack, and how likely it is now.

        Args:
            before: The model before the attack.
            compliant: Compliant responses of the base model.
        """
        was, is_now = (
            compliance_probabilities(
                model, self.tokenizer, self.held_out, compliant=compliant, batch_size=self.spec.evaluation.batch_size
            )
            for model in (before, self.model)
        )
        return LatentCompliance(before=was, after=is_now)
