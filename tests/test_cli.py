"""The command line: usage, errors and exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from tests.evidence_factory import broken_arm, passing_release, release_spec
from tokenbuncher.cli import main
from tokenbuncher.evidence import read_registration

COMMANDS = sorted(main.commands)


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(release_spec().to_yaml())
    return path


def test_there_is_a_command_per_stage() -> None:
    assert COMMANDS == [
        "attack",
        "build-organism",
        "compile",
        "defend",
        "evaluate-safety",
        "evaluate-utility",
        "fetch-model",
        "gate",
        "prepare-data",
        "promote",
        "register",
        "run-local",
        "schema",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_needs_and_a_complete_example(command: str, run: Callable[..., Result]) -> None:
    text = run(command, "--help").output
    example = text.partition("Example:")[2].partition("Options:")[0]

    assert f"tokenbuncher {command}" in example
    assert command == "schema" or "Needs " in text
    required = [p for p in main.commands[command].params if isinstance(p, click.Option) and p.required]
    for option in required:
        assert option.opts[0] in example


def test_help_imports_nothing_heavy() -> None:
    probe = (
        "import sys\n"
        "from tokenbuncher.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'trl', 'kfp', 'mlflow', 'scipy', 'statsmodels', 'numpy', 'jinja2'}\n"
        "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "run-local" in done.stdout


def test_installed_command_answers() -> None:
    command = Path(sys.executable).with_name("tokenbuncher")
    done = subprocess.run([command, "schema"], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["title"] == "ReleaseSpec"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["schema", "--nosuch"],
        ["fetch-model"],
        ["fetch-model", "--spec", "nosuch.yaml", "--out", "out"],
        ["defend", "--spec", __file__, "--data", "nosuch", "--base", ".", "--out", "out"],
    ],
    ids=["command", "option", "required", "spec", "folder"],
)
def test_wrong_usage(arguments: list[str], run: Callable[..., Result]) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert "Error: " in result.output


def test_user_error_has_no_traceback(run: Callable[..., Result], spec_file: Path, tmp_path: Path) -> None:
    result = run(
        "run-local", "--spec", spec_file, "--set", "defence.nosuch=1", "--set", f"output.root={tmp_path / 'runs'}"
    )

    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "defence.nosuch" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()


def test_full_disk_has_no_traceback(run: Callable[..., Result], spec_file: Path) -> None:
    result = run("run-local", "--spec", spec_file, "--set", "output.root=/dev/full/runs")

    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


def test_interrupt(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("json.dumps", interrupted)
    result = run("schema")

    assert result.exit_code == 130
    assert result.stderr.startswith("interrupted")


@pytest.mark.parametrize(
    ("spoilt", "status", "word"), [(None, 0, "PASS"), ("broken", 1, "BLOCK"), ("missing", 2, "INCONCLUSIVE")]
)
def test_gate_and_promote_tell_the_outcome(
    spoilt: str | None,
    status: int,
    word: str,
    run: Callable[..., Result],
    spec_file: Path,
    embedded_root: Path,
    tmp_path: Path,
) -> None:
    fields = [f"tracking.model_name=command-line-{word}", f"output.root={embedded_root}"]
    common = ["--spec", spec_file, *(argument for field in fields for argument in ("--set", field))]
    (tmp_path / "candidate").mkdir()
    (tmp_path / "candidate" / "model.safetensors").write_text("weights")
    registered = run("register", *common, "--candidate", tmp_path / "candidate", "--out", tmp_path / "registration")
    assert registered.exit_code == 0, registered.output

    release = passing_release().about(read_registration(tmp_path / "registration").digest)
    if spoilt == "broken":
        arm = broken_arm(release.spec, model=release.piece("grpo-1000").candidate)
        release = release.with_piece("grpo-1000", candidate_arm=arm)
    if spoilt == "missing":
        release = release.with_evidence(release.evidence[1:])
    for stage in release.write(tmp_path / "evidence")[0]:
        common += ["--evidence", stage]
    common += ["--registration", tmp_path / "registration"]

    judged = run("gate", *common, "--out", tmp_path / "verdict")
    assert judged.exit_code == status
    assert word in judged.output
    promoted = run("promote", *common, "--verdict", tmp_path / "verdict")
    assert promoted.exit_code == status
    assert promoted.stderr.startswith(f"refused: {word}" if spoilt else "")


def test_compile(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("compile", "--output", tmp_path / "build" / "release.yaml")

    assert result.exit_code == 0, result.output
    assert yaml.safe_load((tmp_path / "build" / "release.yaml").read_text())["schemaVersion"]


def test_schema_describes_the_spec(run: Callable[..., Result]) -> None:
    schema = json.loads(run("schema").output)

    assert {"model", "data", "defence", "attacks", "policy"} <= schema["properties"].keys()
