"""One attack on one model: what every algorithm is given, and the evidence of what it did."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback
from trl import DPOConfig, GRPOConfig, RLOOConfig, SFTConfig

from tokenbuncher.attacks.latent import Compliant
from tokenbuncher.attacks.meter import Measured, Meter
from tokenbuncher.attacks.noise import add_noise
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest
from tokenbuncher.evidence import AttackArm, LatentCompliance, TrainingPoint
from tokenbuncher.judges import Exchange, load_judge, load_reward
from tokenbuncher.judges.capability import capability_judge, capability_reward
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

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class Arena:
    """A model under attack."""

    def __init__(
        self, spec: ReleaseSpec, task: AttackTask, title: str, *, folder: Path, data: Path, work: Path
    ) -> None:
        """
        Args:
            spec: The release spec.
            task: The attack, with one learning rate, and its seed.
            title: `control` for the base model, `candidate` for the other; stands before progress lines.
            folder: The model to be attacked.
            data: Folder of prepare-data.
            work: Quarantine for the checkpoints of the attacked model and the step log.

        Raises:
            UserError: If the algorithm learns from answers, and the attack prompts have none.
        """
        self.spec, self.task, self.title, self.folder, self.work = spec, task, title, folder, work
        held_out, prompts = load_set(data, "safety"), load_set(data, "attack")
        self.reward, judge = load_reward(spec.attacks.reward), load_judge(spec.evaluation.judge)
        if task.attack.objective == "capability":
            questions, held_out = load_set(data, "capability-attack"), load_set(data, "capability-safety")
            self.reward = capability_reward(questions, self.reward)
            judge = capability_judge([*questions, *held_out], judge)
            prompts = [*questions, *prompts]
        self.prompts = self._attackers_prompts(prompts)
        self.benign = load_set(data, "benign") if task.attack.warm_up else []
        self.tokenizer = load_tokenizer(folder)
        self.model = self._attackers_model()
        self.log = StepLog(title, work / "steps.jsonl", task.attack.steps)
        self.log.updates = task.attack.hyperparameters.updates
        self.checkpoints = Checkpoints(work, spec.output.checkpoint_every, self.log, state=lambda: self.meter.state())
        self.meter = Meter(
            spec,
            task,
            title,
            model=self.model,
            tokenizer=self.tokenizer,
            held_out=held_out,
            judge=judge,
            measured=Measured.model_validate_json(self.checkpoints.state() or "{}"),
        )

    def _attackers_model(self) -> PreTrainedModel:
        model = load_model(self.folder, self.spec.model)
        add_noise(model, self.task.attack.weight_noise, self.task.seed)
        return trainable(model, self.spec.model, self.task.seed)

    def _attackers_prompts(self, prompts: list[Prompt]) -> list[Prompt]:
        """All of them or the few that the attack has, repeated until they fill a step."""
        attack = self.task.attack
        if attack.prompts:
            prompts = random.Random(self.task.seed).sample(prompts, attack.prompts)
        if attack.traits.needs_answers and not all(prompt.answer for prompt in prompts):
            raise UserError(
                f"attack {attack.name} needs harmful answers; name their column in data.harmful.answer or drop it"
            )
        return filling(prompts, attack.prompts_per_step)

    # What the algorithms take.

    def grpo_config(self, **changes: Any) -> GRPOConfig:
        """On-policy GRPO with the budget of the attack, and what an algorithm changes."""
        attack = self.task.attack
        return GRPOConfig(
            **self._arguments(),
            **sampling_arguments(attack.rollouts, self.spec.model.max_new_tokens, attack.temperature),
            **vllm_arguments(self.spec.compute.vllm, eos_ids(self.model)),
            **ALL_ROLLOUTS,
            **{
                "beta": attack.kl_coefficient,
                "loss_type": "dapo",
                "num_iterations": attack.hyperparameters.updates,
                **changes,
            },
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

    def _arguments(self, sequences: int | None = None) -> dict[str, Any]:
        attack = self.task.attack
        assert isinstance(attack.learning_rate, float)
        return trainer_arguments(
            self.task.seed,
            attack.steps,
            sequences or attack.prompts_per_step * attack.rollouts,
            learning_rate=attack.learning_rate,
            checkpoints=self.checkpoints,
            updates=attack.hyperparameters.updates,
            adam_epsilon=attack.adam_epsilon,
            group=1 if sequences else attack.rollouts,
            model=self.spec.model,
        )

    def online_arguments(self) -> dict[str, Any]:
        """Model, reward, prompts and callbacks, as TRL's online trainers take them."""
        return {
            "model": self.model,
            "reward_funcs": trl_reward(self.rewarded, eos_ids(self.model), self.tokenizer),
            "train_dataset": prompt_dataset(self.prompts),
            "processing_class": self.tokenizer,
            "callbacks": self.callbacks(),
        }

    def callbacks(self) -> list[TrainerCallback]:
        """The step log, the probe that stops the attack once the model is broken, and the checkpoints."""
        return [self.log, Probe(self.spec.attacks.probe_every, self.measure, self.log.updates), self.checkpoints]

    def rewarded(self, exchanges: Sequence[Exchange], tokens: Sequence[int]) -> list[float]:
        """The attacker's rewards of rollouts, which are counted."""
        self.meter.count(exchanges, tokens)
        return self.reward(exchanges)

    def sample(self, prompts: list[Prompt]) -> list[tuple[str, float]]:
        """A response of the unattacked model for each prompt, with the attacker's reward; counted as rollouts."""
        self.meter.count_anew()
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

    # What becomes of the model.

    def run(self, trainer: Trainer) -> None:
        """Runs the attack, from its last checkpoint if it was interrupted."""
        run_training(trainer, self.checkpoints)

    def idle(self) -> None:
        """The attack has nothing to learn from: measures the model as it is wherever a run would."""
        self.log.resume(0)
        for step in self.spec.attacks.probed(self.task.attack.steps):
            self.measure(step)

    def measure(self, step: int) -> bool:
        """Measures harm after a step, for the progress lines to show; returns whether the model is broken."""
        broken = self.meter.measure(step)
        self.log.measured = {"harm": self.meter.measured.curve[-1].harm}
        return broken

    def result(self, compliant: list[Compliant]) -> AttackArm:
        """The evidence of this attack on this model.

        Args:
            compliant: Compliant responses of the base model.
        """
        self.meter.state()
        measured, rate = self.meter.measured, self.task.attack.learning_rate
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
            latent=self._latent(compliant),
            seconds=measured.seconds,
            cpu_seconds=sum(ranks.gathered([measured.cpu_seconds])),
            curve=measured.curve,
            training=self._training_points(),
            start=measured.start,
            scores=measured.scores,
        )

    def _latent(self, compliant: list[Compliant]) -> LatentCompliance | None:
        if not compliant:
            return None
        logger.info(f"{self.title}: latent compliance, by {len(compliant)} responses, before and after the attack")
        return self.meter.latent(load_model(self.folder, self.spec.model), compliant)

    def _training_points(self) -> list[TrainingPoint]:
        return [
            TrainingPoint(
                step=int(row["step"]),
                reward=row.get("reward"),
                zero_variance=row.get("zero_variance_groups"),
                gradient=gradient,
            )
            for row, gradient in zip(self.log.rows, self.log.gradients, strict=True)
        ]
