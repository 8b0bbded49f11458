"""A defence by entropy is given up once the model does not refuse any more."""

import pytest
import torch

from tokenbuncher.core.errors import UserError
from tokenbuncher.defence import defend
from tokenbuncher.defence.examples import Models
from tokenbuncher.defence.kept_refusals import KeptRefusals
from tokenbuncher.evidence import read_steps
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.defence import WATCHED
from tokenbuncher.settings.prompts import load_set


@pytest.fixture
def watch(tiny_spec, organism_base, organism_data):
    models = (load_model(organism_base, tiny_spec.model) for _ in "ab")
    return KeptRefusals(tiny_spec, Models(*models, load_tokenizer(organism_base)), load_set(organism_data, "defence"))


def test_a_model_that_refuses_is_let_be(watch):
    watch.models.model.train()
    assert watch.share(20) == pytest.approx(watch.before / min(WATCHED, len(watch.prompts)))
    assert watch.share(20) > 0.9
    assert watch.models.model.training


def test_a_model_that_has_lost_its_refusals_is_told_with_the_figures(watch):
    with torch.no_grad():
        watch.models.model.get_output_embeddings().weight.zero_()
    with pytest.raises(
        UserError, match=rf"at step 20 it refuses 0 of {len(watch.prompts)} .* base model {watch.before}\."
    ):
        watch.share(20)


def test_a_base_model_that_seldom_refuses_may_lose_a_few_by_chance(watch):
    with torch.no_grad():
        watch.models.model.get_output_embeddings().weight.zero_()
    watch.before = len(watch.prompts) // 2 - 1
    assert watch.share(20) == 0.0


def test_a_base_model_without_refusals_has_none_to_lose(watch):
    for model in (watch.models.model, watch.models.base):
        with torch.no_grad():
            model.get_output_embeddings().weight.zero_()
    assert KeptRefusals(watch.spec, watch.models, watch.prompts).share(20) == 0.0


@pytest.mark.parametrize("recipe", ["paper", "published-code", "polished", "log-entropy"])
def test_a_rate_that_wrecks_the_model_ends_the_defence_early(recipe, tiny_spec, organism_base, organism_data, tmp_path):
    changes = [f"defence={{recipe: {recipe}, steps: 40, learning_rate: 0.3}}", f"output.root={tmp_path}"]
    spec = parse_spec(tiny_spec.to_yaml(), changes)
    with pytest.raises(UserError, match="lost the model's refusals: at step 20"):
        defend(spec, organism_data, organism_base, out=tmp_path / "candidate")
    assert not (tmp_path / "candidate").exists()


def test_refusals_are_in_the_step_log(tiny_spec, organism_base, organism_data, tmp_path):
    changes = ["defence={recipe: published-code, steps: 3, learning_rate: 1.0e-6}", f"output.root={tmp_path}"]
    spec = parse_spec(tiny_spec.to_yaml(), changes)
    defend(spec, organism_data, organism_base, out=tmp_path / "candidate")
    rows = read_steps(tmp_path / "candidate.steps.jsonl")
    assert [row.number for row in rows if row.figures.get("refused", 0.0) > 0.8] == [1, 3]
