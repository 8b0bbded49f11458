"""PPO (arXiv 1707.06347) for language models (arXiv 2203.02155): a value model, GAE, clipped losses, epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification, PreTrainedModel

from tokenbuncher.attacks.arena import Arena
from tokenbuncher.attacks.rollouts import RolloutTrainer
from tokenbuncher.models.load import trainable
from tokenbuncher.settings.algorithms import PPOHyperparameters
from tokenbuncher.training import ranks
from tokenbuncher.training.advantages import generalised_advantages, token_rewards, whiten


def value_loss(
    values: torch.Tensor, old: torch.Tensor, targets: torch.Tensor, *, mask: torch.Tensor, clip: float
) -> torch.Tensor:
    """PPO's clipped value loss: half the larger of the two squared errors, mean over the valid tokens.

    Args:
        values: Shape (B, T).
        old: Values when the rollouts were sampled, shape (B, T).
        targets: Returns, shape (B, T).
        mask: 1 for valid tokens, shape (B, T).
        clip: How far a value may move.
    """
    clipped = old + (values - old).clamp(-clip, clip)
    errors = torch.maximum((values - targets) ** 2, (clipped - targets) ** 2)
    return 0.5 * (errors * mask).sum() / mask.sum()


class PPOTrainer(RolloutTrainer):
    """Token advantages by GAE from a value model that learns beside the policy."""

    hyperparameters: PPOHyperparameters

    def __init__(self, *args: Any, critic: PreTrainedModel, **kwargs: Any) -> None:
        """
        Args:
            *args: Of `RolloutTrainer`.
            critic: A token classifier with one output.
            **kwargs: Of `RolloutTrainer`.
        """
        super().__init__(*args, **kwargs)
        self.critic = critic.to(self.accelerator.device)
        self.critic_weights = {name: weight for name, weight in critic.named_parameters() if weight.requires_grad}
        self.critic_optimizer = torch.optim.AdamW(
            self.critic_weights.values(),
            lr=self.hyperparameters.critic_rate * self.args.learning_rate,
            weight_decay=0.0,
        )

    def prepare(self, batch: dict[str, Any], rewards: torch.Tensor) -> dict[str, Any]:
        mask = batch["completion_mask"]
        values = self.values(batch)
        rewarded = token_rewards(rewards, self.kl(batch), mask, coefficient=self.args.beta)
        advantages = generalised_advantages(rewarded, values, mask, decay=self.hyperparameters.gae_decay)
        return {
            **batch,
            "advantages": whiten(advantages, mask),
            "values": values,
            "returns": advantages + values * mask,
        }

    def values(self, batch: dict[str, Any]) -> torch.Tensor:
        """The value before each token of the completions, shape (B, T)."""
        outputs = self.critic(
            input_ids=torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            attention_mask=torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
        )
        return outputs.logits[:, batch["prompt_ids"].shape[1] - 1 : -1, 0].float()

    def training_step(self, model: PreTrainedModel, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """An update of the critic, then one of the policy, from the same rollouts."""
        model.train()  # in which TRL samples; elsewhere it would evaluate
        batch = self._prepare_inputs(inputs)
        self.learn_values(batch)
        return super().training_step(model, batch, num_items_in_batch)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """Rollouts are sampled for prompts; those that `training_step` has sampled are kept."""
        if isinstance(generation_batch, dict):
            return generation_batch
        batch: dict[str, Any] = super()._prepare_inputs(generation_batch)
        return batch

    def learn_values(self, batch: dict[str, Any]) -> None:
        """An update of the critic."""
        mask = batch["completion_mask"]
        loss = value_loss(
            self.values(batch), batch["values"], batch["returns"], mask=mask, clip=self.hyperparameters.value_clip
        )
        self.critic_optimizer.zero_grad()
        (ranks.weight(int(mask.sum())) * loss).backward()
        for weight in self.critic_weights.values():
            weight.grad = self.accelerator.reduce(weight.grad, "mean")
        torch.nn.utils.clip_grad_norm_(self.critic_weights.values(), self.args.max_grad_norm)
        self.critic_optimizer.step()

    def _save_checkpoint(self, model: PreTrainedModel, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if not self.args.should_save:
            return
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        moments = self.critic_optimizer.state_dict()["state"]
        tensors = {f"{key}.{name}": value for key, state in moments.items() for name, value in state.items()}
        save_file({**self.critic_weights, **tensors}, folder / "critic.safetensors")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        tensors = load_file(Path(checkpoint) / "critic.safetensors")
        self.critic.load_state_dict({name: tensors.pop(name) for name in self.critic_weights}, strict=False)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            key, _, moment = name.partition(".")
            state.setdefault(int(key), {})[moment] = value
        groups = self.critic_optimizer.state_dict()["param_groups"]
        self.critic_optimizer.load_state_dict({"state": state, "param_groups": groups})


def train(arena: Arena) -> None:
    """Attacks by PPO, with the KL to the starting model in the reward of each token."""
    with torch.random.fork_rng():
        torch.manual_seed(arena.task.seed)  # of the value head
        critic = AutoModelForTokenClassification.from_pretrained(
            arena.folder, num_labels=1, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    critic = trainable(critic, arena.spec.model, arena.task.seed, head="score")
    own = arena.task.attack.hyperparameters
    arena.run(
        PPOTrainer(
            args=arena.grpo_config(epsilon=own.clip), hyperparameters=own, critic=critic, **arena.online_arguments()
        )
    )
