"""The planner: its counts, its estimates of measured runs, and what the documentation says of it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.plan import Comparison, comparisons
from tokenbuncher.cli import main
from tokenbuncher.core.errors import UserError
from tokenbuncher.preflight.plan import Estimate, Judges, Shape, StageEstimate, parse_device, plan, shape_of
from tokenbuncher.settings import ReleaseSpec, load_spec, parse_spec

SEVEN = Shape(7.6e9, 28, 3584, 152064, 18944, 512, 6.5e9)
DOCUMENT = Path("docs/planning.md").read_text(encoding="utf-8")
TRAINJOB = ["compute.kind=trainjob", "compute.storage=s3://b/p"]
QWEN = ["model.max_new_tokens=256"]
SAMPLES = "defence.recipe=log-entropy"
"""A defence with rollouts in each step."""
MIXED = "defence.certain_refusal.mixed_prompts"


def estimate(*changes: str, shape: Shape | None = None, device: str = "h100") -> Estimate:
    spec = parse_spec("", changes)
    return plan(spec, shape or shape_of(spec), parse_device(device))


def stage(name: str, *changes: str, **more: object) -> StageEstimate:
    return next(one for one in estimate(*changes, **more).stages if one.name == name)


def suite(*attacks: str) -> list[str]:
    return [f"attacks.suite=[{', '.join(attacks)}]", "policy.required_attacks=[grpo]"]


@pytest.mark.parametrize("one", [pytest.param(one, id=f"{one.run}-{one.figure}") for one in comparisons()])
def test_estimates_of_measured_runs_are_within_the_factor(one: Comparison) -> None:
    assert one.holds, f"{one.figure}: measured {one.measured}, estimated {one.estimated}"


def test_two_measurements_at_most_are_calibrated_on() -> None:
    assert sum(one.calibrates for one in comparisons()) <= 1  # and the imports


def test_the_size_of_the_built_in_model_is_counted_from_its_configuration() -> None:
    from safetensors import safe_open

    with safe_open("tokenbuncher/builtin/organism/aligned/model.safetensors", "pt") as weights:
        real = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    assert shape_of(ReleaseSpec()).parameters == pytest.approx(real, rel=1e-3)


def test_the_published_size_of_smollm2_is_counted() -> None:
    assert shape_of(parse_spec("", ["model.source=smollm2://"])).parameters == pytest.approx(134.5e6, rel=1e-3)


def test_a_local_model_s_configuration_is_read_without_weights(tmp_path: Path) -> None:
    config = json.loads(Path("tokenbuncher/builtin/organism/aligned/config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}), encoding="utf-8")

    assert shape_of(parse_spec("", [f"model.source={tmp_path}"])).layers == 5


@pytest.mark.parametrize(
    ("config", "telling"),
    [
        (None, "cannot read the configuration"),
        ({"n_embd": 768}, "no usable"),
        ({"num_experts": 8}, "mixture of experts"),
        ({"vocab_size": float("inf")}, "no usable vocab_size"),
        ({"num_attention_heads": 0}, "no usable num_attention_heads"),
        ({"head_dim": 10**400}, "no usable head_dim"),
        ({"num_key_value_heads": "two"}, "no usable num_key_value_heads"),
        ("{", "cannot read the configuration of the model, .*config.json"),
        ("[" * 5000, "cannot read the configuration of the model, .*config.json"),
        ("[]", "no usable"),
    ],
)
def test_a_configuration_of_no_use_is_told_with_what_to_give(config: object, telling: str, tmp_path: Path) -> None:
    known = json.loads(Path("tokenbuncher/builtin/organism/aligned/config.json").read_text(encoding="utf-8"))
    if isinstance(config, dict):
        (tmp_path / "config.json").write_text(
            json.dumps(config if "n_embd" in config else known | config), encoding="utf-8"
        )
    elif isinstance(config, str):
        (tmp_path / "config.json").write_text(config, encoding="utf-8")

    with pytest.raises(UserError, match=rf"{telling}.*--parameters, --layers, --hidden and --vocabulary"):
        shape_of(parse_spec("", [f"model.source={tmp_path}"]))


def test_a_model_elsewhere_is_not_fetched() -> None:
    spec = parse_spec("", ["model.source=hf://org/name@main"])

    with pytest.raises(UserError, match="is not on this machine, and is not fetched for a plan"):
        shape_of(spec)
    with pytest.raises(UserError, match="together"):
        shape_of(spec, parameters=7e9, layers=28)
    assert shape_of(spec, 7e9, 28, hidden=3584, vocabulary=152064).parameters == 7e9


def test_the_figures_of_a_stage_are_those_of_the_spec() -> None:
    defend = stage("defend", SAMPLES, "defence.steps=10", "defence.prompts_per_step=4", "defence.rollouts=3", *QWEN)
    limits = "policy.attack_limits={min_steps: 40, min_prompts_per_step: 4, min_rollouts: 3}"
    attacks = *suite("{algorithm: grpo, steps: 40, prompts_per_step: 4, rollouts: 3}"), limits, *QWEN
    grpo, controls = (stage(name, *attacks) for name in ("attack grpo-1000", "controls"))

    assert (defend.steps, defend.rollouts) == (10, 120)
    assert (grpo.steps, grpo.rollouts) == (40, 480)
    assert (controls.steps, controls.rollouts) == (10, 120)  # a quarter
    assert controls.generated < controls.generated_at_most
    assert grpo.generated < grpo.generated_at_most
    assert grpo.seconds < grpo.seconds_at_most


def test_every_learning_rate_and_seed_is_run() -> None:
    once = stage("attack grpo-1", *suite("{algorithm: grpo, seeds: [1]}"))
    thrice = stage("attack grpo-1", *suite("{algorithm: grpo, seeds: [1, 2], learning_rate: [2e-4, 3e-4, 4e-4]}"))

    assert (thrice.steps, thrice.rollouts) == (3 * once.steps, 3 * once.rollouts)
    assert len(estimate(*suite("{algorithm: grpo, seeds: [1, 2]}")).stages) == 11


def test_each_epoch_trains_policy_and_critic() -> None:
    own = "{{algorithm: ppo, name: own, seeds: [1], hyperparameters: {{epochs: {}}}}}"
    once, thrice = (stage("attack own-1", *suite("{algorithm: grpo}", own.format(epochs))) for epochs in (1, 3))

    assert thrice.trained == pytest.approx(3 * once.trained)
    assert thrice.rollouts == once.rollouts


@pytest.mark.parametrize("changes", [["attacks.keep_checkpoints=true"], TRAINJOB])
def test_an_attack_measures_its_control_itself_where_that_cannot_be_done_before(changes: list[str]) -> None:
    apart, together = estimate(*QWEN, shape=SEVEN), estimate(*QWEN, *changes, shape=SEVEN)
    names = [one.name for one in together.stages]

    assert [one.name for one in apart.stages if one.name not in names] == ["controls"]
    assert sum(one.steps for one in together.stages) == sum(one.steps for one in apart.stages)
    assert together.device_hours == pytest.approx(apart.device_hours, rel=0.02)  # but for starting once more


def test_no_defence_trains_nothing() -> None:
    assert stage("defend", "defence.recipe=none").trained == 0


@settings(max_examples=40, deadline=None)
@given(
    field=st.sampled_from(["defence.steps", "defence.prompts_per_step", "defence.rollouts", "model.max_new_tokens"]),
    sizes=st.tuples(st.integers(20, 500), st.integers(20, 500)).map(sorted),
)
def test_more_work_never_takes_less(field: str, sizes: list[int]) -> None:
    less, more = (stage("defend", f"{field}={size}", shape=SEVEN) for size in sizes)

    assert less.seconds <= more.seconds <= more.seconds_at_most
    assert less.memory <= more.memory


@pytest.mark.parametrize(("kl", "states"), [(0.0, 4), (1e-3, 5)])
def test_memory_of_full_weights_is_that_of_weights_gradients_moments_and_for_a_kl_the_reference(
    kl: float, states: int
) -> None:
    """In float32."""
    attack = stage(
        "attack grpo-1000",
        *suite(f"{{algorithm: grpo, kl_coefficient: {kl}}}"),
        "policy.attack_limits.max_kl_coefficient=0.001",
        shape=SEVEN,
    )

    assert 0 < attack.memory - states * 4 * 7.6e9 < 30e9


def test_lora_checkpointing_and_fsdp_take_less_memory() -> None:
    fsdp = [*TRAINJOB, "compute.processes=8", "compute.accelerate=specs/accelerate/fsdp.yaml"]
    full, lora, checkpointing, sharded = (
        stage("attack grpo-1000", *QWEN, *changes, shape=SEVEN).memory
        for changes in ([], ["model.lora={}"], ["model.gradient_checkpointing=true"], fsdp)
    )

    assert full - lora == pytest.approx(3 * 4 * 7.6e9, rel=0.05)  # gradients and two moments
    assert checkpointing < full
    assert sharded < 0.6 * full


def test_processes_share_out_an_attack_but_not_what_is_measured() -> None:
    alone, shared = (stage("attack grpo-1000", *QWEN, *TRAINJOB, f"compute.processes={n}", shape=SEVEN) for n in (1, 8))

    assert shared.parts["measuring"] == alone.parts["measuring"]
    assert shared.parts["training"] < alone.parts["training"]
    assert shared.device_hours > alone.device_hours
    assert (alone.processes, shared.processes) == (1, 8)


def test_vllm_decodes_faster_and_takes_its_share_of_memory() -> None:
    plain, served = (stage("defend", SAMPLES, *QWEN, *vllm, shape=SEVEN) for vllm in ([], ["compute.vllm={}"]))

    assert served.parts["rollouts"] < plain.parts["rollouts"]
    assert served.memory - plain.memory == pytest.approx(0.3 * 80e9)


def test_decoding_is_bound_by_memory_where_few_sequences_are_decoded() -> None:
    half = [*QWEN, "model.dtype=bfloat16", "model.lora={}"]
    few, many = (
        stage("defend", SAMPLES, *half, f"defence.rollouts={n}", shape=SEVEN).parts["rollouts"] for n in (2, 8)
    )

    assert many < 1.5 * few


def test_judges_and_rewards_that_are_models_take_time_and_memory() -> None:
    read = "{kind: classifier, model: s3://b/m, harmful_labels: [harm]}"
    spec = parse_spec("", [*QWEN, f"evaluation.judge={read}", f"attacks.reward={read}"])
    small, large = (plan(spec, SEVEN, parse_device("h100"), judging=Judges(size, 4e8)) for size in (4e8, 7e9))

    assert large.memory - small.memory == pytest.approx(2 * 6.6e9)
    assert large.device_hours > small.device_hours
    assert any("judges that are models" in note for note in large.notes)


@pytest.mark.parametrize(
    ("memory", "fits", "word"), [(4e11, True, "fits"), (1e10, False, "DOES NOT FIT"), (None, None, "may not fit")]
)
def test_it_is_told_whether_it_fits(memory: float | None, fits: bool | None, word: str) -> None:
    found = estimate(shape=SEVEN, device=f"1e15,3e12,{memory}" if memory else "1e15,3e12")

    assert found.fits is fits
    assert f": {word} " in found.table()


@pytest.mark.parametrize("text", ["tpu", "1e15", "1e15,-1", "1,2,3,4", "nan,1", "inf,1", ""])
def test_a_device_of_no_known_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="use cpu, h100, a100"):
        parse_device(text)


def test_wall_time_at_once_is_that_of_the_longest_attack() -> None:
    found = estimate(shape=SEVEN)
    seconds = {one.name: one.seconds for one in found.stages}

    assert found.wall_serial == pytest.approx(sum(seconds.values()))
    assert seconds["defend"] + seconds["attack ppo-1000"] < found.wall_parallel < found.wall_serial
    assert found.devices_parallel == 9


def test_command_prints_json_with_every_stage() -> None:
    result = CliRunner().invoke(main, ["plan", "--spec", "specs/organism.yaml", "--json"])
    document = json.loads(result.stdout)

    assert result.exit_code == 0
    assert document["unit"] == "CPU-hours"
    assert {"fetch-model", "defend", "attack grpo-1000", "gate"} <= {one["name"] for one in document["stages"]}


def test_command_tells_what_it_lacks() -> None:
    result = CliRunner().invoke(main, ["plan", "--spec", "specs/qwen2.5-7b.yaml"])

    assert result.exit_code == 2
    assert "give --parameters, --layers, --hidden and --vocabulary" in result.stderr


def test_it_imports_nothing_heavy() -> None:
    probe = (
        "import sys\n"
        "from tokenbuncher.cli import main\n"
        "main(['plan', '--spec', 'specs/organism.yaml'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'trl', 'kfp', 'mlflow', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, encoding="utf-8", check=False)

    assert (done.returncode, done.stderr) == (0, "")


# What docs/planning.md says.

COMMAND, SHOWN = re.search(r"```console\n\$ (tokenbuncher .*?[^\\])\n(.*?)```", DOCUMENT, re.DOTALL).groups()
ROWS = re.findall(r"^\| ([^|]+) \| (?:`([^`]*)`)? \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", DOCUMENT, re.MULTILINE)


def told(options: str = "") -> str:
    command = shlex.split(f"{COMMAND} {options}".replace("\\\n", ""))
    result = CliRunner().invoke(main, command[1:])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_in_the_documentation_prints_what_stands_there() -> None:
    assert told() == SHOWN


@pytest.mark.parametrize(("options", "figures"), [(row[1], row[2:]) for row in ROWS if "-" not in row[0]])
def test_the_choices_in_the_documentation_cost_what_stands_there(options: str, figures: tuple[str, ...]) -> None:
    lines = " ".join(re.sub(r" with attacks and evaluations at once,| h100 \(80.0 GB\)", "", told(options)).split())

    for figure in figures:
        assert f" {figure} " in lines


def test_the_documentation_shows_the_choices_and_the_comparison() -> None:
    assert [row[0] for row in ROWS][:2] == ["as it is", "eight GPUs for each attack"]
    for one in comparisons():
        assert f"| {one.figure} | {one.measured:g} | {one.estimated:.3g} | {one.ratio:.2f}" in DOCUMENT


def test_the_7b_spec_is_valid_and_holds_no_secret() -> None:
    spec = load_spec("specs/qwen2.5-7b.yaml")

    assert spec.model.source.endswith("@COMMIT")
    assert {attack.name for attack in spec.attacks.suite} >= set(spec.policy.required_attacks)
    assert spec.compute.storage
    assert spec.attacks.reward != spec.evaluation.judge


def test_certain_refusals_are_planned_for_all_their_steps() -> None:
    few, many, unmixed = (
        stage("defend", "defence.recipe=certain-refusal", f"defence.steps={steps}", f"{MIXED}={prompts}")
        for steps, prompts in ((100, 1500), (300, 1500), (100, 0))
    )

    assert (few.steps, few.rollouts) == (100, 0)
    assert many.parts["training"] == pytest.approx(3 * few.parts["training"], rel=0.01)
    assert unmixed.parts["measuring"] < few.parts["measuring"]
