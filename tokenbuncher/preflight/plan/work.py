"""What each stage does: passes of sequences through the model, counted as the stage's code makes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from tokenbuncher.settings import AttackSpec, AttackTask, CertainRefusalSpec, FineTuningSpec, ReleaseSpec
from tokenbuncher.settings.attacks import LATENT_SAMPLES
from tokenbuncher.settings.defence import WATCHED, WATCHED_EVERY
from tokenbuncher.settings.judges import ClassifierSpec, EnsembleSpec, HarmBenchSpec, JudgeModel

TUNING_PROBES = 5
COMPLIANT = 0.5
"""Share of a broken model's samples that comply."""
LEARNT_REWARD = 1.2
"""Seconds in which `organism-classifier` is learnt before each run of an attack, on a CPU core."""


class Assumptions(NamedTuple):
    """What a spec does not tell."""

    prompt: float
    """Tokens of a prompt in the chat template, padded to the longest of its batch."""
    length: float
    """Longest response of a batch, as a share of model.max_new_tokens; shorter ones are padded to it."""
    control: float
    """Share of its steps that an attack runs on the base model until that is broken."""


def expected(spec: ReleaseSpec) -> Assumptions:
    """The usual case: prompts of the built-in world have 14 tokens, HarmBench's, by 64 in SmolLM2's template, 60."""
    return Assumptions(prompt=14 if spec.data.harmful == "organism" else 60, length=0.7, control=0.25)


def at_most(spec: ReleaseSpec, longest_prompt: float | None = None) -> Assumptions:
    """Nothing ends early: no response, and no attack. Every batch has the longest prompt, if that is known."""
    prompt = max(expected(spec).prompt, longest_prompt or 0)
    return Assumptions(prompt=prompt, length=1.0, control=1.0)


What = Literal["rollouts", "scoring", "training", "measuring", "judging", "rewarding"]
Kind = Literal["generate", "forward", "train"]


@dataclass(frozen=True)
class Pass:
    """Sequences that go through the model, all of them at once or `batch` at a time, and that so many times."""

    what: What
    kind: Kind
    times: float
    sequences: float
    prompt: float
    response: float
    batch: float | None = None
    shared: bool = False
    """Whether the processes share it out; what is measured, each of them measures."""

    @property
    def tokens(self) -> float:
        """Tokens of all of it, padding included."""
        return self.times * self.sequences * (self.prompt + self.response)

    @property
    def responses(self) -> float:
        """Those of the responses."""
        return self.times * self.sequences * self.response


@dataclass(frozen=True)
class StageWork:
    """What a task of the pipeline does."""

    name: str
    passes: list[Pass] = field(default_factory=list)
    steps: float = 0
    rollouts: float = 0
    files: float = 0
    """How often the files of a model are read, written or hashed."""
    saved: float = 0
    """Checkpoints of a training."""
    prepared: float = 0
    """Seconds of preparation beside the model."""
    whole: int = 0
    """Frozen models beside the main one, not shared out among processes."""
    references: int = 0
    """Frozen models that FSDP shares out; none with LoRA, whose frozen weights serve."""
    critics: int = 0
    judged: bool = False
    """Whether the judge is loaded."""
    rewarded: bool = False
    """Whether the attacker's reward is."""
    distributed: bool = False
    """Whether `compute` has it trained by several processes."""


def stages(spec: ReleaseSpec, assumed: Assumptions) -> list[StageWork]:
    """The tasks of the release pipeline, in their order."""
    counted = _Counted(spec, assumed)
    return [
        StageWork("fetch-model", files=3),
        StageWork("prepare-data"),
        counted.defend(),
        *([counted.controls()] if spec.controls_can_wait else []),
        *(counted.attack(task) for task in spec.attacks.tasks()),
        counted.safety(),
        counted.utility(),
        StageWork("register", files=2),
        StageWork("gate"),
        StageWork("promote", files=1),
    ]


class Judges(NamedTuple):
    """Parameters of each judge, and of the attacker's reward, where these are models."""

    judge: float
    reward: float


def judges(spec: ReleaseSpec) -> list[str | JudgeModel]:
    """The judge of the spec, or those of its ensemble."""
    judge = spec.evaluation.judge
    return list(judge.judges) if isinstance(judge, EnsembleSpec) else [judge]


def readers(settings: Sequence[str | JudgeModel]) -> list[ClassifierSpec | HarmBenchSpec]:
    """Those judges or rewards that are models on the device."""
    return [one for one in settings if isinstance(one, ClassifierSpec | HarmBenchSpec)]


class _Counted:
    def __init__(self, spec: ReleaseSpec, assumed: Assumptions) -> None:
        self.spec, self.assumed = spec, assumed
        self.prompt, self.response = assumed.prompt, assumed.length * spec.model.max_new_tokens
        self.batch = spec.evaluation.batch_size

    def defend(self) -> StageWork:
        """As `tokenbuncher.defence.defend`."""
        defence = self.spec.defence
        if defence.recipe == "none":
            return StageWork("defend", files=2)
        if defence.certain_refusal:
            return self._certain_refusal(defence.certain_refusal)
        rollouts, steps = defence.prompts_per_step * defence.rollouts, defence.steps
        passes = [
            self._pass("rollouts", "generate", rollouts, times=steps, shared=True),
            self._pass("training", "train", rollouts, times=steps, shared=True),
        ]
        if defence.entropy == "reward" or defence.noiser:  # model and reference
            passes += [self._pass("scoring", "forward", rollouts, times=2 * steps, shared=True)]
        if defence.anchor:
            passes += [
                self._pass("measuring", "generate", self.spec.data.sizes.benign, batch=self.batch),
                self._pass("scoring", "forward", defence.anchor.examples, times=steps, shared=True),
                self._pass("training", "train", defence.anchor.examples, times=steps, shared=True),
            ]
        watched = min(WATCHED, self.spec.data.sizes.defence)
        passes += [self._pass("measuring", "generate", watched, times=steps // WATCHED_EVERY + 2, batch=self.batch)]
        saved = steps // self.spec.output.checkpoint_every
        return StageWork("defend", passes, steps, rollouts * steps, 4, saved, whole=1, distributed=True)

    def _certain_refusal(self, certain: CertainRefusalSpec) -> StageWork:
        """For all steps; it ends as soon as its target is reached."""
        sizes, steps, batch = self.spec.data.sizes, self.spec.defence.steps, self.batch
        prompts, benign = self.spec.defence.prompts_per_step, 2 * certain.benign_examples
        probes, held_out = steps // certain.probe_every + 1, certain.held_out
        answered = 2 * self.spec.data.defence_prompts + sizes.benign + 2 * certain.mixed_prompts + 2 * held_out
        passes = [
            self._pass("measuring", "generate", answered, batch=batch),
            self._pass("training", "train", prompts + benign, times=steps, shared=True),
            self._pass("scoring", "forward", benign, times=steps, shared=True),
            self._pass("measuring", "generate", 3 * held_out, times=probes, batch=batch),
            self._pass("scoring", "forward", 5 * held_out, times=probes, batch=batch),
        ]
        saved = steps // self.spec.output.checkpoint_every
        return StageWork("defend", passes, steps, 0, 4, saved, whole=1, distributed=True)

    def controls(self) -> StageWork:
        """As `tokenbuncher.attacks.controls`: every attack on the base model."""
        return _in_turn("controls", [self._control(task.attack) for task in self.spec.attacks.tasks()], files=1)

    def attack(self, task: AttackTask) -> StageWork:
        """As `tokenbuncher.attacks.attack`: on the candidate; before that on the base model, if still to do."""
        control, candidate = self._control(task.attack), self._candidate(task.attack)
        arms = [candidate] if self.spec.controls_can_wait else [control, candidate]
        return replace(_in_turn(f"attack {task.key}", arms, files=4), distributed=True)

    def _control(self, attack: AttackSpec) -> StageWork:
        every = self.spec.attacks.probe_every
        broken_at = every * math.ceil(attack.steps * self.assumed.control / every)
        return self._arm("control", attack, min(attack.steps, broken_at))

    def _candidate(self, attack: AttackSpec) -> StageWork:
        return self._arm("candidate", attack, attack.steps)

    def _arm(self, name: Literal["control", "candidate"], attack: AttackSpec, steps: int) -> StageWork:
        """An attack on one model, with each of its learning rates."""
        rates = len(attack.learning_rate) if isinstance(attack.learning_rate, list) else 1
        return StageWork(
            name,
            rates * list(self._run(attack, steps, rising=name == "control")),
            rates * steps,
            rates * attack.sampled(steps),
            files=2 * rates,
            saved=rates * steps // self.spec.output.checkpoint_every,
            prepared=rates * LEARNT_REWARD * (self.spec.attacks.reward == "organism-classifier"),
            references=int(attack.traits.reference or _has_kl(attack)),
            critics=int(attack.traits.critic),
        )

    def _run(self, attack: AttackSpec, steps: int, rising: bool) -> Iterator[Pass]:
        """`rising`: harm rises from probe to probe, and each is followed by a full measurement; else the last is."""
        yield from self._warm_up(attack)
        yield from self._learning(attack, steps)
        settings, held_out = self.spec.attacks, self.spec.data.sizes.safety
        probes = math.ceil(steps / settings.probe_every)
        full = 1 + (min(probes, 4) if rising else 1)  # the first before any step
        samples = self.spec.evaluation.samples_per_prompt
        yield from self._measured(settings.probe_prompts, probes)
        yield from self._measured(held_out * samples, full)
        if rising:
            yield from self._measured(held_out * LATENT_SAMPLES)
        # Latent compliance: the model before and after, and of the control the samples' own probabilities.
        compliant = round(COMPLIANT * held_out * LATENT_SAMPLES)
        yield self._pass("measuring", "forward", compliant, times=3 if rising else 2, batch=self.batch)

    def _warm_up(self, attack: AttackSpec) -> Iterator[Pass]:
        if attack.warm_up:
            yield self._pass("training", "train", attack.warm_up.examples, times=attack.warm_up.steps, shared=True)

    def _learning(self, attack: AttackSpec, steps: int) -> Iterator[Pass]:
        sequences, traits = attack.prompts_per_step * attack.rollouts, attack.traits
        if traits.samples == "each step":
            yield self._pass("rollouts", "generate", sequences, times=steps, shared=True)
            yield from self._rewarded(sequences, steps)
        elif traits.samples == "beforehand":  # by each process, and a pair for each prompt is learnt from
            yield self._pass("rollouts", "generate", attack.sampled(steps), batch=self.batch)
            yield from self._rewarded(attack.sampled(steps), 1)
            sequences = 2 * attack.prompts_per_step
        scored = traits.scored + (traits.scored_for_kl if _has_kl(attack) else 0)
        yield self._pass("scoring", "forward", sequences, times=scored * steps, shared=True)
        trained = (1 + traits.critic) * attack.hyperparameters.updates
        yield self._pass("training", "train", sequences, times=trained * steps, shared=True)

    def safety(self) -> StageWork:
        """As `tokenbuncher.evaluation.safety`."""
        asked = self.spec.data.sizes.safety + self.spec.benign_prompts() + self.spec.look_alike_prompts()
        passes = list(self._measured(asked * self.spec.evaluation.samples_per_prompt, 2))
        return StageWork("evaluate-safety", passes, files=4, judged=True)

    def utility(self) -> StageWork:
        """As `tokenbuncher.evaluation.utility`."""
        tuning, harness = self.spec.evaluation.fine_tuning, self.spec.evaluation.harness
        asked = self.spec.data.sizes.utility + (len(harness.tasks) * (harness.limit or 0) if harness else 0)
        passes = [self._pass("measuring", "generate", asked, times=2, batch=self.batch)]
        if tuning is None:
            return StageWork("evaluate-utility", passes, files=4)
        passes += [one for _ in ("base", "candidate") for one in self._fine_tuning(tuning)]
        rollouts = tuning.prompts_per_step * tuning.rollouts
        return StageWork(
            "evaluate-utility",
            passes,
            2 * (tuning.rl_steps + tuning.sft_steps),
            2 * tuning.rl_steps * rollouts,
            files=12,
            references=int(tuning.kl_coefficient > 0),
            judged=True,
        )

    def _fine_tuning(self, tuning: FineTuningSpec) -> Iterator[Pass]:
        rollouts, sizes = tuning.prompts_per_step * tuning.rollouts, self.spec.data.sizes
        yield self._pass("rollouts", "generate", rollouts, times=tuning.rl_steps)
        yield self._pass("scoring", "forward", rollouts, times=tuning.rl_steps * (tuning.kl_coefficient > 0))
        yield self._pass("training", "train", rollouts, times=tuning.rl_steps + tuning.sft_steps)
        yield self._pass("measuring", "generate", sizes.tuning, times=2 * TUNING_PROBES, batch=self.batch)
        yield from self._measured(sizes.safety, 2)

    def _measured(self, sequences: int, times: int = 1) -> Iterator[Pass]:
        yield self._pass("measuring", "generate", sequences, times=times, batch=self.batch)
        for judge in readers(judges(self.spec)):
            yield self._pass("judging", "forward", sequences, times=times, batch=judge.batch_size)

    def _rewarded(self, sequences: int, times: int) -> Iterator[Pass]:
        for reward in readers([self.spec.attacks.reward]):
            yield self._pass("rewarding", "forward", sequences, times=times, batch=reward.batch_size)

    def _pass(
        self,
        what: What,
        kind: Kind,
        sequences: int,
        *,
        times: int = 1,
        batch: int | None = None,
        shared: bool = False,
    ) -> Pass:
        return Pass(what, kind, times, sequences, self.prompt, self.response, batch, shared)


def _has_kl(attack: AttackSpec) -> bool:
    return attack.traits.scored_for_kl > 0 and attack.kl_coefficient > 0


def _in_turn(name: str, arms: Sequence[StageWork], files: int) -> StageWork:
    """A task that does several attacks, one after the other, and reads or writes so many files beside theirs."""
    heaviest = max(arms, key=lambda arm: (arm.critics, arm.references))
    return StageWork(
        name,
        [one for arm in arms for one in arm.passes],
        sum(arm.steps for arm in arms),
        sum(arm.rollouts for arm in arms),
        files + sum(arm.files for arm in arms),
        sum(arm.saved for arm in arms),
        sum(arm.prepared for arm in arms),
        references=heaviest.references,
        critics=heaviest.critics,
        judged=True,
        rewarded=True,
    )
