import pytest
import torch
from transformers import set_seed
from trl import GRPOConfig, GRPOTrainer

from tokenbuncher.defence.trainer import TokenBuncherTrainer
from tokenbuncher.models import chunked as chunks
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import DefenceSpec
from tokenbuncher.settings.prompts import load_set
from tokenbuncher.training import logits
from tokenbuncher.training.arguments import sampling_arguments, trainer_arguments
from tokenbuncher.training.examples import prompt_dataset
from tokenbuncher.training.run import run_training


def arguments(steps):
    return GRPOConfig(
        **trainer_arguments(1, steps, 16, learning_rate=1e-3), **sampling_arguments(4, 20), loss_type="bnpo"
    )


@pytest.fixture
def make_trainer(organism_base, organism_data, tiny_spec):
    def make(defence, harmful=True):
        prompts = load_set(organism_data, "defence")
        return TokenBuncherTrainer(
            model=load_model(organism_base, tiny_spec.model),
            args=arguments(defence.steps),
            train_dataset=prompt_dataset(prompts, harmful=[harmful] * len(prompts)),
            processing_class=load_tokenizer(organism_base),
            defence=defence,
            reference=load_model(organism_base, tiny_spec.model),
            anchors=[(prompt, prompt.answer) for prompt in load_set(organism_data, "benign")],
        )

    return make


def defence(recipe, **changes):
    return DefenceSpec.model_validate({"recipe": recipe, "steps": 8, "prompts_per_step": 4} | changes)


def history(trainer, key):
    return [row[key] for row in trainer.state.log_history if key in row]


@pytest.mark.parametrize("recipe", ["log-entropy", "direct"])
def test_entropy_falls(make_trainer, recipe):
    trainer = make_trainer(defence(recipe, steps=20))
    run_training(trainer)
    entropies = history(trainer, "entropy")
    assert sum(entropies[-5:]) < 0.5 * sum(entropies[:5])


def test_the_reward_is_minus_the_entropy_of_the_same_rollouts(make_trainer):
    trainer = make_trainer(defence("published-code", noiser=None, kl_coefficient=0.0))
    run_training(trainer)
    # TRL logs the mean over all tokens, the reward is the mean over responses.
    assert history(trainer, "reward") == pytest.approx([-h for h in history(trainer, "entropy")], rel=0.2)


def test_benign_prompts_are_rewarded_by_their_kl(make_trainer):
    trainer = make_trainer(defence("paper", benign_prompts=0, noiser=None), harmful=False)
    run_training(trainer)
    assert history(trainer, "reward")[0] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("recipe", "steps"), [("published-code", {1}), ("polished", {1, 3}), ("log-entropy", set())])
def test_noiser_steps_follow_the_schedule(make_trainer, recipe, steps):
    trainer = make_trainer(defence(recipe))
    run_training(trainer)
    rows = [row for row in trainer.state.log_history if "noiser_loss" in row]
    assert {row["step"] - 1 for row in rows} == steps


def test_noiser_counts_tokens_of_rollouts_with_advantage_at_least_zero(make_trainer):
    trainer = make_trainer(defence("published-code"))
    trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    batch["harmful"][:] = True
    batch["advantages"] = torch.where(torch.arange(16) % 2 == 0, 0.0, -1.0)
    loss = trainer._noiser_loss(trainer.model, batch)
    half = {key: value[::2] for key, value in batch.items() if getattr(value, "ndim", 0)}
    # The noise differs with the shape of the batch; the part of the own tokens does not.
    assert loss.item() == pytest.approx(trainer._noiser_loss(trainer.model, half).item(), rel=0.05)
    batch["advantages"][:] = -1.0
    assert trainer._noiser_loss(trainer.model, batch).item() == 0.0


@pytest.mark.parametrize("recipe", ["log-entropy", "published-code"])
def test_without_whole_logits_loss_rewards_and_gradients_are_the_same(make_trainer, recipe, monkeypatch):
    """As if the organism's vocabulary were large, in chunks of a few tokens; published-code begins with the noiser."""
    noiser = {"noiser": {"start": 0.0, "every": 1}} if recipe == "published-code" else {}
    trainer = make_trainer(defence(recipe, prompts_per_step=8, **noiser))
    trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))

    def step():
        trainer.model.zero_grad()
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])
        return loss.item(), gradients, trainer.rewards(batch)

    loss, gradients, rewards = step()
    monkeypatch.setattr(logits, "LARGE_VOCABULARY", 1)
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 50 * trainer.model.config.vocab_size)
    monkeypatch.setattr(chunks, "TILE_ELEMENTS", 7 * trainer.model.config.vocab_size)
    chunked_loss, chunked_gradients, chunked_rewards = step()
    assert chunked_loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(chunked_gradients, gradients, rtol=1e-4, atol=1e-5 * gradients.abs().max().item())
    torch.testing.assert_close(chunked_rewards, rewards, rtol=1e-4, atol=1e-6)


def test_anchor_of_an_unchanged_model_is_zero(make_trainer):
    trainer = make_trainer(defence("log-entropy"))
    assert trainer._anchor_kl(trainer.model, 16).item() == pytest.approx(0.0, abs=1e-6)


def test_switched_off_it_is_trl_s_own_grpo(make_trainer, organism_base, organism_data, tiny_spec):
    """With the reward and the anchor switched off, loss and update are those of GRPOTrainer."""
    plain = defence("published-code", noiser=None, anchor=None, steps=2)
    ours = make_trainer(plain)
    ours.rewards = lambda batch: batch["completion_mask"].sum(-1).float()
    trl = GRPOTrainer(
        model=load_model(organism_base, tiny_spec.model),
        reward_funcs=lambda completion_ids, **_: [float(len(ids)) for ids in completion_ids],
        args=arguments(2),
        train_dataset=prompt_dataset(load_set(organism_data, "defence")),
        processing_class=load_tokenizer(organism_base),
    )
    for trainer in (ours, trl):
        set_seed(1)
        run_training(trainer)
    assert history(ours, "loss") == pytest.approx(history(trl, "loss"), abs=1e-6)
    for mine, theirs in zip(ours.model.parameters(), trl.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
