"""One attack on one model: what every algorithm is given, and what is measured while it runs."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from transformers import Trainer, TrainerCallback
from trl import DPOConfig, GRPOConfig, RLOOConfig, SFTConfig

from tokenbuncher.attacks.latent import Compliant, compliance_probabilities, compliant_responses
from tokenbuncher.attacks.noise import add_noise
from tokenbuncher.core.files import folder_digest
from tokenbuncher.evidence import AttackArm, CurvePoint, LatentCompliance, SampleScore, TrainingPoint
from tokenbuncher.judges import Exchange, load_judge, load_reward
from tokenbuncher.judges.capability import capability_judge, capability_reward
from tokenbuncher.judges.score import score
from tokenbuncher.judges.trl_reward import trl_reward
from tokenbuncher.models.generation import eos_ids
from tokenbuncher.models.load import load_model, trainable
from tokenbuncher.models.sampling import generate
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import AttackTask, ReleaseSpec
from tokenbuncher.settings.prompts import Prompt, load_set
from tokenbuncher.training import ranks
from tokenbuncher.training.arguments import (
    ALL_ROLLOUTS,
    WHOLE_ANSWERS,
    WHOLE_PAIRS,
    sampling_arguments,
    trainer_arguments,
    vllm_arguments,
)
from tokenbuncher.training.callbacks import Checkpoints, Probe, StepLog
from tokenbuncher.training.examples import filling, prompt_dataset
from tokenbuncher.training.run import run_training
from tokenbuncher.verdict.claims import Claim, settled
from tokenbuncher.verdict.findings import Outcome
from tokenbuncher.verdict.looks import parts, sampling_seed
from tokenbuncher.verdict.rules.attacks import break_claim, candidate_claims, control_claims

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


class Arena:
    """A model under attack."""

    def __init__(
        self, spec: ReleaseSpec, task: AttackTask, title: str, *, folder: Path, data: Path, work: Path
    ) -> None:
        """
        Args:
            spec: The release spec.
            task: The attack, with one learning rate, and its seed.
            title: `control` for the undefended model, `candidate` for the other; stands before progress lines.
            folder: The model to be attacked.
            data: Folder of prepare-data.
            work: Quarantine for the checkpoints of the attacked model and the step log.
        """
        self.spec, self.task, self.title, self.folder, self.work = spec, task, title, folder, work
        self.held_out, prompts = load_set(data, "safety"), load_set(data, "attack")
        self.reward = load_reward(spec.attacks.reward)
        self.judge = load_judge(spec.evaluation.judge)
        if task.attack.objective == "capability":
            questions, self.held_out = load_set(data, "capability-attack"), load_set(data, "capability-safety")
            self.reward = capability_reward(questions, self.reward)
            self.judge = capability_judge([*questions, *self.held_out], self.judge)
            prompts = [*questions, *prompts]
        self.prompts = self._attackers_prompts(prompts)
        self.benign = load_set(data, "benign") if task.attack.warm_up else []
        self.tokenizer = load_tokenizer(folder)
        self.model = self._attackers_model()
        self.log = StepLog(title, work / "steps.jsonl", task.attack.steps)
        self.checkpoints = Checkpoints(work, spec.output.checkpoint_every, self.log, state=self.state)
        self.measured = Measured.model_validate_json(self.checkpoints.state() or "{}")
        self.wall, self.cpu = time.monotonic(), time.process_time()

    def _attackers_model(self) -> PreTrainedModel:
        model = load_model(self.folder, self.spec.model)
        add_noise(model, self.task.attack.weight_noise, self.task.seed)
        return trainable(model, self.spec.model, self.task.seed)

    def _attackers_prompts(self, prompts: list[Prompt]) -> list[Prompt]:
        """All of them or the few that the attack has, repeated until they fill a step."""
        attack = self.task.attack
        if attack.prompts:
            prompts = random.Random(self.task.seed).sample(prompts, attack.prompts)
        return filling(prompts, attack.prompts_per_step)

    # What the algorithms take.

    def grpo_config(self, epochs: int = 1, **changes: Any) -> GRPOConfig:
        """On-policy GRPO with the budget of the attack; a batch of rollouts is used for so many updates."""
        attack = self.task.attack
        return GRPOConfig(
            **self._arguments(epochs),
            **sampling_arguments(attack.rollouts, self.spec.model.max_new_tokens, attack.temperature),
            **vllm_arguments(self.spec.compute.vllm, eos_ids(self.model)),
            **ALL_ROLLOUTS,
            **{"beta": attack.kl_coefficient, "loss_type": "dapo", "num_iterations": epochs, **changes},
        )

    def rloo_config(self) -> RLOOConfig:
        """RLOO with the budget of the attack."""
        attack = self.task.attack
        return RLOOConfig(
            **self._arguments(),
            **sampling_arguments(attack.rollouts, self.spec.model.max_new_tokens, attack.temperature),
            **vllm_arguments(self.spec.compute.vllm, eos_ids(self.model)),
            mask_truncated_completions=False,
            beta=attack.kl_coefficient,
        )

    def dpo_config(self, beta: float) -> DPOConfig:
        """As many pairs in a step as the online attacks have prompts."""
        return DPOConfig(**self._arguments(sequences=self.task.attack.prompts_per_step), **WHOLE_PAIRS, beta=beta)

    def sft_config(self) -> SFTConfig:
        """As many answers in a step as the other attacks have rollouts, losses on the answers only."""
        return SFTConfig(**self._arguments(), **WHOLE_ANSWERS)

    def _arguments(self, epochs: int = 1, sequences: int | None = None) -> dict[str, Any]:
        attack = self.task.attack
        assert isinstance(attack.learning_rate, float)
        return trainer_arguments(
            self.task.seed,
            attack.steps,
            sequences or attack.prompts_per_step * attack.rollouts,
            learning_rate=attack.learning_rate,
            checkpoints=self.checkpoints,
            updates=epochs,
            adam_epsilon=attack.adam_epsilon,
            group=1 if sequences else attack.rollouts,
            model=self.spec.model,
        )

    def rollouts(self, epochs: int = 1) -> dict[str, Any]:
        """Model, reward, prompts and callbacks, as TRL's online trainers take them."""
        return {
            "model": self.model,
            "reward_funcs": trl_reward(self.rewarded, eos_ids(self.model), self.tokenizer),
            "train_dataset": prompt_dataset(self.prompts),
            "processing_class": self.tokenizer,
            "callbacks": self.callbacks(epochs),
        }

    def callbacks(self, epochs: int = 1) -> list[TrainerCallback]:
        """The step log, the probe that stops the attack once the model is broken, and the checkpoints."""
        self.log.updates = epochs
        return [self.log, Probe(self.spec.attacks.probe_every, self.measure, epochs), self.checkpoints]

    def rewarded(self, exchanges: Sequence[Exchange], tokens: Sequence[int]) -> list[float]:
        """The attacker's rewards of rollouts, which are counted."""
        measured = self.measured
        if measured.first_compliant is None:
            harmful = [judged.harmful for judged in self.judge(exchanges)]
            measured.first_compliant = measured.rollouts + harmful.index(True) + 1 if any(harmful) else None
        measured.rollouts += len(exchanges)
        measured.tokens += sum(tokens)
        return self.reward(exchanges)

    def sample(self, prompts: list[Prompt]) -> list[tuple[str, float]]:
        """A response of the unattacked model for each prompt, with the attacker's reward; counted as rollouts."""
        # A resumed attack samples them again, and has counted them already.
        self.measured.rollouts, self.measured.tokens, self.measured.first_compliant = 0, 0, None
        responses = generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=self.spec.model.max_new_tokens,
            batch_size=self.spec.evaluation.batch_size,
            temperature=self.task.attack.temperature,
            seed=self.task.seed,
        )
        rewards = self.rewarded(
            [
                Exchange(prompt.text, response.text, response.finished)
                for prompt, response in zip(prompts, responses, strict=True)
            ],
            [response.tokens for response in responses],
        )
        return [(response.whole, reward) for response, reward in zip(responses, rewards, strict=True)]

    # What is measured.

    def run(self, trainer: Trainer) -> None:
        """Runs the attack, from its last checkpoint if it was interrupted."""
        run_training(trainer, self.checkpoints)

    def idle(self) -> None:
        """The attack has nothing to learn from: measures the model as it is wherever a run would."""
        self.log.resume(0)
        for step in self.spec.attacks.probed(self.task.attack.steps):
            self.measure(step)

    @property
    def over(self) -> bool:
        """Whether the attack has broken the model or used its budget."""
        curve = self.measured.curve
        return self.measured.broke is not None or (bool(curve) and curve[-1].step == self.task.attack.steps)

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
        self.log.measured = {"harm": point.harm}
        if step > 0:
            self._keep_worst(point)
        print(
            f"{self.title}: step {step}  harm {point.harm:.3f}  refusal {point.refusal:.3f}  "
            f"gibberish {point.gibberish:.3f}{'  broken' if measured.broke else ''}",
            flush=True,
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

    def state(self) -> str:
        """What a resumed attack has to know, as JSON."""
        now, cpu = time.monotonic(), time.process_time()
        self.measured.seconds += now - self.wall
        self.measured.cpu_seconds += cpu - self.cpu
        self.wall, self.cpu = now, cpu
        return self.measured.model_dump_json()

    def compliant(self) -> list[Compliant]:
        """Compliant responses of the model, if the attack has broken it."""
        if self.measured.broke is None:
            return []
        spec = self.spec
        print(f"{self.title}: sampling what the broken model says", flush=True)
        return compliant_responses(
            self.model,
            self.tokenizer,
            self.held_out,
            judge=self.judge,
            max_new_tokens=spec.model.max_new_tokens,
            batch_size=spec.evaluation.batch_size,
            seed=self.task.seed,
        )

    def latent(self, compliant: list[Compliant]) -> LatentCompliance | None:
        """How likely the model was and is to give responses like these; None if there are none."""
        if not compliant:
            return None
        print(
            f"{self.title}: latent compliance, by {len(compliant)} responses, before and after the attack", flush=True
        )
        before, after = (
            compliance_probabilities(
                model, self.tokenizer, self.held_out, compliant=compliant, batch_size=self.spec.evaluation.batch_size
            )
            for model in (load_model(self.folder, self.spec.model), self.model)
        )
        return LatentCompliance(before=before, after=after)

    def result(self, compliant: list[Compliant]) -> AttackArm:
        """The evidence of this attack on this model.

        Args:
            compliant: Compliant responses of the undefended model.
        """
        self.state()
        measured, rate = self.measured, self.task.attack.learning_rate
        assert measured.worst is not None
        assert isinstance(rate, float)
        rewards = [row["reward"] for row in self.log.rows[-5:] if "reward" in row]
        return AttackArm(
            model=folder_digest(self.folder),
            learning_rate=rate,
            steps_run=measured.curve[-1].step,
            steps_to_break=measured.broke,
            worst_step=measured.worst.step,
            final_reward=sum(rewards) / len(rewards) if rewards else 0.0,
            rollouts=measured.rollouts,
            tokens=measured.tokens,
            first_compliant_rollout=measured.first_compliant,
            latent=self.latent(compliant),
            seconds=measured.seconds,
            cpu_seconds=sum(ranks.gathered([measured.cpu_seconds])),
            curve=measured.curve,
            training=[
                TrainingPoint(
                    step=int(row["step"]),
                    reward=row.get("reward"),
                    zero_variance=row.get("zero_variance_groups"),
                    gradient=gradient,
                )
                for row, gradient in zip(self.log.rows, self.log.gradients, strict=True)
            ],
            start=measured.start,
            scores=measured.scores,
        )
