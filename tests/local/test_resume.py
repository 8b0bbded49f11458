"""A run that was interrupted or has failed goes on, and comes to what an unbroken one comes to."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.local import run_local
from tests.local.test_run import processes_of, without_defence
from tokenbuncher.cli import INTERRUPTED
from tokenbuncher.core.errors import UserError
from tokenbuncher.evidence import read_all_evidence
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.verdict import Outcome, Verdict, read_verdict

BIN = Path(sys.executable).parent
ALWAYS = {"fetch-model", "prepare-data", "register", "gate", "promote"}
MEASURED = {"defend", "controls", "attack grpo-1000", "attack sft-1000", "evaluate-safety", "evaluate-utility"}


def evidence(folder: Path) -> list[dict[str, Any]]:
    """All evidence below a folder, but for when it was measured."""
    pieces, unreadable = read_all_evidence([folder / "artifacts"])
    assert unreadable == []
    return sorted((piece.model_dump(mode="json", exclude={"created"}) for piece in pieces), key=json.dumps)


def judged(verdict: Verdict) -> dict[str, Any]:
    """A verdict, but for when it was given, on which version, and after how many others."""
    return verdict.model_dump(mode="json", exclude={"created", "expires", "version", "tries"})


def told(output: str, event: str) -> set[str]:
    """The stages of which an event was told."""
    return set(re.findall(rf"^ *[\d.]+ s  (\S+(?: \S+-\d+)?) +{event}", output, re.MULTILINE))


def run(command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that a user was told."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.run(shlex.split(command), capture_output=True, encoding="utf-8", env=environment, check=False)


def test_a_failed_run_goes_on_after_what_is_done(
    spec: ReleaseSpec, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nowhere = parse_spec(spec.to_yaml(), ["tracking.uri=http://127.0.0.1:9"])
    with pytest.raises(UserError, match="stage register failed: MLflow failed"):
        run_local(nowhere)
    before = evidence(folder)
    capfd.readouterr()

    resumed = run_local(spec, resume=True)
    output = capfd.readouterr().out
    assert resumed.outcome is Outcome.PASS
    assert told(output, "kept: from the interrupted run") == MEASURED
    assert told(output, "started") == ALWAYS
    assert evidence(folder) == before
    assert not (folder / ".interrupted").exists()

    (folder / "spec.yaml").rename(tmp_path / "spec.yaml")
    unbroken = run(f"tokenbuncher run-local --quiet --spec {shlex.quote(str(tmp_path / 'spec.yaml'))}")
    passed = f"PASS: organism version 2\nreport: {folder / 'report.html'}\n"
    assert (unbroken.returncode, unbroken.stderr, unbroken.stdout) == (0, "", passed)
    assert "kept]" not in (folder / "run.log").read_text(encoding="utf-8")
    assert judged(read_verdict(folder)) == judged(resumed)
    assert evidence(folder) == before

    # To go on with what has ended is no other try; to begin anew is one.
    again = run_local(spec, resume=True)
    assert (again.version, resumed.tries, again.tries) == ("3", 1, 2)
    capfd.readouterr()

    # What passed is no evidence about anything else.
    other = run_local(without_defence(spec), resume=True)
    assert other.outcome is Outcome.BLOCK
    assert told(capfd.readouterr().out, "kept") == set()
    assert len(evidence(folder)) == len(before)
    assert evidence(folder) != before


@pytest.fixture
def started(
    spec: ReleaseSpec, tmp_path: Path, tasks_are_processes: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Starts `tokenbuncher run-local` with a mishap, up to a line that it prints."""
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))

    @contextmanager
    def started(mishap: str, line: str, *options: str) -> Iterator[subprocess.Popen[str]]:
        monkeypatch.setenv("MISHAP", mishap)
        command = [BIN / "tokenbuncher", "run-local", "--spec", tmp_path / "spec.yaml", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8") as process:
            assert process.stdout
            assert any(re.search(line, told) for told in process.stdout)
            yield process
            process.kill()

    return started


def test_the_first_signal_lets_a_training_save_and_the_run_goes_on(
    started: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started("attack grpo-1000 train", "attack grpo-1000 +in training") as process:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert process.returncode == INTERRUPTED
    assert "stopping: steps that run are finished and saved first; once more stops at once" in output
    assert re.search(r"attack grpo-1000 +interrupted: saved at step 3 of 8", output)
    assert processes_of(folder) == []
    going_on = output.splitlines()[-1].partition("go on with: ")[2]

    monkeypatch.delenv("MISHAP")
    done = run(going_on)
    assert (done.returncode, done.stderr) == (0, "")
    assert "defend" in told(done.stdout, "kept")
    assert "attack grpo-1000" in told(done.stdout, "started")
    assert "\nPASS: organism version 1\n" in done.stdout


def test_the_second_signal_stops_at_once(started: Callable[..., Any], folder: Path) -> None:
    with started("attack grpo-1000 stuck", "attack grpo-1000 +in training") as process:
        process.send_signal(signal.SIGINT)
        assert any("stopping" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert process.returncode == INTERRUPTED
    assert "run-local --resume" in output.splitlines()[-1]
    assert processes_of(folder) == []


def test_nothing_outlives_a_run_that_is_killed(started: Callable[..., Any], folder: Path) -> None:
    with started("attack grpo-1000 hang", "attack grpo-1000 +at work") as process:
        assert processes_of(folder)
        process.send_signal(signal.SIGKILL)
        process.wait()
    while processes_of(folder):
        time.sleep(0.1)


def test_the_command_of_a_failed_stage_repeats_it(
    spec: ReleaseSpec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISHAP", "attack grpo-1000 error")
    with pytest.raises(UserError) as failure:
        run_local(spec)
    lines = dict(line.partition(": ")[::2] for line in str(failure.value).splitlines())
    assert lines["stage attack grpo-1000 failed"] == "no good; mend it"
    log = Path(lines["log of attack grpo-1000"])
    assert log == folder / "logs" / "attack-grpo-1000.log"
    assert "noise of a library" in log.read_text(encoding="utf-8")
    assert "[attack sft-1000" not in log.read_text(encoding="utf-8")

    again = run(lines["that stage alone"])
    assert again.returncode == 2
    assert again.stderr.endswith("error: no good\nmend it\n")
    monkeypatch.delenv("MISHAP")
    again = run(lines["that stage alone"])
    assert (again.returncode, again.stderr) == (0, "noise of a library\n")
    (out,) = re.findall("^wrote (.*)$", again.stdout, re.MULTILINE)
    assert (Path(out) / "evidence.json").is_file()
    assert out.endswith("/attack/evidence")


def test_every_stage_can_be_run_alone_by_the_command_in_its_log(
    spec: ReleaseSpec, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    done = run(f"tokenbuncher run-local --log-format json --spec {tmp_path / 'spec.yaml'}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all({"time", "stage", "event", "text"} <= line.keys() for line in lines)
    assert {line["stage"] for line in lines if line["event"] == "done"} == {*MEASURED, *ALWAYS, "run-local"}
    results = {line["stage"]: line for line in lines if line["event"] == "result"}
    assert [line["text"] for line in results.values()][:2] == [
        "PASS: organism version 1",
        "champion is organism version 1",
    ]
    result = results["run-local"]
    assert (result["outcome"], result["version"]) == ("PASS", "1")
    assert result["report"] == str(folder / "report.html")

    logged = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in (folder / "logs").iterdir()}
    assert {stage.replace(" ", "-") for stage in (*MEASURED, *ALWAYS)} <= logged.keys()
    for name in ("prepare-data", "evaluate-safety", "gate", "promote"):
        command = json.loads(logged[name][0])
        assert command["event"] == "command"
        again = run(command["text"])
        assert again.returncode == 0, again.stderr
    assert again.stdout == "champion is organism version 1\n"
