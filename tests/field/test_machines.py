"""Machines and models as people have them: users without a home, mixtures of experts."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tokenbuncher.core.errors import UserError
from tokenbuncher.preflight.plan import parse_device, plan, shape_of
from tokenbuncher.settings import parse_spec

SMALL = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LATENT = {"q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
MIXTURES = {
    "mixtral": ({"num_local_experts": 8, "num_experts_per_tok": 2}, 8, 2),
    "qwen2_moe": ({"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}, 6, 2),
    "qwen3_moe": ({"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 32}, 16, 4),
    "deepseek_v3": (
        {
            **LATENT,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
        8,
        2,
    ),
    "gpt_oss": ({"num_local_experts": 8, "num_experts_per_tok": 4}, 8, 4),
    "granitemoe": ({"num_local_experts": 8, "num_experts_per_tok": 2}, 8, 2),
    "olmoe": ({"num_experts": 8, "num_experts_per_tok": 2}, 8, 2),
    "glm4_moe": ({"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}, 8, 2),
    "ernie4_5_moe": ({"moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 32}, 8, 2),
    "phimoe": ({"num_local_experts": 8, "num_experts_per_tok": 2}, 8, 2),
}


def written(folder, config):
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return parse_spec("", [f"model.source={folder}"])


def real(config):
    """All parameters of the real model, and those that a token passes."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", MIXTURES)
def test_a_mixture_of_experts_is_counted_whole_and_as_a_token_passes_it(family, tmp_path):
    more, experts, passed = MIXTURES[family]
    config = {**SMALL, **more, "model_type": family}
    shape, sizes = shape_of(written(tmp_path, config)), real(config)
    routed = sum(size for name, size in sizes.items() if ".experts." in name)
    layers = sum(size for name, size in sizes.items() if ".layers." in name)
    assert routed > 0
    assert shape.parameters == sum(sizes.values())
    assert shape.body == pytest.approx(layers - routed * (1 - passed / experts))
    told = plan(parse_spec(""), shape, parse_device("h100"))
    assert "used by each token" in told.table()


def test_a_mixture_inside_a_model_of_images_and_text(tmp_path):
    text = {**SMALL, **MIXTURES["qwen3_moe"][0], "model_type": "qwen3_5_moe_text"}
    config = {"model_type": "qwen3_5_moe", "text_config": text, "architectures": ["Qwen3_5MoeForConditionalGeneration"]}
    shape = shape_of(written(tmp_path, config))
    assert shape.active < shape.parameters


@pytest.mark.parametrize(
    "more",
    [
        {"num_experts": 8},
        {"n_routed_experts": 8},
        {"moe_num_experts": 8},
        {"num_local_experts": [8, 8, 8]},
        {"text_config": {"num_experts": 8}},
        {"ffn_config": {"moe_num_experts": 8}},
        {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 9},
        {"model_type": "mixtral", "num_local_experts": 8, "num_hidden_layers": 10**8},
    ],
    ids=str,
)
def test_a_mixture_that_nobody_knows_is_not_taken_for_dense(more, tmp_path):
    with pytest.raises(UserError, match=r"is a mixture of experts, and .*give --parameters"):
        shape_of(written(tmp_path, {**SMALL, "model_type": "homemade", **more}))


@pytest.mark.parametrize("more", [{"num_experts": None}, {"num_local_experts": 0}, {"num_experts": 1}], ids=str)
def test_one_expert_or_none_is_a_dense_model(more, tmp_path):
    assert shape_of(written(tmp_path, {**SMALL, "model_type": "llama", **more})).active is None


NOBODY = 12345
SPEC = str(Path("specs/organism.yaml").resolve())
PACKAGES = os.pathsep.join([str(Path.cwd()), *(path for path in sys.path if path.endswith("site-packages"))])


def as_nobody(*arguments, cwd=None, **environment):
    """Runs Python as a user whom the machine does not know, with PATH alone."""
    return subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": PACKAGES, **environment},
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(scope="module")
def python():
    """A Python that such a user can run."""
    if os.getuid() != 0 or not Path("/usr/bin/setpriv").exists():
        pytest.skip("only root, with setpriv, can become another user")
    for name in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        done = as_nobody(
            name, "-c", "import sys, tokenbuncher, torch, subprocess; subprocess.run([sys.executable, '-V'])"
        )
        if done.returncode == 0:
            return name
    pytest.skip("another user can run no Python here that has the packages")


@pytest.fixture
def place():
    """A folder of such a user's own; not below pytest's, which it closes to all others whenever it starts."""
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        yield Path(folder)


@pytest.mark.parametrize(
    "command",
    [
        ["doctor"],
        ["init", "--model", "organism", "--out", "{place}/spec.yaml"],
        ["plan", "--spec", SPEC, "--device", "h100"],
        ["fetch-model", "--spec", SPEC, "--out", "{place}/base"],
        ["prepare-data", "--spec", SPEC, "--out", "{place}/data"],
        ["keygen", "--out", "{place}/key"],
        ["run-local", "--spec", SPEC, "--set", "output.root={place}/runs", "--dry-run"],
    ],
    ids=lambda command: command[0],
)
def test_a_user_without_a_home_and_a_name(python, place, command):
    done = as_nobody(python, "-m", "tokenbuncher", *(word.format(place=place) for word in command), cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "home directory" not in done.stdout + done.stderr


def test_such_a_user_registers_a_model(python, place):
    run = ["-m", "tokenbuncher"]
    spec = ["--spec", SPEC, "--set", f"output.root={place}/runs"]
    assert as_nobody(python, *run, "fetch-model", *spec, "--out", f"{place}/base").returncode == 0
    done = as_nobody(python, *run, "register", *spec, "--candidate", f"{place}/base", "--out", f"{place}/registered")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "registered" / "registration.json").is_file()


@pytest.mark.parametrize("environment", [{}, {"HOME": "/"}, {"XDG_CACHE_HOME": "/cache"}], ids=str)
def test_where_such_a_user_needs_a_cache_it_is_said_what_to_set(python, place, environment):
    arguments = ["--spec", SPEC, "--set", "model.source=s3://models/base", "--out", f"{place}/base"]
    done = as_nobody(python, "-m", "tokenbuncher", "fetch-model", *arguments, **environment)
    assert done.returncode == 2
    assert re.search(r"cache.*set XDG_CACHE_HOME \(or HOME\) to a folder that can be written", done.stderr)


@pytest.mark.parametrize(
    "override",
    [
        "model.source=~/model",
        "model.source=file:///~/model",
        "model.adapter_base=~other/model",
        "output.root=~/runs",
        "evaluation.calibration=~/known.jsonl",
        "tracking.uri=sqlite:///~/mlflow.db",
        "tracking.uri=sqlite:////~/mlflow.db",
        "evaluation.judge={kind: classifier, model: ~/judge, harmful_labels: [bad]}",
        "evaluation.judge={kind: harmbench, model: /judge, prompt: ~/prompt.txt}",
        "data.harmful={path: ~/prompts.csv}",
        "evaluation.harness={tasks: [gsm8k], include: ~/tasks}",
        "attacks.reward={kind: classifier, model: ~/reward, harmful_labels: [bad]}",
    ],
)
def test_a_path_from_home_in_a_spec_is_refused_at_once(override):
    with pytest.raises(UserError, match=r"begins with ~, which only a shell expands; write the whole path"):
        parse_spec("", [override])


def test_a_path_from_home_in_a_guard_s_settings_is_refused_at_once(tmp_path):
    from tokenbuncher.guard import load_guard

    settings = "aliases: {champion: {policy: ~/policy.yaml, keys: [~/release.pub]}}\nartifact_roots: [~/artifacts]\n"
    (tmp_path / "guard.yaml").write_text(settings, encoding="utf-8")
    with pytest.raises(UserError) as told:
        load_guard(tmp_path / "guard.yaml")
    assert str(told.value).count("begins with ~") == 3


def test_a_path_from_home_on_the_command_line_is_found_there(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from tokenbuncher.cli import main

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "spec.yaml").write_text("name: mine\n", encoding="utf-8")
    done = CliRunner().invoke(main, ["prepare-data", "--spec=~/spec.yaml", "--out=~/data"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "data" / "manifest.json").is_file()
    assert not Path("~").exists()
