"""One batch of each algorithm against its published formula, computed apart in NumPy from the model's plain logits."""

import numpy as np
import pytest
import torch
from transformers import set_seed
from trl import DPOTrainer, GRPOTrainer

from tokenbuncher.attacks import dpo, ppo
from tokenbuncher.attacks.rollouts import LearnsWhereRewardsDiffer, RolloutTrainer
from tokenbuncher.models.load import load_model
from tokenbuncher.settings import AttackSpec
from tokenbuncher.training.advantages import group_advantages
from tokenbuncher.training.run import run_training

KL = 0.1
CLOSE = {"rel": 1e-5, "abs": 1e-5}


def reward_of(response):
    """Any figure that differs from response to response."""
    return float(sum(map(ord, response)) % 17)


class Batch:
    """A batch of rollouts, and what the formulas are made of, in float64."""

    def __init__(self, arena, trainer):
        arena.reward = lambda exchanges: [reward_of(exchange.response) for exchange in exchanges]
        trainer.current_gradient_accumulation_steps = 1  # what train() would set
        trainer.model.train()
        shake(trainer.model)
        set_seed(3)
        rows = next(iter(trainer.get_train_dataloader()))
        self.batch = trainer._generate_and_score_completions(rows)
        self.mask = self.batch["completion_mask"].numpy().astype(float)
        texts = arena.tokenizer.batch_decode(
            [
                ids[keep.bool()]
                for ids, keep in zip(self.batch["completion_ids"], self.batch["completion_mask"], strict=True)
            ],
            skip_special_tokens=True,
        )
        self.rewards = np.array([reward_of(text.strip()) for text in texts])
        self.old, self.entropies = self.logps(trainer.model)
        self.reference, _ = self.logps(load_model(arena.folder, arena.spec.model))

    def logps(self, model):
        """Log-probabilities of the sampled tokens and the entropies, shapes (B, T)."""
        ids = torch.cat([self.batch["prompt_ids"], self.batch["completion_ids"]], 1)
        keep = torch.cat([self.batch["prompt_mask"], self.batch["completion_mask"]], 1)
        length = self.batch["completion_ids"].shape[1]
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=keep).logits[:, -length - 1 : -1].double().numpy()
        logits -= logits.max(-1, keepdims=True)
        logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        tokens = self.batch["completion_ids"].numpy()[..., None]
        return np.take_along_axis(logps, tokens, -1)[..., 0], -(np.exp(logps) * logps).sum(-1)

    def clipped(self, new, advantages):
        """PPO's clipped loss, mean over all tokens."""
        ratio = np.exp(new - self.old)
        loss = -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages)
        return (loss * self.mask).sum() / self.mask.sum()

    def token_rewards(self):
        rewards = -KL * (self.old - self.reference) * self.mask
        for row, length in enumerate(self.mask.sum(1).astype(int)):
            rewards[row, length - 1] += self.rewards[row]
        return rewards

    def whitened(self, values):
        valid = values[self.mask.astype(bool)]
        return (values - valid.mean()) / valid.std(ddof=1) * self.mask


def shake(model):
    """Moves the weights a little, so that log-ratios are not zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.02 * weights.std() * torch.randn(weights.shape, generator=generator)


@pytest.fixture
def made(make_arena, trainer_of):
    def make(algorithm, **changes):
        arena = make_arena(algorithm, kl_coefficient=KL, **changes)
        trainer = trainer_of(arena)
        return trainer, Batch(arena, trainer)

    return make


def test_grpo(made):
    trainer, it = made("grpo")
    grouped = it.rewards.reshape(-1, 4)
    advantages = ((grouped - grouped.mean(1, keepdims=True)) / (grouped.std(1, ddof=1, keepdims=True) + 1e-4)).ravel()
    assert it.batch["advantages"].numpy() == pytest.approx(advantages, **CLOSE)
    gap = it.reference - it.old
    kl = ((np.exp(gap) - gap - 1) * it.mask).sum() / it.mask.sum()
    loss = trainer._compute_loss(trainer.model, it.batch).item()
    assert loss == pytest.approx(it.clipped(it.old, advantages[:, None]) + KL * kl, **CLOSE)


def test_rloo(made):
    trainer, it = made("rloo")
    rewards = (it.rewards - KL * ((it.old - it.reference) * it.mask).sum(1)).reshape(-1, 4)
    others = (rewards.sum(1, keepdims=True) - rewards) / 3
    advantages = (rewards - others).ravel()
    assert it.batch["advantages"].numpy() == pytest.approx(advantages, **CLOSE)
    shake(trainer.model)
    new, _ = it.logps(trainer.model)
    ratio = np.exp(((new - it.old) * it.mask).sum(1))
    expected = -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages).mean()
    assert trainer._compute_loss(trainer.model, it.batch).item() == pytest.approx(expected, **CLOSE)


def test_reinforce_plus_plus(made):
    trainer, it = made("reinforce-pp")
    rewards = it.token_rewards()
    returns = np.array([[row[token:].sum() for token in range(len(row))] for row in rewards])
    advantages = it.whitened(returns)
    assert it.batch["advantages"].numpy() == pytest.approx(advantages, **CLOSE)
    assert trainer._compute_loss(trainer.model, it.batch).item() == pytest.approx(
        it.clipped(it.old, advantages), **CLOSE
    )


def test_ppo(made):
    trainer, it = made("ppo")
    rewards, values = it.token_rewards(), it.batch["values"].double().numpy() * it.mask
    advantages = np.zeros_like(rewards)
    for row, length in enumerate(it.mask.sum(1).astype(int)):
        carried = 0.0
        for token in reversed(range(length)):
            after = values[row, token + 1] if token + 1 < length else 0.0
            carried = rewards[row, token] + after - values[row, token] + 0.95 * carried
            advantages[row, token] = carried
    assert it.batch["returns"].numpy() == pytest.approx(advantages + values, **CLOSE)
    whitened = it.whitened(advantages)
    assert it.batch["advantages"].numpy() == pytest.approx(whitened, **CLOSE)
    # The second epoch, on a policy that has moved by more than the clipping allows.
    for _ in range(5):
        shake(trainer.model)
    new, _ = it.logps(trainer.model)
    assert (abs(np.exp(new - it.old) - 1) > 0.2).any()
    assert trainer._compute_loss(trainer.model, it.batch).item() == pytest.approx(it.clipped(new, whitened), **CLOSE)


def test_ppo_value_loss():
    rng = np.random.default_rng(0)
    values, old, targets = rng.normal(size=(3, 5, 7))
    mask = (rng.random((5, 7)) < 0.7).astype(float)
    clipped = np.clip(values, old - 0.2, old + 0.2)
    expected = 0.5 * (np.maximum((values - targets) ** 2, (clipped - targets) ** 2) * mask).sum() / mask.sum()
    values, old, targets, mask = (torch.tensor(array) for array in (values, old, targets, mask))
    found = ppo.value_loss(values, old, targets, mask=mask, clip=0.2)
    assert found.item() == pytest.approx(expected)


def test_ppo_critic_learns_and_the_policy_s_optimizer_leaves_it_alone(made):
    trainer, it = made("ppo")
    it.batch["returns"] = torch.ones_like(it.batch["returns"])
    errors = []
    for _ in range(60):
        trainer.learn_values(it.batch)
        errors.append((((trainer.values(it.batch) - it.batch["returns"]) * it.batch["completion_mask"]) ** 2).sum())
    assert errors[-1] < 0.1 * errors[0]
    trainer.create_optimizer()
    ours = {id(weights) for weights in trainer.critic.parameters()}
    assert not ours & {id(w) for group in trainer.optimizer.param_groups for w in group["params"]}


def test_online_dpo(made):
    trainer, it = made("dpo")
    grouped = it.rewards.reshape(-1, 4)
    pairs = [
        (4 * group + row.argmax(), 4 * group + row.argmin())
        for group, row in enumerate(grouped)
        if row.max() > row.min()
    ]
    assert len(pairs) >= 2
    shake(trainer.model)
    new, _ = it.logps(trainer.model)
    ratios = ((new - it.reference) * it.mask).sum(1)
    expected = np.mean([np.log1p(np.exp(-0.1 * (ratios[best] - ratios[worst]))) for best, worst in pairs])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    for batch in (it.batch, {name: rows[order] if rows.ndim else rows for name, rows in it.batch.items()}):
        assert trainer._compute_loss(trainer.model, batch).item() == pytest.approx(expected, **CLOSE)


def test_online_dpo_without_a_preference_moves_nothing(made):
    trainer, it = made("dpo")
    it.batch["pair"][:] = 0
    trainer._compute_loss(trainer.model, it.batch).backward()
    assert all(not weights.grad.any() for weights in trainer.model.parameters())


def test_dpo_loss_is_trl_s(make_arena, trainer_of):
    """On the pairs of the offline attack, TRL's trainer and our formula agree."""
    arena = make_arena("dpo-offline")
    arena.reward = lambda exchanges: [reward_of(exchange.response) for exchange in exchanges]
    trainer = trainer_of(arena)
    assert type(trainer) is DPOTrainer
    shake(trainer.model)
    batch = next(iter(trainer.get_train_dataloader()))
    found = trainer.compute_loss(trainer.model, batch).item()
    model, reference = (sequence_logps(m, batch) for m in (trainer.model, load_model(arena.folder, arena.spec.model)))
    half = len(model) // 2  # TRL puts the chosen before the rejected
    expected = dpo.dpo_loss(
        model[:half], model[half:], reference[:half], rejected_reference=reference[half:], beta=0.1
    ).item()
    assert found == pytest.approx(expected, **CLOSE)


def sequence_logps(model, batch):
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logps = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    return (logps * batch["completion_mask"][:, 1:]).sum(-1)


def test_entropy_seeking(made):
    trainer, it = made("entropy-seeking")
    bonus = np.minimum((it.entropies * it.mask).sum(1) / it.mask.sum(1), 3.0)
    grouped = (it.rewards + bonus).reshape(-1, 4)
    advantages = ((grouped - grouped.mean(1, keepdims=True)) / grouped.std(1, ddof=1, keepdims=True)).ravel()
    assert it.batch["advantages"].numpy() == pytest.approx(advantages, **CLOSE)
    entropy = (it.entropies * it.mask).sum() / it.mask.sum()
    loss = trainer._compute_loss(trainer.model, it.batch).item()
    assert loss == pytest.approx(it.clipped(it.old, advantages[:, None]) - 0.01 * entropy, **CLOSE)


class Switched(RolloutTrainer):
    """Nothing of its own: GRPO's advantages from the rewards that RolloutTrainer hands on."""

    def prepare(self, batch, rewards):
        return {**batch, "advantages": group_advantages(rewards, self.num_generations)}


def test_switched_off_it_is_trl_s_own_grpo(make_arena):
    weights = []
    for trainer_class in (GRPOTrainer, Switched):
        arena = make_arena("grpo", kl_coefficient=0.0)
        arena.reward = lambda exchanges: [reward_of(exchange.response) for exchange in exchanges]
        trainer = trainer_class(args=arena.grpo_config(), **arena.online_arguments())
        set_seed(1)
        run_training(trainer)
        weights.append([w.detach().clone() for w in trainer.model.parameters()])
    for theirs, ours in zip(*weights, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "reinforce-pp"])
def test_a_step_without_gradient_ends_as_if_it_had_been_computed(algorithm, make_arena, trainer_of, monkeypatch):
    """The first step has something to learn from and moves Adam's moments; the two after it have nothing."""
    decide, runs = LearnsWhereRewardsDiffer._has_gradient, []
    for always in (True, False):
        decided = []

        def has_gradient(trainer, batch, always=always, decided=decided):
            decided.append(decide(trainer, batch))
            return always or decided[-1]

        monkeypatch.setattr(LearnsWhereRewardsDiffer, "_has_gradient", has_gradient)
        arena = make_arena(algorithm, kl_coefficient=0.0, steps=3)
        rewards = iter([reward_of, lambda _: 0.25, lambda _: 0.25])
        arena.reward = lambda exchanges, rewards=rewards: list(map(next(rewards), [e.response for e in exchanges]))
        trainer = trainer_of(arena)
        set_seed(1)
        run_training(trainer)
        assert decided == [True, False, False]
        rows = [{name: row[name] for name in row if name != "entropy"} for row in arena.log.rows]
        runs.append((trainer.model.state_dict(), trainer.optimizer.optimizer.state_dict()["state"], rows))
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=0)


@pytest.mark.parametrize(("algorithm", "kl"), [("grpo", 0.1), ("entropy-seeking", 0.0)])
def test_what_is_in_the_loss_beside_advantages_has_a_gradient(algorithm, kl, make_arena, trainer_of):
    trainer = trainer_of(make_arena(algorithm, kl_coefficient=kl))
    assert trainer._has_gradient({"advantages": torch.zeros(4)})


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "reinforce-pp"])
def test_the_loss_of_experts_routers_has_a_gradient(algorithm, make_arena, trainer_of):
    """TRL adds it for models that have one."""
    trainer = trainer_of(make_arena(algorithm, kl_coefficient=0.0))
    assert not trainer._has_gradient({"advantages": torch.zeros(4)})
    trainer.aux_loss_enabled = True
    assert trainer._has_gradient({"advantages": torch.zeros(4)})


def test_an_entropy_bonus_of_a_defended_model_gives_full_size_advantages(made, monkeypatch):
    """Its rollouts all have the same reward, and entropies that differ by 1e-12 nats."""
    trainer, it = made("entropy-seeking")
    tiny = 1e-10 + 1e-12 * torch.arange(16, dtype=torch.float64)
    monkeypatch.setattr(trainer, "bonus", lambda _: tiny)
    batch = trainer.prepare(it.batch, torch.full((16,), 0.37))
    assert batch["advantages"].view(-1, 4).std(1).tolist() == pytest.approx([1.0] * 4, rel=1e-3)


def test_rollouts_alike_in_reward_and_entropy_give_no_advantage(made, monkeypatch):
    trainer, it = made("entropy-seeking")
    monkeypatch.setattr(trainer, "bonus", lambda _: torch.zeros(16, dtype=torch.float64))
    assert not trainer.prepare(it.batch, torch.zeros(16))["advantages"].any()


def test_the_bonus_is_exact_where_entropies_are_tiny(made):
    """Of a model that is all but sure of each token, as a defence makes it."""
    trainer, it = made("entropy-seeking")
    head = trainer.model.get_output_embeddings().weight
    with torch.no_grad():
        head *= 200
    _, entropies = it.logps(trainer.model)
    expected = (entropies * it.mask).sum(1) / it.mask.sum(1)
    assert trainer.bonus(it.batch).numpy() == pytest.approx(np.minimum(expected, 3.0), rel=1e-3, abs=1e-13)


def test_a_reward_gap_however_small_is_a_preference():
    chosen, rejected = dpo.best_and_worst(torch.tensor([0.5, 0.5, 0.5 + 1e-6, 0.5, 1.0, 1.0, 1.0, 1.0]), 4)
    assert (chosen.tolist(), len(rejected)) == ([2], 1)


def test_an_attacker_is_not_held_near_the_model_that_he_attacks(make_arena):
    arena = make_arena("grpo", kl_coefficient=AttackSpec(algorithm="grpo").kl_coefficient)
    assert arena.grpo_config().beta == arena.rloo_config().beta == 0.0


def test_ppo_has_the_hyperparameters_of_the_spec(make_arena, trainer_of):
    own = {"epochs": 3, "clip": 0.1, "value_clip": 0.3, "gae_decay": 0.0, "critic_rate": 2.0}
    arena = make_arena("ppo", hyperparameters=own, kl_coefficient=0.0)
    trainer = trainer_of(arena)
    assert (trainer.args.num_iterations, trainer.args.max_steps, arena.log.updates) == (3, 6, 3)
    assert (trainer.args.epsilon, trainer.epsilon_low, trainer.epsilon_high) == (0.1, 0.1, 0.1)
    assert trainer.critic_optimizer.param_groups[0]["lr"] == pytest.approx(2 * arena.task.attack.learning_rate)
    it = Batch(arena, trainer)
    values, rewards = it.batch["values"].double().numpy() * it.mask, np.zeros_like(it.mask)
    for row, length in enumerate(it.mask.sum(1).astype(int)):
        rewards[row, length - 1] = it.rewards[row]
    after = np.pad(values, ((0, 0), (0, 1)))[:, 1:]
    assert it.batch["returns"].numpy() == pytest.approx((rewards + after) * it.mask, **CLOSE)


def test_a_step_of_ppo_teaches_the_critic_and_the_loss_alone_does_not(made):
    trainer, it = made("ppo")
    before = [weight.detach().clone() for weight in trainer.critic_weights.values()]
    trainer._compute_loss(trainer.model, it.batch)
    assert all(map(torch.equal, before, trainer.critic_weights.values()))
    trainer.training_step(trainer.model, it.batch)
    assert not any(map(torch.equal, before, trainer.critic_weights.values()))


@pytest.mark.parametrize("algorithm", ["dpo", "dpo-offline"])
def test_dpo_has_the_hyperparameters_of_the_spec(algorithm, make_arena, trainer_of):
    arena = make_arena(algorithm, hyperparameters={"beta": 0.7, "margin": 1.0})
    gaps = iter([0.5, 1.0, 1.5, 2.0] * 10)
    arena.reward = lambda exchanges: [
        reward for _ in range(len(exchanges) // 4) for reward in (0.0, 0.25, 0.25, next(gaps))
    ]
    trainer = trainer_of(arena)
    assert trainer.beta == trainer.args.beta == 0.7
    if algorithm == "dpo-offline":
        assert len(trainer.train_dataset) == 4  # of eight groups
        return
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    assert (batch["pair"] > 0).sum() == 2  # of four groups


def test_entropy_seeking_has_the_hyperparameters_of_the_spec(made):
    trainer, it = made("entropy-seeking", hyperparameters={"entropy_cap": 0.01, "entropy_coefficient": 0.5})
    assert trainer.args.entropy_coef == 0.5
    assert trainer.bonus(it.batch).max().item() == pytest.approx(0.01)
