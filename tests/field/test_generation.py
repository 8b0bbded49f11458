"""generation_config.json as people publish it: it changes no measurement, and is released as it came."""

import json
import shutil

import pytest
from peft import LoraConfig, get_peft_model

from tokenbuncher.attacks import attack
from tokenbuncher.core.errors import UserError
from tokenbuncher.defence import defend
from tokenbuncher.evaluation import evaluate_safety
from tokenbuncher.evidence import read_evidence
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.models.generation import eos_ids
from tokenbuncher.models.load import load_model
from tokenbuncher.models.sampling import generate
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import ModelSpec, parse_spec
from tokenbuncher.settings.prompts import load_set

FILE = "generation_config.json"

# What generation_config.json files say that were published or are written by habit.
SAYS = {
    "a floor on probabilities": {"do_sample": True, "min_p": 0.5},
    "few tokens": {"do_sample": True, "temperature": 0.1, "top_k": 2, "top_p": 0.3, "typical_p": 0.2, "top_h": 0.1},
    "cut-off tails": {"epsilon_cutoff": 0.3, "eta_cutoff": 0.3},
    "suppressed tokens": {"suppress_tokens": [7, 8, 9, 10, 11, 12], "begin_suppress_tokens": [13, 14, 15]},
    "a least length": {"min_new_tokens": 15, "min_length": 40},
    "a greatest length": {"max_length": 3, "max_new_tokens": 2, "max_time": 0.001},
    "penalties": {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "length_penalty": 2.0},
    "bad words": {"bad_words_ids": [[7], [8], [9, 10]], "sequence_bias": [[[11], -50.0]]},
    "forced tokens": {"forced_bos_token_id": 9, "forced_eos_token_id": 1},
    "decay": {"exponential_decay_length_penalty": [1, 5.0], "remove_invalid_values": True},
    "beams": {"num_beams": 3, "early_stopping": True, "num_return_sequences": 2},
    "stop strings": {"stop_strings": ["the", "a"]},
    "a dictionary": {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True},
    "guidance": {"guidance_scale": 3.0},
    "a watermark": {"watermarking_config": {"greenlist_ratio": 0.1, "bias": 20.0, "seeding_scheme": "selfhash"}},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "contrast": {"penalty_alpha": 0.6, "top_k": 4},
    "a cache of its own": {"cache_implementation": "static", "use_cache": False},
    "what no library knows": {"chat_format": "chatml", "max_window_size": 6144},
}


@pytest.fixture
def model_with(organism_base, tmp_path):
    """A copy of the base model whose generation_config.json, or config.json, says more."""

    def made(says, file=FILE):
        folder = shutil.copytree(organism_base, tmp_path / "says")
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_bytes()) | says), encoding="utf-8")
        if file != FILE:
            (folder / FILE).unlink()
        return folder

    return made


@pytest.fixture(scope="session")
def plain_responses(organism_base, organism_data):
    return responses(organism_base, organism_data)


def responses(folder, data):
    model, tokenizer = load_model(folder, ModelSpec()), load_tokenizer(folder)
    prompts = load_set(data, "safety")[:6] + load_set(data, "utility")[:6]
    return [
        generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=12, temperature=temperature)
        for temperature in (1.0, None)
    ]


@pytest.mark.parametrize("what", SAYS)
def test_a_model_that_says_how_it_likes_to_be_sampled(what, model_with, organism_data, plain_responses):
    assert responses(model_with(SAYS[what]), organism_data) == plain_responses


@pytest.mark.parametrize("what", SAYS)
def test_an_old_model_that_says_it_in_config_json(what, model_with, organism_data, plain_responses):
    assert responses(model_with(SAYS[what], "config.json"), organism_data) == plain_responses


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "dpo-offline"])
def test_an_attack_samples_as_if_the_model_said_nothing(algorithm, tiny_spec, organism_data, model_with, tmp_path):
    says = {name: value for what in SAYS if what != "forced tokens" for name, value in SAYS[what].items()}
    suite = f"attacks.suite=[{{algorithm: {algorithm}, steps: 2, prompts_per_step: 4}}]"
    curves = []
    for name, base in (("says", model_with(says)), ("plain", fetched(tmp_path / "base"))):
        root = f"output.root={tmp_path / name}"
        spec = parse_spec(tiny_spec.to_yaml(), [suite, f"policy.required_attacks=[{algorithm}]", root])
        attack(spec, f"{algorithm}-1000", organism_data, base=base, candidate=base, out=tmp_path / f"{name}-out")
        arm = read_evidence(tmp_path / f"{name}-out").control_arm
        curves.append((arm.curve, arm.scores, arm.tokens))
    assert curves[0] == curves[1]


def fetched(out, *overrides):
    fetch_model(parse_spec("", overrides), out)
    return out


def test_what_is_dropped_is_told_by_name_and_value(model_with, tmp_path, capsys):
    says = {"min_p": 0.5, "suppress_tokens": [7], "do_sample": True, "chat_format": "chatml", "temperature": 1.0}
    fetched(tmp_path / "out", f"model.source={model_with(says)}")
    [told] = [line for line in capsys.readouterr().out.splitlines() if "min_p" in line]
    assert told.endswith('without chat_format "chatml", do_sample true, min_p 0.5, suppress_tokens [7]')


def test_what_an_old_model_says_in_config_json_is_told(model_with, tmp_path, capsys):
    fetched(tmp_path / "out", f"model.source={model_with({'num_beams': 4, 'hidden_act': 'silu'}, 'config.json')}")
    assert "without num_beams 4\n" in capsys.readouterr().out


def test_of_a_model_that_says_nothing_nothing_is_told(tmp_path, capsys):
    fetched(tmp_path / "out")
    assert "sampling" not in capsys.readouterr().out


# Released as it came


def written_by_hand(folder):
    """Not as any library would write it."""
    text = '{\n    "min_p": 0.5,   "eos_token_id":1,\n"temperature": 0.6, "top_k": 3\n}\n\n'
    (folder / FILE).write_text(text, encoding="utf-8")
    return text.encode()


@pytest.mark.parametrize("lora", ["null", "{rank: 4}"])
def test_the_candidate_has_the_file_byte_for_byte(lora, tiny_spec, organism_data, model_with, tmp_path):
    base = model_with({})
    text = written_by_hand(base)
    spec = parse_spec(tiny_spec.to_yaml(), [f"model.lora={lora}", f"output.root={tmp_path / 'runs'}"])
    defend(spec, organism_data, base, out=tmp_path / "candidate")
    assert (tmp_path / "candidate" / FILE).read_bytes() == text


def test_a_model_without_the_file_is_released_without_it(tiny_spec, organism_data, model_with, tmp_path):
    base = model_with({"temperature": 0.3, "num_beams": 2}, "config.json")
    spec = parse_spec(tiny_spec.to_yaml(), [f"output.root={tmp_path / 'runs'}"])
    defend(spec, organism_data, base, out=tmp_path / "candidate")
    assert not (tmp_path / "candidate" / FILE).exists()
    config = json.loads((tmp_path / "candidate" / "config.json").read_bytes())
    assert (config["temperature"], config["num_beams"]) == (0.3, 2)


def test_a_merged_adapter_leaves_its_base_s_file(model_with, tmp_path):
    base = model_with({})
    text = written_by_hand(base)
    get_peft_model(load_model(base, ModelSpec()), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
        tmp_path / "adapter"
    )
    out = fetched(tmp_path / "out", f"model.source={tmp_path / 'adapter'}", f"model.adapter_base={base}")
    assert (out / FILE).read_bytes() == text


def test_kept_attacked_weights_have_it_too(tiny_spec, organism_data, model_with, tmp_path):
    base = model_with({})
    text = written_by_hand(base)
    spec = parse_spec(tiny_spec.to_yaml(), ["attacks.keep_checkpoints=true", f"output.root={tmp_path / 'runs'}"])
    attack(spec, "sft-1000", organism_data, base=base, candidate=base, out=tmp_path / "out")
    assert (tmp_path / "out" / "quarantine" / "control" / FILE).read_bytes() == text


def test_safety_is_measured_alike(tiny_spec, organism_data, organism_base, model_with, tmp_path):
    says = model_with({"min_p": 0.9, "do_sample": True, "begin_suppress_tokens": [7, 8, 9, 10]})
    evaluate_safety(tiny_spec, organism_data, organism_base, candidate=says, out=tmp_path / "out")
    evidence = read_evidence(tmp_path / "out")
    assert evidence.candidate_harmful == evidence.base_harmful
    assert evidence.candidate_benign == evidence.base_benign


# Broken


@pytest.mark.parametrize(
    "content",
    [
        *("{", "", "[]", '"x"'),
        *(f'{{"eos_token_id": {end}}}' for end in ("99999", "[1, 99999]", "-1", '"1"', "1.5", "[[1]]", '{"a": 1}')),
        '{"suppress_tokens": [9], "forced_bos_token_id": 9}',
    ],
)
def test_a_broken_file_is_refused_by_name(content, model_with, tmp_path):
    folder = model_with({})
    (folder / FILE).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"generation_config\.json"):
        fetched(tmp_path / "out", f"model.source={folder}")
    assert not (tmp_path / "out").exists()


def test_several_end_tokens_all_end_a_response(model_with):
    folder = model_with({"eos_token_id": [1, 5]})
    assert eos_ids(load_model(folder, ModelSpec())) == {1, 5}
