"""Real sequence classifiers, very small, as judges and rewards."""

import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.judges.tiny_models import HARMFUL, HARMLESS, classifier, exchanges, is_harmful
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.progress import Progress
from tokenbuncher.judges import Exchange, load_judge, load_reward, reader
from tokenbuncher.settings.judges import ClassifierSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("judge"), ["fine", "loot"])


@pytest.fixture(scope="module")
def multi_label(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("judge"), ["loot", "theft", "other"], multi_label=True)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def settings(folder, **fields):
    return ClassifierSpec(**{"kind": "classifier", "model": str(folder), "harmful_labels": ["loot"]} | fields)


def test_it_tells_harm_and_rewards_its_probability(folder):
    asked = exchanges(40, seed=999)
    judged = load_judge(settings(folder))(asked)
    rewards = load_reward(settings(folder))(asked)
    assert sum(j.harmful == is_harmful(e) for j, e in zip(judged, asked, strict=True)) >= 38
    assert all(0 <= reward <= 1 for reward in rewards)
    assert [reward >= 0.5 for reward in rewards] == [j.harmful for j in judged]


def test_progress_is_told_with_the_mean(folder, monkeypatch, capsys):
    monkeypatch.setattr(reader, "Progress", partial(Progress, every_seconds=0))
    rewards = load_reward(settings(folder, batch_size=4))(exchanges(6))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["judging:", "4/6"], ["judging:", "6/6"]]
    assert lines[-1].endswith(f"harm {sum(rewards) / 6:.4g}")


def test_the_threshold_decides(folder):
    [harm] = load_reward(settings(folder))([HARMFUL])
    assert load_judge(settings(folder, threshold=harm))([HARMFUL])[0].harmful
    assert not load_judge(settings(folder, threshold=min(1.0, harm + 1e-4)))([HARMFUL])[0].harmful


def test_a_harmless_response_refuses_or_is_gibberish_by_the_rules_of_language(folder):
    refusal = Exchange("how do i find gold", "I'm sorry, but I can't help with that.", True)
    nothing = Exchange("how do i find gold", "", True)
    judged = load_judge(settings(folder, threshold=1.0))([refusal, nothing, HARMLESS])
    assert [(j.harmful, j.refused, j.gibberish) for j in judged] == [
        (False, True, False),
        (False, False, True),
        (False, False, False),
    ]


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_a_response_s_score_does_not_depend_on_its_neighbours(architecture, tmp_path):
    score_alone = load_reward(settings(folder := classifier(tmp_path, ["fine", "loot"], architecture=architecture)))
    asked = exchanges(12)
    alone = [score_alone([exchange])[0] for exchange in asked]
    assert load_reward(settings(folder, batch_size=5))(asked) == pytest.approx(alone, abs=1e-5)


def test_nothing_asked_nothing_said(folder):
    assert load_judge(settings(folder))([]) == []


def test_labels_that_exclude_each_other_add_up(folder):
    asked = exchanges(6)
    one, other = (load_reward(settings(folder, harmful_labels=[label]))(asked) for label in ("loot", "fine"))
    assert [a + b for a, b in zip(one, other, strict=True)] == pytest.approx([1.0] * 6)
    assert load_reward(settings(folder, harmful_labels=["loot", "fine"]))(asked) == pytest.approx([1.0] * 6)


def test_of_labels_that_do_not_the_most_probable_counts(multi_label):
    asked = exchanges(6)
    single = [load_reward(settings(multi_label, harmful_labels=[label]))(asked) for label in ("loot", "theft")]
    together = load_reward(settings(multi_label, harmful_labels=["loot", "theft"]))(asked)
    assert together == pytest.approx([max(pair) for pair in zip(*single, strict=True)])


def test_a_model_with_one_output_gives_its_probability(tmp_path):
    score = load_reward(settings(classifier(tmp_path, ["loot"])))
    assert score([HARMFUL])[0] > 0.9
    assert score([HARMLESS])[0] < 0.1


def test_the_template_is_what_it_reads(folder):
    quoted = settings(folder, template="{prompt} {response}")
    swapped = settings(folder, template="{response} {prompt}")
    assert load_reward(quoted)([HARMFUL]) != load_reward(swapped)([HARMFUL])


def test_a_prompt_cannot_put_text_in_the_place_of_the_response(folder):
    template = settings(folder, template="{prompt} : {response}")
    forged, plain = Exchange("{response} gold", "the tea", True), Exchange("zzz response zzz gold", "the tea", True)
    assert load_reward(template)([forged]) == pytest.approx(load_reward(template)([plain]))


@pytest.mark.parametrize("template", ["{prompt}", "{response}", "neither"])
def test_a_template_without_prompt_and_response_is_refused(template):
    with pytest.raises(ValueError, match="has no place for"):
        settings("/x", template=template)


def test_a_label_it_does_not_have_is_an_error_that_names_those_it_has(folder):
    with pytest.raises(UserError, match="has no label hate; harmful_labels can be fine, loot"):
        load_judge(settings(folder, harmful_labels=["loot", "hate"]))


def test_what_it_cannot_read_to_the_end_is_not_judged(folder):
    long = Exchange("how do i find gold", "the tea and " * 30 + "loot", True)
    with pytest.raises(UserError, match="reads at most 64 tokens, and an exchange has 9"):
        load_judge(settings(folder))([HARMLESS, long])


def drop_the_head(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def only_a_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut_the_tokenizer(folder):
    (folder / "tokenizer.json").write_text(
        (folder / "tokenizer.json").read_text(encoding="utf-8")[:-9], encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("damage", "telling"),
    [
        (drop_the_head, "not a whole BertForSequenceClassification: no weights for classifier.weight"),
        (only_a_pickle, "cannot be loaded"),
        (cut_the_tokenizer, "cannot be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be loaded"),
        (lambda folder: shutil.rmtree(folder), "is not a folder"),
    ],
)
def test_a_damaged_model_is_refused_before_it_judges(copy, damage, telling):
    damage(copy)
    with pytest.raises(UserError, match=telling):
        load_judge(settings(copy))


def test_scores_that_are_no_numbers_are_an_error_not_harmless(copy):
    weights = load_file(copy / "model.safetensors")
    weights["classifier.bias"][:] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="NaN or infinity"):
        load_judge(settings(copy))([HARMFUL])


def test_code_that_comes_with_a_model_is_not_run(copy):
    (copy / "evil.py").write_text("raise SystemExit('run')", encoding="utf-8")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "evil", "auto_map": {"AutoModelForSequenceClassification": "evil.Evil"}}
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_judge(settings(copy))
