"""Training in mixed precision: bfloat16 in matrix products alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tokenbuncher.core.errors import UserError
from tokenbuncher.defence import defend
from tokenbuncher.defence.refusals import respond
from tokenbuncher.models import chunked
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.prompts import load_set
from tokenbuncher.training import logits as training_logits
from tokenbuncher.training.arguments import trainer_arguments

SMALL_STEPS = 1e-6


def weights(folder, spec):
    return torch.cat([tensor.flatten() for tensor in load_model(folder, spec.model).parameters()])


@pytest.fixture
def spec_of(tiny_spec, tmp_path):
    def make(recipe, **model):
        settings = {"recipe": recipe, "steps": 3, "prompts_per_step": 4, "learning_rate": SMALL_STEPS}
        if recipe == "certain-refusal":
            settings["certain_refusal"] = {"mixed_prompts": 40, "benign_examples": 4, "held_out": 4}
        name = "-".join((recipe, *model))
        changed = [f"model.{field}={json.dumps(value)}" for field, value in model.items()]
        return parse_spec(
            tiny_spec.to_yaml(), [f"defence={json.dumps(settings)}", f"output.root={tmp_path / name}", *changed]
        )

    return make


@pytest.mark.parametrize("recipe", ["certain-refusal", "log-entropy", "direct"])
@pytest.mark.parametrize("vocabulary", ["small", "large"])
def test_small_steps_move_the_weights_about_as_in_single_precision(
    spec_of, organism_data, organism_base, tmp_path, recipe, vocabulary, monkeypatch
):
    if vocabulary == "large":
        monkeypatch.setattr(training_logits, "LARGE_VOCABULARY", 1)
        monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 2**14)
    moved = {}
    for model in ({}, {"mixed_precision": True}):
        spec, out = spec_of(recipe, **model), tmp_path / f"candidate-{len(model)}"
        defend(spec, organism_data, organism_base, out=out)
        before, after = weights(organism_base, spec), weights(out, spec)
        assert after.dtype == torch.float32
        moved[bool(model)] = after - before
    assert moved[True].abs().max() > SMALL_STEPS
    assert not torch.equal(moved[True], moved[False])
    assert torch.nn.functional.cosine_similarity(moved[True], moved[False], dim=0) > 0.5


@pytest.mark.parametrize(("mixed_precision", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_defence_samples_in_it(spec_of, organism_data, organism_base, mixed_precision, dtype):
    spec = spec_of("certain-refusal", mixed_precision=mixed_precision)
    model, multiplied = load_model(organism_base, spec.model), set()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, inputs, output: multiplied.add(output.dtype))
    respond(model, load_tokenizer(organism_base), load_set(organism_data, "benign")[:2], spec=spec)
    assert multiplied == {dtype}


def test_bfloat16_weights_round_small_steps_away():
    weight = torch.tensor([1.0])
    assert torch.equal((weight.bfloat16() + SMALL_STEPS).float(), weight)
    assert weight + SMALL_STEPS > weight


def test_no_attack_has_it(spec_of):
    """Rounding would hide from an attacker the little that a hardened model leaves to learn."""
    spec = spec_of("log-entropy", mixed_precision=True)
    assert trainer_arguments(0, 1, 1, learning_rate=1.0, model=spec.model)["bf16"] is False


@pytest.mark.parametrize("recipe", ["certain-refusal", "log-entropy"])
def test_the_environment_sets_no_precision(spec_of, organism_data, organism_base, tmp_path, monkeypatch, recipe):
    """`accelerate launch` exports its own, which counts for more than a trainer's arguments."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(UserError, match="precision 'bf16' instead of 'no', by the environment variable"):
        defend(spec_of(recipe), organism_data, organism_base, out=tmp_path / "candidate")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_every_trainer_is_run_where_the_precision_is_looked_at():
    sources = (Path(__file__).parents[1] / "tokenbuncher").rglob("*.py")
    called = {path.name for path in sources if re.search(r"\btrainer\.train\(", path.read_text(encoding="utf-8"))}
    assert called == {"run.py", "stopwatch.py"}  # the latter in its docstring


def test_weights_in_bfloat16_have_no_precision_to_mix(spec_of):
    with pytest.raises(UserError, match="mixed_precision needs dtype: float32; the weights are bfloat16"):
        spec_of("log-entropy", dtype="bfloat16", mixed_precision=True)


def test_evidence_is_bound_to_the_precision_and_that_of_before_stays_bound(spec_of):
    plain, mixed = spec_of("log-entropy"), spec_of("log-entropy", mixed_precision=True)
    assert plain.evidence_digest() != mixed.evidence_digest()
    assert plain.evidence_digest() == spec_of("log-entropy", mixed_precision=False).evidence_digest()


@pytest.mark.parametrize("vocabulary", [1, 10**6])
def test_the_base_model_is_rounded_as_the_model_is(
    spec_of, organism_data, organism_base, tmp_path, monkeypatch, vocabulary
):
    monkeypatch.setattr(training_logits, "LARGE_VOCABULARY", vocabulary)
    out = tmp_path / "candidate"
    defend(spec_of("certain-refusal", mixed_precision=True), organism_data, organism_base, out=out)
    first = json.loads(out.with_name("candidate.steps.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert abs(first["anchor_kl"]) < 1e-5
