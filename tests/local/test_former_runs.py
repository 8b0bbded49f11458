"""A run that another version of the tool has left is told to be none that can be resumed, and stays as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.local import check_run_folder, run_local
from pipelines.local.folder import LOCK, clear, in_use
from tokenbuncher.cli import main
from tokenbuncher.core.errors import UserError
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.storage import dependencies

KEY = "5f0c1c0b3f7d4a53b4bb8fa3a0b2c6e2a4f07dd5e09d2e4f3f6b3a1e0c9d8b7a"


@pytest.fixture
def former(spec: ReleaseSpec, folder: Path) -> Path:
    """What version 0.1.0 left when it was interrupted after an attack: its lock was empty."""
    run = folder / "artifacts" / "tokenbuncher-release-2026-11-28-10-00-00-000000"
    attack = run / "attacks" / "for-loop-1-iteration-0" / "attack"
    (attack / "evidence").mkdir(parents=True)
    (attack / "evidence" / "evidence.json").write_text('{"kind": "attack"}', encoding="utf-8")
    outputs = {"evidence": {"path": "evidence", "schema_title": "system.Artifact"}}
    record = {"key": KEY, "digest": "0" * 64, "outputs": outputs}
    (attack / "completed.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (run / "fetch-model" / "model").mkdir(parents=True)
    (run / "fetch-model" / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "logs").mkdir()
    (folder / "logs" / "attack-grpo-1000.log").write_text("[attack grpo-1000 done]\n", encoding="utf-8")
    (folder / "run.log").write_text("[attack grpo-1000 done]\n", encoding="utf-8")
    (folder / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    (folder / ".lock").touch()
    return folder


def everything(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """All that is in a folder, and when it was changed."""
    paths = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in paths
    }


@pytest.mark.parametrize("lock", ["", "another tool's digest", "\x00\x00", None])
def test_it_is_told_and_kept(former: Path, spec: ReleaseSpec, lock: str | None) -> None:
    (former / LOCK).unlink()
    if lock is not None:
        (former / LOCK).write_text(lock, encoding="utf-8")
    before = everything(former)

    with pytest.raises(UserError, match=r"left by another version of tokenbuncher.*run without --resume"):
        run_local(spec, resume=True)
    assert everything(former) == before


def test_so_is_what_a_resumed_run_has_put_aside(former: Path, spec: ReleaseSpec) -> None:
    (former / "artifacts").rename(former / ".interrupted")
    before = everything(former)

    with pytest.raises(UserError, match="left by another version of tokenbuncher"):
        run_local(spec, resume=True)
    assert everything(former) == before


def test_a_lock_that_is_no_text_is_no_mark(former: Path, spec: ReleaseSpec) -> None:
    (former / LOCK).write_bytes(b"\xff\xfe")

    with pytest.raises(UserError, match="left by another version of tokenbuncher"):
        run_local(spec, resume=True)


def test_a_dry_run_tells_it_too(former: Path, spec: ReleaseSpec, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    command = ["run-local", "--dry-run", "--spec", str(tmp_path / "spec.yaml")]

    refused = CliRunner().invoke(main, [*command, "--resume"])
    assert refused.exit_code == 2
    assert "left by another version of tokenbuncher" in refused.output
    assert "in place of what an earlier run has left there" in CliRunner().invoke(main, command).output


def test_without_resume_it_is_replaced_as_ever(former: Path) -> None:
    check_run_folder(former)
    with in_use(former) as lock:
        clear(former, lock, resume=False)

    assert not (former / "artifacts").exists()
    assert not (former / "run.log").exists()


@pytest.mark.parametrize("changed", ["sources", "installed_versions"])
def test_a_run_can_be_resumed_by_the_tool_that_left_it_alone(
    changed: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True)
    with in_use(folder) as lock:
        clear(folder, lock, resume=False)
    (folder / "artifacts" / "release-1").mkdir(parents=True)
    check_run_folder(folder, resume=True)

    with in_use(folder) as lock:
        clear(folder, lock, resume=True)
    assert (folder / ".interrupted" / "release-1").is_dir()
    check_run_folder(folder, resume=True)

    monkeypatch.setattr(dependencies, changed, lambda: "another")
    with pytest.raises(UserError, match="left by another version of tokenbuncher or of its libraries"):
        check_run_folder(folder, resume=True)
    shutil.rmtree(folder / ".interrupted")
    shutil.rmtree(folder / "artifacts", ignore_errors=True)
    check_run_folder(folder, resume=True)


def test_a_second_run_leaves_the_mark_of_the_first(folder: Path) -> None:
    folder.mkdir(parents=True)
    with in_use(folder) as lock:
        clear(folder, lock, resume=False)
        with pytest.raises(UserError, match="in use by another run"), in_use(folder):
            pass
        assert (folder / LOCK).read_text(encoding="utf-8") == dependencies.tool()
