"""No command replaces what is no output of this tool; every one that writes a folder or file is asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from pipelines.local import check_run_folder, run_local
from tests.evidence_factory import passing_release, release_spec
from tokenbuncher.cli import main
from tokenbuncher.cli.doors import NEW_FOLDER
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import whole_folder

FOLDERS = [
    name
    for name, command in main.commands.items()
    if any(option.name == "out" and option.type is NEW_FOLDER for option in command.params)
]
RELEASE = passing_release()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("spec.yaml").write_text(release_spec().to_yaml(), encoding="utf-8")
    Path("folder").mkdir()
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


def given(command: str) -> list[str]:
    """The other options and arguments that a command must have, as far as they are looked at before its work."""
    words = ["spec.yaml"] if command == "verify" else []
    for option in main.commands[command].params:
        if option.name != "out" and option.required and isinstance(option, click.Option):
            is_folder = isinstance(option.type, click.Path) and not option.type.file_okay
            is_file = isinstance(option.type, click.Path) and not is_folder
            words += [option.opts[0], "folder" if is_folder else "spec.yaml" if is_file else "grpo-1000"]
    return words


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") if path.is_file() else ""
        for path in folder.rglob("*")
    }


def test_these_write_folders() -> None:
    assert sorted(FOLDERS) == [
        "align-smollm2",
        "attack",
        "build-organism",
        "controls",
        "defend",
        "evaluate-safety",
        "evaluate-utility",
        "fetch-model",
        "gate",
        "prepare-data",
        "register",
        "verify",
    ]


@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize("held", ["thesis.txt", "config.json", "verdict.json", ".git/HEAD", "a/b/c"])
def test_a_folder_of_the_users_is_never_replaced(
    command: str, held: str, run: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "mine" / held).parent.mkdir(parents=True)
    (tmp_path / "mine" / held).write_text("years of work", encoding="utf-8")
    before = tree(tmp_path)

    result = run(command, *given(command), "--out", tmp_path / "mine")

    assert result.exit_code == 2, result.output
    assert "no earlier run of this tool wrote" in result.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize("out", [".", "..", "/", "link", "spec.yaml", "folder/.."])
def test_what_is_no_folder_of_its_own_is_refused(command: str, out: str, run: Callable[..., Result]) -> None:
    Path("link").symlink_to("folder")
    before = tree(Path())

    result = run(command, *given(command), "--out", out)

    assert result.exit_code == 2, result.output
    assert "choose another --out" in result.stderr
    assert tree(Path()) == before


def test_a_gate_that_is_run_again_replaces_its_verdict_signed_or_not(run: Callable[..., Result]) -> None:
    RELEASE.write(Path("run"))
    Path("run/spec.yaml").write_text(RELEASE.spec.to_yaml(), encoding="utf-8")
    run("keygen", "--out", "key.pem")
    sign = ("sign", "--evidence", "run", "--verdict", "verdict", "--key", "key.pem", "--out")
    for again in range(3):
        assert run("gate", "--evidence", "run", "--out", "verdict").exit_code == 0
        assert not Path("verdict/attestation.json").exists()
        assert run(*sign, "verdict/attestation.json").exit_code == 0
        assert run(*sign, f"{again % 2}.json").exit_code == 0

    Path("verdict/notes.txt").write_text("mine", encoding="utf-8")
    assert run("gate", "--evidence", "run", "--out", "verdict").exit_code == 2
    assert Path("verdict/notes.txt").read_text(encoding="utf-8") == "mine"
    assert Path("verdict/attestation.json").exists()


@pytest.mark.parametrize("name", ["key.pem", "key.pub", "spec.yaml", "verdict/verdict.json", "verdict/report.html"])
def test_a_single_file_takes_the_place_of_its_own_kind_only(name: str, run: Callable[..., Result]) -> None:
    RELEASE.write(Path("run"))
    Path("run/spec.yaml").write_text(RELEASE.spec.to_yaml(), encoding="utf-8")
    run("keygen", "--out", "key.pem")
    run("gate", "--evidence", "run", "--out", "verdict")
    pipeline = Path("pipeline.yaml")
    pipeline.write_text(yaml.safe_dump({"pipelineInfo": {"name": "mine"}}), encoding="utf-8")
    before = tree(Path())

    for command in (
        ("sign", "--evidence", "run", "--verdict", "verdict", "--key", "key.pem", "--out", name),
        ("compare", "run", "run", "--out", name),
        ("keygen", "--out", name),
        ("init", "--model", "organism", "--out", name),
        ("compile", "--out", name),
        ("compile", "--out", pipeline),
    ):
        assert run(*command).exit_code == 2, command
    assert tree(Path()) == before


@pytest.mark.parametrize("command", ["compare", "compile"])
def test_a_single_file_replaces_an_earlier_one(command: str, run: Callable[..., Result]) -> None:
    RELEASE.write(Path("run"))
    Path("run/spec.yaml").write_text(RELEASE.spec.to_yaml(), encoding="utf-8")
    words = ("compare", "run", "run", "--out", "both.html") if command == "compare" else ("compile", "--out", "r.yaml")

    assert [run(*words).exit_code for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("held", ["thesis.txt", "artifacts/mine", "report.html"])
def test_a_run_replaces_nothing_in_a_folder_that_is_no_runs(held: str, tmp_path: Path) -> None:
    spec = release_spec(output={"root": str(tmp_path)})
    folder = tmp_path / spec.name
    (folder / held).parent.mkdir(parents=True)
    (folder / held).write_text("years of work", encoding="utf-8")
    (folder / "src").mkdir()
    before = tree(tmp_path)

    with pytest.raises(UserError, match="is no folder of an earlier run"):
        run_local(spec)
    assert tree(tmp_path) == before


def test_a_note_in_the_folder_of_a_run_is_no_obstacle(tmp_path: Path) -> None:
    for name in (".lock", "spec.yaml", "notes.txt"):
        (tmp_path / name).touch()
    check_run_folder(tmp_path)


def test_a_model_of_the_users_is_no_earlier_output_however_alike(tmp_path: Path) -> None:
    """A folder that was written here and then replaced by the user's is the user's."""
    with whole_folder(tmp_path / "base") as folder:
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "model.safetensors").write_text("ours", encoding="utf-8")
    shutil.rmtree(tmp_path / "base")
    (tmp_path / "base").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "base" / name).write_text("{}" if name == "config.json" else "ours", encoding="utf-8")

    with pytest.raises(UserError), whole_folder(tmp_path / "base"):
        pass
