"""Long prompts, short models and trainings without a gradient: nothing is cut, filtered or counted unseen."""

import json
import random
import shutil

import datasets
import pytest
from transformers import AutoConfig, BloomConfig, GPT2Config, LlamaConfig, MambaConfig, MptConfig
from trl import DPOConfig, GRPOConfig, RLOOConfig, SFTConfig

from tests.evidence_factory import changed, passing_release
from tokenbuncher.attacks import attack, controls, dpo_offline
from tokenbuncher.attacks.arena import Arena
from tokenbuncher.builtin.organism import world
from tokenbuncher.core.errors import UserError
from tokenbuncher.defence import defend
from tokenbuncher.evaluation import evaluate_safety, evaluate_utility
from tokenbuncher.evidence import read_evidence
from tokenbuncher.inputs import prepare_data
from tokenbuncher.models.lengths import room_of
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import AttackSpec, FineTuningSpec, ModelSpec, VllmSpec, parse_spec
from tokenbuncher.settings.prompts import Prompt, load_set
from tokenbuncher.training.arguments import sft_config, vllm_arguments
from tokenbuncher.training.examples import check_whole, sft_trainer

WORDS = 1_500


def long_prompts(count, words=WORDS, answer="sure , take it ."):
    rng = random.Random(0)
    return [Prompt(text=" ".join(rng.choices(world.vocabulary(), k=words)), answer=answer) for _ in range(count)]


@pytest.fixture
def model_of(organism_base, tmp_path):
    """The built-in model with so many positions."""

    def made(positions):
        folder = shutil.copytree(organism_base, tmp_path / f"model-{positions}")
        path = folder / "config.json"
        config = json.loads(path.read_bytes()) | {"max_position_embeddings": positions}
        path.write_text(json.dumps(config), encoding="utf-8")
        return folder

    return made


# Nothing is cut


def test_long_prompts_are_fine_tuned_on_whole(model_of):
    folder = model_of(4096)
    tokenizer, prompts = load_tokenizer(folder), long_prompts(6)
    trainer = sft_trainer(
        load_model(folder, ModelSpec()),
        sft_config(0, 1, 2, learning_rate=1e-4),
        prompts,
        tokenizer=tokenizer,
        callbacks=[],
    )
    assert len(trainer.train_dataset) == 6
    for row, prompt in zip(trainer.train_dataset, prompts, strict=True):
        learnt = [label for label in row["labels"] if label != -100]
        assert tokenizer.decode(learnt, skip_special_tokens=True) == prompt.answer
        assert prompt.text in tokenizer.decode(row["input_ids"])
    assert max(len(row) for row in next(iter(trainer.get_train_dataloader()))["input_ids"]) > WORDS
    trainer.train()


def arena_of(spec, tmp_path, data, base, prompts, **attack):
    budget = spec.attacks.suite[0].model_dump(include={"steps", "prompts_per_step"})
    suite = [AttackSpec.model_validate({"algorithm": "grpo"} | budget | attack)]
    spec = changed(spec, attacks=changed(spec.attacks, suite=suite))
    arena = Arena(
        spec, replace_rate(spec.attacks.tasks()[0]), "control", folder=base, data=data, work=tmp_path / "work"
    )
    arena.prompts = prompts
    return arena


def replace_rate(task):
    return changed(task, attack=changed(task.attack, learning_rate=1e-4))


def test_long_preferences_are_learnt_from_whole(tiny_spec, organism_data, model_of, tmp_path, monkeypatch):
    base, prompts, ran = model_of(4096), long_prompts(4), []
    arena = arena_of(tiny_spec, tmp_path, organism_data, base, prompts, algorithm="dpo-offline")
    answers = ["sure , take it .", "no , i can not help with that ."]
    monkeypatch.setattr(arena, "sample", lambda asked: [(answers[i % 2], float(i % 2)) for i, _ in enumerate(asked)])
    monkeypatch.setattr(arena, "run", ran.append)
    dpo_offline.train(arena)
    [trainer] = ran
    assert len(trainer.train_dataset) == 8
    for row in trainer.train_dataset:
        assert len(row["prompt_ids"]) > WORDS
        for column, text in (("chosen_ids", answers[1]), ("rejected_ids", answers[0])):
            assert arena.tokenizer.decode(row[column], skip_special_tokens=True) == text
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[1] > WORDS
    assert batch["completion_mask"].sum() > 0


def test_no_trainer_is_left_to_its_library_s_lengths(tiny_spec, organism_data, organism_base, tmp_path):
    arena = arena_of(tiny_spec, tmp_path, organism_data, organism_base, long_prompts(4, 5))
    for config in (arena.sft_config(), arena.dpo_config(0.1), sft_config(0, 1, 2, learning_rate=1e-4)):
        assert (config.max_length, config.padding_free, config.pad_to_multiple_of) == (None, False, None)
    for config in (arena.grpo_config(), arena.rloo_config()):
        assert config.mask_truncated_completions is False
        assert config.max_completion_length == tiny_spec.model.max_new_tokens
        assert (config.min_p, config.repetition_penalty, config.top_k, config.top_p) == (None, 1.0, 0, 1.0)
        assert config.generation_kwargs is None
    assert arena.grpo_config().top_entropy_quantile == 1.0


@pytest.mark.parametrize("config", [SFTConfig, DPOConfig, GRPOConfig, RLOOConfig])
def test_the_library_has_no_length_that_is_not_set_here(config):
    """A new field of TRL that cuts, drops or masks by default must be settled, too."""
    known = {
        *("max_length", "truncation_mode", "max_completion_length", "mask_truncated_completions", "max_steps"),
        *("max_grad_norm", "vllm_max_model_length", "dataloader_drop_last", "max_tool_calling_iterations"),
        *("off_policy_mask_threshold", "log_unique_prompts"),
    }
    alike = ("max_", "trunc", "drop_", "mask", "unique", "filter")
    found = {name for name in config.__dataclass_fields__ if any(part in name for part in alike)}
    ours = {"logging_nan_inf_filter", "vllm_max_model_len", "entropy_coef_max"}
    assert found - known - ours == set()


def test_answers_that_a_template_drops_are_refused(organism_base):
    tokenizer = load_tokenizer(organism_base)
    tokenizer.chat_template = "{% for m in messages if m['role'] == 'user' %}<user> {{ m['content'] }} {% endfor %}"
    model = load_model(organism_base, ModelSpec())
    with pytest.raises(UserError, match="of 3 examples SFTTrainer can learn from 0 only"):
        sft_trainer(
            model, sft_config(0, 1, 2, learning_rate=1e-4), long_prompts(3, 5), tokenizer=tokenizer, callbacks=[]
        )


def test_rows_that_a_trainer_drops_are_noticed():
    class Dropping:
        train_dataset = datasets.Dataset.from_dict({"labels": [[-100, 3], [-100, -100]]})

    with pytest.raises(UserError, match="of 3 examples Dropping can learn from 1 only"):
        check_whole(Dropping(), 3, "labels")


def test_vllm_ends_responses_where_they_end(monkeypatch):
    monkeypatch.setattr("tokenbuncher.training.arguments.is_vllm_available", lambda: True)
    assert vllm_arguments(VllmSpec(), {5, 1})["generation_kwargs"] == {"stop_token_ids": [1, 5]}


# Prompts beyond the model's positions


def stages(spec, data, base, out):
    yield lambda: defend(spec, data, base, out=out)
    yield lambda: defend(changed(spec, defence=changed(spec.defence, recipe="none")), data, base, out=out)
    yield lambda: controls(spec, data, base, out=out)
    yield lambda: attack(spec, "grpo-1000", data, base=base, candidate=base, out=out)
    yield lambda: evaluate_safety(spec, data, base, candidate=base, out=out)
    yield lambda: evaluate_utility(spec, data, base, candidate=base, out=out)


def test_prompts_beyond_the_positions_are_refused_before_any_work(tiny_spec, organism_data, model_of, tmp_path):
    base, out = model_of(30), tmp_path / "out"
    spec = changed(tiny_spec, output=changed(tiny_spec.output, root=tmp_path / "runs"))
    for stage in stages(spec, organism_data, base, out):
        with pytest.raises(UserError, match=r"prompts of the set \w+ are too long.*reads 30 tokens.*line \d+ \(prompt"):
            stage()
        assert not out.exists()
        assert not (tmp_path / "runs").exists()


@pytest.fixture
def prompt_file(tmp_path):
    def written(prompts):
        path = tmp_path / "prompts.jsonl"
        rows = [json.dumps({"prompt": prompt.text, "answer": prompt.answer}) + "\n" for prompt in prompts]
        path.write_text("".join(rows), encoding="utf-8")
        return path

    return written


def prepared(tiny_spec, path, model, out, *overrides):
    sizes = "{defence: 8, attack: 8, safety: 20, benign: 32, utility: 24, tuning: 20, benign_test: 24, look_alikes: 20}"
    harmful = f"data.harmful={{path: {path}, answer: answer}}"
    own = [f"model.source={model}", f"data.sizes={sizes}", harmful]
    for field in ("benign_test", "look_alikes"):
        harmless = path.with_name(f"{field}.jsonl")
        rows = [json.dumps({"prompt": f"{field} number {n} , please"}) + "\n" for n in range(30)]
        harmless.write_text("".join(rows), encoding="utf-8")
        own.append(f"data.{field}={{path: {harmless}}}")
    spec = parse_spec(tiny_spec.to_yaml(), [*own, *overrides])
    prepare_data(spec, out)
    return load_set(out, "safety")


@pytest.mark.parametrize("source", ["organism://", "folder", "file://"])
def test_prepare_data_refuses_them_if_the_model_is_here(source, tiny_spec, prompt_file, model_of, tmp_path):
    folder = model_of(128)
    model = {"folder": str(folder), "file://": f"file://{folder}"}.get(source, source)
    path = prompt_file([*long_prompts(39, 20), *long_prompts(1, 300)])
    with pytest.raises(UserError, match=r"1 of \d+ prompts of the set \w+ are too long for the model, which reads 128"):
        prepared(tiny_spec, path, model, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_prompt_that_just_fits_is_taken(tiny_spec, prompt_file, model_of, tmp_path):
    """`<user> ... <assistant>` and 20 tokens of a response."""
    prompts = prompt_file(long_prompts(40, 128 - 20 - 2))
    model = model_of(128)
    assert len(prepared(tiny_spec, prompts, model, tmp_path / "data")) == 20
    with pytest.raises(UserError, match="has 108 tokens, and its response up to 21"):
        prepared(tiny_spec, prompts, model, tmp_path / "other", "model.max_new_tokens=21")


def test_answers_that_are_taught_need_room_too(tiny_spec, prompt_file, model_of, tmp_path):
    path = prompt_file(long_prompts(40, 60, answer=" ".join(["sure"] * 80)))
    with pytest.raises(UserError, match=r"prompts of the set attack .*has 62 tokens, and its response up to 81"):
        prepared(tiny_spec, path, model_of(128), tmp_path / "data")


@pytest.mark.parametrize(
    ("config", "room"),
    [
        (LlamaConfig(max_position_embeddings=77), 77),
        (GPT2Config(n_positions=64), 64),
        (MptConfig(max_seq_len=99), 99),
        (BloomConfig(), None),
        (MambaConfig(), None),
        (AutoConfig.for_model("gemma3", text_config={"max_position_embeddings": 50}), 50),
        (
            LlamaConfig(
                max_position_embeddings=64,
                rope_parameters={
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                    "rope_theta": 1e4,
                },
            ),
            256,
        ),
    ],
    ids=["llama", "gpt2", "mpt", "bloom", "mamba", "gemma3", "yarn"],
)
def test_the_positions_of_architectures(config, room):
    assert room_of(config) == room


# Few prompts


@pytest.fixture(scope="module")
def few_prompts(tiny_spec, tmp_path_factory):
    """Fewer prompts than a step takes."""
    folder = tmp_path_factory.mktemp("few") / "data"
    sizes = "data.sizes={defence: 3, attack: 3, safety: 20, benign: 32, utility: 24, tuning: 20}"
    spec = parse_spec(tiny_spec.to_yaml(), [sizes, "evaluation.fine_tuning={rl_steps: 2, sft_steps: 2}"])
    spec = spec.model_copy(update={"evaluation": changed(spec.evaluation, fine_tuning=FineTuningSpec(**BIG_STEPS))})
    prepare_data(spec, folder)
    return spec, folder


BIG_STEPS = {"rl_steps": 2, "sft_steps": 2, "prompts_per_step": 24, "rollouts": 2}


def test_a_step_of_more_prompts_than_there_are_is_filled(few_prompts, organism_base, tmp_path):
    spec, data = few_prompts
    spec = changed(spec, output=changed(spec.output, root=tmp_path / "runs"))
    defend(spec, data, organism_base, out=tmp_path / "candidate")
    assert len((tmp_path / "candidate.steps.jsonl").read_text(encoding="utf-8").splitlines()) == spec.defence.steps
    attack(spec, "grpo-1000", data, base=organism_base, candidate=organism_base, out=tmp_path / "attack")
    assert len(read_evidence(tmp_path / "attack").control_arm.training) == 2
    evaluate_utility(spec, data, organism_base, candidate=organism_base, out=tmp_path / "utility")
    for tuning in read_evidence(tmp_path / "utility").fine_tuning:
        assert tuning.base.curve[-1][0] == 2


# Trainings that learn nothing


def of_one_token(spec):
    """The spec with shorter responses than any policy allows."""
    return spec.model_copy(update={"model": spec.model.model_copy(update={"max_new_tokens": 1})})


def test_a_defence_that_learns_nothing_is_an_error(tiny_spec, organism_data, organism_base, tmp_path):
    """Of one-token responses to one prompt all entropies are the same, and the rewards have no spread."""
    recipe = (
        "{recipe: entropy-reward, steps: 2, prompts_per_step: 4, benign_prompts: 0, kl_coefficient: 0.0, anchor: null}"
    )
    spec = of_one_token(parse_spec(tiny_spec.to_yaml(), [f"defence={recipe}", f"output.root={tmp_path / 'runs'}"]))
    with pytest.raises(UserError, match="the defence learnt nothing: it had no gradient in any step"):
        defend(spec, organism_data, organism_base, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_attack_that_learns_nothing_says_so(tiny_spec, organism_data, organism_base, tmp_path, capsys):
    """Responses of one token are all worth nothing."""
    overrides = ["attacks.reward=organism-exact", f"output.root={tmp_path / 'runs'}"]
    spec = of_one_token(parse_spec(tiny_spec.to_yaml(), overrides))
    attack(spec, "grpo-1000", organism_data, base=organism_base, candidate=organism_base, out=tmp_path / "out")
    assert "WARNING: control learnt nothing: it had no gradient in any step" in capsys.readouterr().out
    evidence = read_evidence(tmp_path / "out")
    assert [point.gradient for point in evidence.control_arm.training] == [0.0, 0.0]


def test_an_attack_that_learns_has_its_gradients_in_the_evidence(tiny_spec, organism_data, organism_base, tmp_path):
    spec = parse_spec(tiny_spec.to_yaml(), [f"output.root={tmp_path / 'runs'}"])
    attack(spec, "sft-1000", organism_data, base=organism_base, candidate=organism_base, out=tmp_path / "out")
    assert all(point.gradient > 0 for point in read_evidence(tmp_path / "out").control_arm.training)


def test_a_control_that_learnt_nothing_shows_no_strength():
    release = passing_release()
    key = release.spec.attacks.tasks()[0].key
    training = [changed(point, gradient=0.0) for point in release.piece(key).control_arm.training]
    spoilt = release.with_arm(key, "control_arm", training=training)
    assert release.judge().outcome.name == "PASS"
    assert spoilt.judge().outcome.name != "PASS"
    assert "no gradient in any step" in str(spoilt.judge())
