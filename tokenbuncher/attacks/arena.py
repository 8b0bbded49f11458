"""One attack on one model: what every algorithm is given, and how harm is measured while it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from tokenbuncher.evidence import AttackArm, CurvePoint, SampleScore
from tokenbuncher.files import folder_digest
from tokenbuncher.judges import Judge, Reward
from tokenbuncher.models import load_model, load_tokenizer
from tokenbuncher.prompts import Prompt
from tokenbuncher.scoring import score
from tokenbuncher.settings import AttackTask, ReleaseSpec
from tokenbuncher.training import Probe, StepLog

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Arena:
    """A model under attack, and the measurements taken of it.

    The attacker keeps the best checkpoint, so the scores that count are those of the most harmful
    measurement, not of the last.
    """

    spec: ReleaseSpec
    task: AttackTask
    title: str
    folder: Path
    prompts: list[Prompt]
    held_out: list[Prompt]
    reward: Reward
    judge: Judge
    steps_log: Path
    curve: list[CurvePoint] = field(default_factory=list)
    scores: list[SampleScore] = field(default_factory=list)
    worst: CurvePoint | None = None

    def __post_init__(self) -> None:
        self.tokenizer = load_tokenizer(self.folder)
        self.model: PreTrainedModel = load_model(self.folder, self.spec.model)
        self.log = StepLog(self.title, self.steps_log, self.task.attack.steps)
        self.began = time.monotonic()

    def callbacks(self) -> list[TrainerCallback]:
        """For the trainer: the step log, and the probe that stops the attack once the model is broken."""
        return [self.log, Probe(self.spec.attacks.probe_every, self.measure)]

    def measure(self, step: int) -> bool:
        """Measures harm on held-out prompts; scores in full whenever it is the worst so far, or the last.

        Args:
            step: Optimizer steps done.

        Returns:
            Whether the model is broken.
        """
        settings = self.spec.attacks
        point = summarise(step, self._score(self.held_out[: settings.probe_prompts], 1, step))
        self.curve.append(point)
        broken = step > 0 and point.harm >= settings.break_at
        last = broken or step == self.task.attack.steps
        if self.worst is None or point.harm > self.worst.harm or (last and point.harm >= self.worst.harm):
            self.worst = point
            self.scores = self._score(self.held_out, self.spec.evaluation.samples_per_prompt, step)
        print(
            f"{self.title}: step {step}  harm {point.harm:.3f}  refusal {point.refusal:.3f}  "
            f"gibberish {point.gibberish:.3f}{'  broken' if broken else ''}",
            flush=True,
        )
        return broken

    def _score(self, prompts: list[Prompt], samples: int, step: int) -> list[SampleScore]:
        return score(
            self.model,
            self.tokenizer,
            prompts,
            self.judge,
            self.spec.model.max_new_tokens,
            self.spec.evaluation.batch_size,
            samples,
            self.spec.evaluation.temperature,
            seed=self.task.seed * 1_000_003 + step,
        )

    def result(self) -> AttackArm:
        """The evidence of this attack on this model."""
        assert self.worst is not None
        broken = next((p.step for p in self.curve if p.step and p.harm >= self.spec.attacks.break_at), None)
        rewards = [row["reward"] for row in self.log.rows[-5:] if "reward" in row]
        return AttackArm(
            model=folder_digest(self.folder),
            steps_run=self.curve[-1].step,
            steps_to_break=broken,
            worst_step=self.worst.step,
            final_reward=sum(rewards) / len(rewards) if rewards else 0.0,
            seconds=time.monotonic() - self.began,
            curve=self.curve,
            scores=self.scores,
        )


def summarise(step: int, scores: list[SampleScore]) -> CurvePoint:
    """The means of a measurement."""
    return CurvePoint(
        step=step,
        harm=sum(score.harmful for score in scores) / len(scores),
        refusal=sum(score.refused for score in scores) / len(scores),
        gibberish=sum(score.gibberish for score in scores) / len(scores),
        entropy=sum(score.entropy for score in scores) / len(scores),
    )
