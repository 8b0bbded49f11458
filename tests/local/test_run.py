"""run-local: the real pipeline under the real kfp.local, with stages that take no time (see fast_stages)."""

from __future__ import annotations

import html
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.local import run_local
from tokenbuncher.attestation import SIGNING_KEY, generate_key, load_public_key, verify
from tokenbuncher.cli import INTERRUPTED
from tokenbuncher.core.errors import UserError
from tokenbuncher.gate import gate
from tokenbuncher.registry.history import history
from tokenbuncher.report import failures
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.verdict import Outcome, read_verdict

STAGES = [
    "fetch-model",
    "prepare-data",
    "defend",
    "controls",
    "attack grpo-1000",
    "attack sft-1000",
    "evaluate-safety",
    "evaluate-utility",
    "register",
    "gate",
    "promote",
]


def without_defence(spec: ReleaseSpec) -> ReleaseSpec:
    return parse_spec(spec.to_yaml(), ["defence={recipe: none}"])


def champion(spec: ReleaseSpec) -> str | None:
    uri = spec.tracking_uri()
    version = MlflowClient(uri, uri).get_registered_model(spec.tracking.model_name).aliases.get("champion")
    return None if version is None else str(version)


def table(output: str) -> dict[str, tuple[float, str]]:
    """Seconds and result by stage."""
    rows = re.findall(r"^(\S+(?: \S+)?) +([\d.]+) s  (.+)$", output.partition("\nstage ")[2], re.MULTILINE)
    return {stage: (float(seconds), result) for stage, seconds, result in rows}


def test_pass_then_block(
    spec: ReleaseSpec,
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    public = generate_key(tmp_path / "key.pem")
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "key.pem"))
    verdict = run_local(spec)

    output, errors = capfd.readouterr()
    assert verdict.outcome is Outcome.PASS
    assert read_verdict(folder) == verdict
    assert champion(spec) == verdict.version == "1"
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "artifacts",
        "attestation.json",
        "card.md",
        "history.jsonl",
        "junit.xml",
        "logs",
        "report.html",
        "report.json",
        "report.md",
        "run.log",
        "spec.yaml",
        "verdict.json",
    }
    statement, problems = verify((folder / "attestation.json").read_text(encoding="utf-8"), [load_public_key(public)])
    assert (statement.predicate.version, problems) == ("1", [])
    assert gate(spec, [folder], folder).outcome is Outcome.PASS  # once more, from what the run has left
    assert parse_spec((folder / "spec.yaml").read_text(encoding="utf-8")) == spec
    assert sorted(table(output)) == sorted(STAGES)
    assert table(output)["defend"][1] == "all well"
    assert table(output)["promote"][1] == "champion is organism version 1"
    assert re.search(r"s  attack grpo-1000 +at work\n", output)
    assert output.endswith(f"\nPASS: organism version 1\nreport: {folder / 'report.html'}\n")
    assert "noise" not in output + errors
    assert "noise of a library" in (folder / "run.log").read_text(encoding="utf-8")

    blocked = run_local(without_defence(spec))

    output = capfd.readouterr().out
    assert blocked.outcome is Outcome.BLOCK
    assert read_verdict(folder) == blocked
    assert champion(spec) == "1"
    assert blocked.version == "2"
    assert table(output)["promote"][1].startswith("failed: BLOCK: champion was not moved")
    assert f"\nBLOCK: organism version 2\n{chr(10).join(failures(blocked))}\nreport: " in output
    assert [(entry.version, entry.outcome) for entry in history(folder)] == [("1", "PASS"), ("2", "BLOCK")]
    assert history(folder)[1].reasons == blocked.reasons
    assert (verdict.tries, blocked.tries) == (1, 2)


def test_the_defence_is_shown_by_its_step_log(spec: ReleaseSpec, folder: Path) -> None:
    verdict = run_local(spec)

    (log,) = (folder / "artifacts").glob("*/defend/steps/defence.steps.jsonl")
    ended = "certain-refusal reached its target after 40 steps"
    for name in ("report.html", "report.md", "card.md"):
        assert ended in (folder / name).read_text(encoding="utf-8")
    client = MlflowClient(spec.tracking_uri(), spec.tracking_uri())
    parent = client.get_model_version(spec.tracking.model_name, verdict.version).run_id
    nested = client.search_runs(
        [client.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}' and run_name = 'defence'"
    )
    assert [run.data.metrics["held_out_escape_max"] for run in nested] == [5e-8]

    again = gate(spec, [folder], folder, out=folder.parent / "again")  # from what the run has left
    assert ended in (folder.parent / "again" / "report.html").read_text(encoding="utf-8")
    log.write_text("spoilt", encoding="utf-8")
    spoilt = gate(spec, [folder], folder, out=folder.parent / "again")
    log.unlink()
    without = gate(spec, [folder], folder, out=folder.parent / "again")
    kept = [each.model_dump(exclude={"created", "expires"}) for each in (verdict, again, spoilt, without)]
    assert kept == [kept[0]] * 4
    assert ended not in (folder.parent / "again" / "report.html").read_text(encoding="utf-8")


def test_a_resumed_run_shows_it_too(spec: ReleaseSpec, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MISHAP", "attack grpo-1000 error")
        with pytest.raises(UserError):
            run_local(spec)
    unfinished = (folder / "report.html").read_text(encoding="utf-8")
    assert "certain-refusal reached its target after 40 steps" in unfinished

    assert run_local(spec, resume=True).outcome is Outcome.PASS
    assert "certain-refusal reached its target after 40 steps" in (folder / "card.md").read_text(encoding="utf-8")


def test_who_tries_again_is_told_and_stopped(spec: ReleaseSpec, folder: Path) -> None:
    limited = parse_spec(spec.to_yaml(), ["policy.max_tries=2"])
    assert run_local(without_defence(limited)).outcome is Outcome.BLOCK
    (folder / "verdict.json").unlink()
    second = run_local(limited)
    assert (second.outcome, second.tries) == (Outcome.PASS, 2)
    assert "Try 2 of this name" in (folder / "card.md").read_text(encoding="utf-8")
    shutil.rmtree(folder)
    third = run_local(limited)
    assert (third.outcome, third.tries) == (Outcome.BLOCK, 3)
    assert third.reasons == [
        "tries, organism: this is try 3 of the name; the policy allows 2. Whoever tries often enough passes by chance; "
        "raise max_tries, if somebody answers for it."
    ]
    assert champion(spec) == "2"


def test_a_verdict_that_an_ended_run_has_left_is_not_forgotten(spec: ReleaseSpec, folder: Path) -> None:
    run_local(without_defence(spec))
    (folder / "history.jsonl").unlink()  # as if it was ended between the gate and its end
    run_local(spec)
    assert [entry.outcome for entry in history(folder)] == ["BLOCK", "PASS"]


@pytest.mark.parametrize(
    ("mishap", "says"),
    [
        ("fetch-model error", "stage fetch-model failed: no good; mend it"),
        ("defend bug", "stage defend failed: ZeroDivisionError: by nothing"),
        ("attack sft-1000 full", r"stage attack sft-1000 failed: OSError: \[Errno 28\] No space left on device"),
        ("evaluate-safety kill", "stage evaluate-safety was killed"),
    ],
)
def test_failed_stage_is_named_and_no_old_verdict_is_left(
    mishap: str, says: str, spec: ReleaseSpec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = folder / "artifacts" / "old"
    old.mkdir(parents=True)
    (folder / "verdict.json").write_text('{"outcome": "PASS"}', encoding="utf-8")
    (folder / "report.html").write_text("PASS", encoding="utf-8")
    monkeypatch.setenv("MISHAP", mishap)

    with pytest.raises(UserError, match=f"{says}(?s:.*){re.escape(str(folder / 'run.log'))}"):
        run_local(spec)
    assert not (folder / "verdict.json").exists()
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h1>INCONCLUSIVE" in report
    assert re.search(f"<li>{says}", html.unescape(report))
    assert not re.search(r">PASS\b", report)
    assert not old.exists()


def test_pass_that_moved_no_alias_is_a_failure(spec: ReleaseSpec) -> None:
    run_local(spec)
    with closing(sqlite3.connect(spec.output.root / "mlflow.db")) as database:
        for what in ("INSERT", "UPDATE"):
            moved = f"BEFORE {what} ON registered_model_aliases"
            database.execute(f"CREATE TRIGGER no_{what} {moved} BEGIN SELECT RAISE(ABORT, 'aliases are closed'); END")
    with pytest.raises(UserError, match=r"stage promote failed: .*aliases are closed"):
        run_local(spec)
    assert champion(spec) == "1"


def test_stage_that_cannot_start_is_told_from_the_log(spec: ReleaseSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.devnull)
    monkeypatch.setenv("PYTHONHOME", os.devnull)

    with pytest.raises(UserError, match=r"failed to start(?s:.*)run\.log"):
        run_local(spec)


@pytest.fixture
def hanging(
    spec: ReleaseSpec, tmp_path: Path, tasks_are_processes: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[str]]:
    """`tokenbuncher run-local` whose attacks have begun and never end."""
    monkeypatch.setenv("MISHAP", "attack grpo-1000 hang")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    command = [Path(sys.executable).with_name("tokenbuncher"), "run-local", "--spec", tmp_path / "spec.yaml"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8") as process:
        assert process.stdout
        for line in process.stdout:
            if re.search("attack grpo-1000 +at work", line):
                break
        yield process
        process.kill()


def processes_of(folder: Path) -> list[str]:
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [command.decode() for command in commands if str(folder).encode() in command]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_stops_everything(
    number: signal.Signals, hanging: subprocess.Popen[str], folder: Path, tmp_path: Path
) -> None:
    assert processes_of(folder)
    hanging.send_signal(number)

    output, _ = hanging.communicate()
    assert hanging.returncode == INTERRUPTED
    assert output.splitlines()[-1].startswith("interrupted")
    assert processes_of(folder) == []
    assert list((tmp_path / "scratch").iterdir()) == []


def test_folder_in_use_is_refused_and_a_rerun_works(
    hanging: subprocess.Popen[str], spec: ReleaseSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="in use by another run"):
        run_local(spec)
    hanging.send_signal(signal.SIGINT)
    hanging.communicate()
    monkeypatch.delenv("MISHAP")

    assert run_local(spec).outcome is Outcome.PASS


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(NotADirectoryError):
        run_local(parse_spec(f"output: {{root: {tmp_path / 'file'}}}"))
