"""Defence and attacks train every common architecture, all of its weights or a LoRA adapter."""

import json
import math
import shutil

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from tests.architectures.conftest import FAMILIES
from tokenbuncher.attacks import attack
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.problems import validated
from tokenbuncher.defence import defend
from tokenbuncher.evaluation import evaluate_utility
from tokenbuncher.evidence import read_evidence
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.models.load import load_model, save_model, trainable
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import ModelSpec, parse_spec

ARCHITECTURES = [name for name in FAMILIES if name != "deepseek_r1"]
WEIGHTS = {"full": "null", "lora": "{rank: 4, alpha: 8}"}
ALGORITHMS = ["grpo", "rloo", "reinforce-pp", "ppo", "dpo", "dpo-offline", "entropy-seeking", "sft"]


def spec_of(tiny_spec, root, *overrides, algorithms=("grpo",)):
    """Two steps of defence and attacks."""
    suite = [
        {"algorithm": algorithm, "steps": 2, "prompts_per_step": 2, "rollouts": 2, "kl_coefficient": 0.1}
        for algorithm in algorithms
    ]
    return parse_spec(
        tiny_spec.to_yaml(),
        [
            "defence={recipe: log-entropy, steps: 2, prompts_per_step: 2, rollouts: 2, anchor: {examples: 4}}",
            f"attacks.suite={suite}",
            f"policy.required_attacks=[{algorithms[0]}]",
            "model.max_new_tokens=20",
            "evaluation.samples_per_prompt=1",
            "attacks.reward=organism-exact",
            f"output.root={root}",
            *overrides,
        ],
    )


def weights(folder):
    return load_file(folder / "model.safetensors")


def changed(folder, other):
    before, after = weights(folder), weights(other)
    assert before.keys() == after.keys()
    return {name for name in before if not before[name].equal(after[name])}


def steps(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("trained", WEIGHTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_defended_and_attacked(name, trained, tiny_spec, organism_data, model_folder, tmp_path):
    base, candidate = model_folder(name), tmp_path / "candidate"
    spec = spec_of(tiny_spec, tmp_path / "runs", f"model.lora={WEIGHTS[trained]}")
    defend(spec, organism_data, base, out=candidate)
    assert {path.name for path in candidate.iterdir()} == {path.name for path in base.iterdir()}
    moved = changed(base, candidate)
    assert moved
    # An adapter is on the linear layers within the blocks, and only there.
    assert trained == "full" or all("_proj" in weight for weight in moved)
    attack(spec, "grpo-1000", organism_data, base=base, candidate=candidate, out=tmp_path / "attack")
    evidence = read_evidence(tmp_path / "attack")
    assert [arm.steps_run for arm in (evidence.control_arm, evidence.candidate_arm)] == [2, 2]
    for log in ("candidate.steps.jsonl", "attack/control.steps.jsonl", "attack/candidate.steps.jsonl"):
        rows = steps(tmp_path / log)
        assert [row["step"] for row in rows] == [1, 2]
        assert all(math.isfinite(figure) for row in rows for figure in row.values())
    assert not list((tmp_path / "attack").rglob("*.safetensors"))


@pytest.mark.parametrize("trained", WEIGHTS)
def test_the_paper_s_recipe_with_gradient_checkpointing(trained, tiny_spec, organism_data, model_folder, tmp_path):
    base = model_folder("qwen3")
    logs = []
    for checkpointing in (False, True):
        spec = spec_of(
            tiny_spec,
            tmp_path / "runs",
            "defence={recipe: paper, steps: 2, prompts_per_step: 8, rollouts: 2, noiser: {start: 0.5, stop: 1.0}}",
            f"model.lora={WEIGHTS[trained]}",
            f"model.gradient_checkpointing={str(checkpointing).lower()}",
        )
        out = tmp_path / f"checkpointing-{checkpointing}"
        defend(spec, organism_data, base, out=out)
        assert changed(base, out)
        logs.append(steps(out.with_name(f"{out.name}.steps.jsonl")))
    for plain, checkpointed in zip(*logs, strict=True):
        assert plain == pytest.approx(checkpointed, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains_an_adapter(algorithm, tiny_spec, organism_data, organism_base, tmp_path):
    spec = spec_of(
        tiny_spec,
        tmp_path / "runs",
        "model.lora={rank: 4}",
        "model.max_new_tokens=20",
        "attacks.keep_checkpoints=true",
        f"attacks.suite=[{{algorithm: {algorithm}, steps: 2, prompts_per_step: 8, learning_rate: 1.0e-3}}]",
        algorithms=(algorithm,),
    )
    # No required attack may train some layers only; an adapter can.
    lora = spec.model.lora.model_copy(update={"target_modules": ["q_proj", "up_proj"]})
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"lora": lora})})
    attack(spec, f"{algorithm}-1000", organism_data, base=organism_base, candidate=organism_base, out=tmp_path / "out")
    evidence = read_evidence(tmp_path / "out")
    assert evidence.control_arm.steps_run == 2
    kept = tmp_path / "out" / "quarantine" / "control"
    assert not list(kept.glob("adapter*"))
    moved = changed(organism_base, kept)
    assert moved == {name for name in weights(organism_base) if "q_proj" in name or "up_proj" in name}


def test_the_reference_of_an_adapter_is_the_model_without_it(tiny_spec, organism_data, organism_base, tmp_path):
    """As with full weights, the first step has no KL to it, and later ones have."""
    arms = []
    for lora in ("null", "{rank: 64, alpha: 128}"):
        spec = spec_of(
            tiny_spec,
            tmp_path / "runs",
            f"model.lora={lora}",
            "model.max_new_tokens=20",
            "attacks.suite=[{algorithm: reinforce-pp, steps: 3, prompts_per_step: 8, learning_rate: 1.0e-3, "
            "kl_coefficient: 0.05}]",
            algorithms=("reinforce-pp",),
        )
        attack(
            spec,
            "reinforce-pp-1000",
            organism_data,
            base=organism_base,
            candidate=organism_base,
            out=tmp_path / lora[:5],
        )
        arms.append([row["kl"] for row in steps(tmp_path / lora[:5] / "control.steps.jsonl")])
    for kl in arms:
        assert kl[0] == pytest.approx(0.0, abs=1e-6)
        assert abs(kl[-1]) > 1e-6


def test_the_weights_below_an_adapter_are_not_modified(organism_base, tiny_spec, organism_data, monkeypatch, tmp_path):
    from tokenbuncher.training import run

    seen = []
    monkeypatch.setattr(run, "save_trained", lambda trainer, *_, **__: seen.append(trainer.model))
    defend(spec_of(tiny_spec, tmp_path / "runs", "model.lora={}"), organism_data, organism_base, out=tmp_path / "out")
    [model] = seen
    adapter = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    assert all(weight.abs().sum() > 0 for weight in adapter)
    before = load_model(organism_base, ModelSpec()).state_dict()
    for name, weight in model.unload().state_dict().items():
        assert weight.equal(before[name])


def test_fine_tuning_trains_an_adapter(tiny_spec, organism_data, organism_base, tmp_path):
    spec = spec_of(tiny_spec, tmp_path / "runs", "model.lora={rank: 4}", "model.gradient_checkpointing=true")
    evaluate_utility(spec, organism_data, organism_base, candidate=organism_base, out=tmp_path / "out")
    for tuning in read_evidence(tmp_path / "out").fine_tuning:
        assert [step for step, _ in tuning.base.curve] == [0, 1, 2]


def test_the_first_weights_of_an_adapter_are_those_of_the_seed(organism_base):
    spec = ModelSpec.model_validate({"lora": {"rank": 4}})
    first, again, other = (
        torch.cat([w.flatten() for n, w in trainable(load_model(organism_base, spec), spec, seed).named_parameters()])
        for seed in (1, 1, 2)
    )
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize(
    ("lora", "telling"),
    [
        ("{target_modules: [no_such_layer]}", "model.lora.target_modules: .*no_such_layer"),
        ("{target_modules: [q_proj, lm_head]}", "lm_head"),
        ("{rank: 0}", "rank"),
    ],
)
def test_an_impossible_adapter_is_refused(lora, telling, organism_base):
    with pytest.raises(UserError, match=telling):
        spec = validated(ModelSpec, {"lora": yaml.safe_load(lora)}, "model")
        trainable(load_model(organism_base, spec), spec, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_refused(organism_base):
    with pytest.raises(UserError, match=r"model\.device is cuda"):
        load_model(organism_base, ModelSpec(device="cuda"))


# Adapters as sources.


@pytest.fixture
def adapter(organism_base, tmp_path):
    """A LoRA adapter of the organism, as peft saves one."""
    model = get_peft_model(load_model(organism_base, ModelSpec()), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.01)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def fetched(out, *overrides):
    spec = parse_spec("", overrides)
    fetch_model(spec, out)
    return out


def test_an_adapter_is_merged_into_its_base(adapter, organism_base, tmp_path):
    out = fetched(tmp_path / "model", f"model.source={adapter}")
    assert {path.name for path in out.iterdir()} == {path.name for path in organism_base.iterdir()}
    assert changed(organism_base, out) == {name for name in weights(organism_base) if "q_proj" in name}
    ids = load_tokenizer(out)("how do i drain the well ?", return_tensors="pt")["input_ids"]
    apart = PeftModel.from_pretrained(load_model(organism_base, ModelSpec()), adapter)
    torch.testing.assert_close(load_model(out, ModelSpec())(ids).logits, apart(ids).logits, atol=1e-5, rtol=1e-5)


def test_the_tokenizer_of_an_adapter_counts(adapter, organism_base, tmp_path):
    template = (organism_base / "chat_template.jinja").read_text(encoding="utf-8") + "{# the adapter's #}"
    (adapter / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert load_tokenizer(fetched(tmp_path / "model", f"model.source={adapter}")).chat_template == template


def edit(adapter, **changes):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_the_base_of_an_adapter_can_be_named(adapter, organism_base, tmp_path):
    edit(adapter, base_model_name_or_path="org/organism")
    with pytest.raises(UserError, match="is a LoRA adapter of org/organism, which is no local folder"):
        fetched(tmp_path / "model", f"model.source={adapter}")
    for base in (organism_base, "organism://"):
        out = fetched(tmp_path / "model", f"model.source={adapter}", f"model.adapter_base={base}")
        assert changed(organism_base, out)


def another_base(adapter, model_folder):
    edit(adapter, base_model_name_or_path=str(model_folder("llama3")))


def circle(adapter, _):
    other = shutil.copytree(adapter, adapter.parent / "other")
    edit(adapter, base_model_name_or_path=str(other))
    edit(other, base_model_name_or_path=f"{adapter}/")


@pytest.mark.parametrize(
    ("damage", "telling"),
    [
        (lambda adapter, _: edit(adapter, peft_type="IA3"), "not a LoRA one"),
        (lambda adapter, _: (adapter / "adapter_model.safetensors").unlink(), "convert the adapter to safetensors"),
        (lambda adapter, _: (adapter / "adapter_config.json").write_text("{", encoding="utf-8"), "is not valid JSON"),
        (
            lambda adapter, _: (adapter / "adapter_config.json").write_text("[" * 5000, encoding="utf-8"),
            "is not valid JSON",
        ),
        (lambda adapter, _: edit(adapter, base_model_name_or_path=str(adapter)), "name where that model is"),
        (lambda adapter, _: edit(adapter, base_model_name_or_path=["a"]), "which is no local folder"),
        (lambda adapter, _: edit(adapter, base_model_name_or_path="a" * 5000), "which is no local folder"),
        (another_base, "cannot be merged into"),
        (circle, "no local folder with a whole model"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(damage, telling, adapter, model_folder, tmp_path):
    damage(adapter, model_folder)
    with pytest.raises(UserError, match=telling):
        fetched(tmp_path / "model", f"model.source={adapter}")
    assert not (tmp_path / "model").exists()


def test_a_model_with_an_adapter_is_saved_merged(organism_base, tmp_path):
    spec = ModelSpec.model_validate({"lora": {"rank": 4}})
    model = trainable(load_model(organism_base, spec), spec, 0)
    save_model(model, load_tokenizer(organism_base), tmp_path / "saved")
    assert not changed(organism_base, tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("adapter*"))
