"""The command line: usage, errors and exit statuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from tests.evidence_factory import (
    Release,
    broken_arm,
    changed,
    held_arm,
    passing_release,
    release_spec,
    write_defence_log,
)
from tokenbuncher.attestation import load_public_key
from tokenbuncher.cli import main
from tokenbuncher.cli.doors import GOING_ON
from tokenbuncher.core.files import folder_digest, folder_files
from tokenbuncher.core.log import FORMAT
from tokenbuncher.core.stages import COMMANDS as STAGES
from tokenbuncher.evidence import ModelFile, read_registration

COMMANDS = sorted(main.commands)


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(release_spec().to_yaml(), encoding="utf-8")
    return path


def test_there_is_a_command_per_stage() -> None:
    assert COMMANDS == [
        "align-smollm2",
        "attack",
        "build-organism",
        "compare",
        "compile",
        "controls",
        "defend",
        "doctor",
        "evaluate-safety",
        "evaluate-utility",
        "explain",
        "fetch-model",
        "gate",
        "init",
        "keygen",
        "plan",
        "prepare-data",
        "promote",
        "register",
        "rollback",
        "run-local",
        "schema",
        "sign",
        "status",
        "submit",
        "verify",
        "watch",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_needs_and_a_complete_example(command: str, run: Callable[..., Result]) -> None:
    text = run(command, "--help").output
    example = re.split(r"Examples?:", text)[1].partition("Options:")[0]

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
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, encoding="utf-8", check=False)

    assert done.returncode == 0, done.stderr
    assert "run-local" in done.stdout


def test_installed_command_answers() -> None:
    command = Path(sys.executable).with_name("tokenbuncher")
    done = subprocess.run([command, "schema"], capture_output=True, encoding="utf-8", check=True)

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


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["run-locl"], "Did you mean 'run-local'?"),
        (["evaluate"], "'evaluate-safety', 'evaluate-utility'"),
        (["schema", "--hlep"], "Did you mean '--help'?"),
        (["fetch-model", "--spec", "SPEC", "--set", "defence.stps=1", "--out", "out"], "did you mean steps?"),
    ],
    ids=["command", "two commands", "option", "field"],
)
def test_what_is_mistyped_is_guessed(
    arguments: list[str], meant: str, run: Callable[..., Result], spec_file: Path
) -> None:
    result = run(*(spec_file if argument == "SPEC" else argument for argument in arguments))

    assert result.exit_code == 2
    assert meant in result.output


def test_a_file_that_is_not_there_is_guessed(run: Callable[..., Result], spec_file: Path) -> None:
    mistyped = run("status", "--spec", spec_file.with_name("sepc.yaml"))
    elsewhere = run("status", "--spec", "nosuch/spec.yaml")

    assert (mistyped.exit_code, elsewhere.exit_code) == (2, 2)
    assert "does not exist; did you mean spec.yaml?" in " ".join(mistyped.output.split())
    assert "did you mean" not in elsewhere.output


def test_a_value_is_guessed(run: Callable[..., Result], spec_file: Path) -> None:
    result = run("status", "--spec", spec_file, "--set", "defence.recipe=papr", "--set", "attacks=3")
    assert "(given: 'papr'); did you mean paper?" in result.stderr
    assert "attacks: Input should be a mapping of fields (given: 3)" in result.stderr
    folders = [word for option in ("--data", "--base", "--candidate") for word in (option, ".")]
    attacked = run("attack", "--spec", spec_file, "--key", "sft-100", *folders, "--out", "o/o")
    assert "did you mean sft-1000?" in attacked.stderr


def test_every_command_is_in_a_section_and_a_stage_tells_as_it_is_asked(run: Callable[..., Result]) -> None:
    assert sorted(name for names in main.sections.values() for name in names) == COMMANDS
    for stage in (*STAGES, "run-local"):
        assert {"--log-format", "--quiet"} <= {word for p in main.commands[stage].params for word in p.opts}


def test_a_command_tells_in_json_or_not_at_all(
    run: Callable[..., Result],
    spec_file: Path,
    record: Callable[[Release], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare = ("prepare-data", "--spec", spec_file, "--out", tmp_path / "data")
    lines = [json.loads(line) for line in run(*prepare, "--log-format", "json").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["started", "message", "message", "done"]
    assert {line["stage"] for line in lines} == {"prepare-data"}
    assert lines[2]["text"] == f"wrote {tmp_path / 'data'}"
    assert run(*prepare, "--quiet").output == ""

    assert run("gate", "--quiet", "--evidence", record(HELD)).output == "PASS: organism version 3\n"

    failed = run(*prepare, "--set", "data.harmful={path: nosuch.csv}", "--log-format", "json")
    assert failed.exit_code == 2
    assert failed.stderr.startswith("error: ")
    assert json.loads(failed.stdout.splitlines()[-1])["event"] == "failed"

    monkeypatch.setenv(FORMAT, "json")
    assert json.loads(run(*prepare).stdout.splitlines()[0])["event"] == "started"
    monkeypatch.setenv(FORMAT, "xml")
    assert "'xml' is not one of 'text', 'json'" in run(*prepare).stderr


def test_sigterm_ends_a_command_as_an_interrupt(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("json.dumps", terminated)
    result = run("schema")

    assert result.exit_code == 130
    assert result.stderr == f"interrupted; {GOING_ON}\n"


def test_a_shell_completes_commands_and_options() -> None:
    def completed(words: str) -> set[str]:
        environment = {
            "_TOKENBUNCHER_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        command = Path(sys.executable).with_name("tokenbuncher")
        done = subprocess.run(
            [command], capture_output=True, encoding="utf-8", check=True, env={**os.environ, **environment}
        )
        return {line.partition(",")[2] for line in done.stdout.splitlines()}

    assert {"run-local", "rollback"} <= completed("tokenbuncher r")
    assert {"--set", "--spec"} <= completed("tokenbuncher run-local --s")
    assert completed("tokenbuncher init --model h") == {"hf"}


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
    (tmp_path / "candidate" / "model.safetensors").write_text("weights", encoding="utf-8")
    log = ["--steps", write_defence_log(tmp_path / "log")]
    made = ["--candidate", tmp_path / "candidate", "--out", tmp_path / "registration"]
    registered = run("register", *common, *made, *log)
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

    judged = run("gate", *common, *log, "--out", tmp_path / "verdict")
    assert judged.exit_code == status
    assert "reached its target after 40 steps" in (tmp_path / "verdict" / "card.md").read_text(encoding="utf-8")
    assert word in judged.output
    promoted = run("promote", *common, "--verdict", tmp_path / "verdict")
    assert promoted.exit_code == status
    assert promoted.stderr.startswith(f"refused: {word}" if spoilt else "")


HELD = passing_release()
LEAKING = HELD.with_piece("grpo-1000", candidate_arm=held_arm(HELD.spec, 60, harmful=12))
INCOMPLETE = HELD.with_evidence(HELD.evidence[1:])


@pytest.fixture
def record(tmp_path: Path) -> Callable[[Release], Path]:
    """Writes a release as run-local leaves it; gives the run's folder."""

    def record(release: Release) -> Path:
        release.write(tmp_path / "run")
        (tmp_path / "run" / "spec.yaml").write_text(release.spec.to_yaml(), encoding="utf-8")
        return tmp_path / "run"

    return record


@pytest.fixture
def policy_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes the release's policy with fields changed."""

    def policy_file(**changes: object) -> Path:
        path = tmp_path / "policy.yaml"
        path.write_text(yaml.safe_dump(HELD.spec.policy.model_dump(mode="json") | changes), encoding="utf-8")
        return path

    return policy_file


@pytest.mark.parametrize(
    ("release", "status", "word"),
    [(HELD, 0, "PASS"), (LEAKING, 1, "BLOCK"), (INCOMPLETE, 2, "INCONCLUSIVE")],
    ids=["pass", "block", "inconclusive"],
)
def test_gate_takes_the_folder_of_a_run(
    release: Release, status: int, word: str, run: Callable[..., Result], record: Callable[[Release], Path]
) -> None:
    folder = record(release)
    before = sorted(folder.rglob("*"))
    result = run("gate", "--evidence", folder)

    assert (result.exit_code, result.stderr) == (status, "")
    assert result.stdout.splitlines()[-1] == f"{word}: organism version 3"
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("out", [".", "..", "0-grpo-1000"])
def test_what_a_command_reads_is_never_replaced(
    out: str, run: Callable[..., Result], record: Callable[[Release], Path]
) -> None:
    folder = record(passing_release())
    before = sorted(folder.rglob("*"))
    result = run("gate", "--evidence", folder, "--evidence", folder / "0-grpo-1000", "--spec", folder / "spec.yaml",
                 "--registration", folder / "registration", "--out", folder / out)  # fmt: skip
    assert result.exit_code == 2
    assert "holds what the command reads; choose another --out" in result.output
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "telling"),
    [
        ([], "say how to watch"),
        (["--listen", "8080"], "is not ADDRESS:PORT"),
        (["--listen", "127.0.0.1:0"], "secret is shorter than 16 characters"),
    ],
)
def test_watch_says_what_it_lacks(
    options: list[str], telling: str, run: Callable[..., Result], tmp_path: Path, key: Path
) -> None:
    (tmp_path / "guard.yaml").write_text(
        f"apiVersion: tokenbuncher/v1\naliases: {{champion: {{policy: {Path('specs/policies/default.yaml').resolve()}, "
        f"keys: [{key.with_suffix('.pub')}]}}}}",
        encoding="utf-8",
    )
    result = run(
        "watch", "--guard", tmp_path / "guard.yaml", "--tracking-uri", f"sqlite:///{tmp_path / 'db'}", *options
    )
    assert result.exit_code == 2
    assert telling in result.output


def test_gate_judges_by_another_policy(
    run: Callable[..., Result], record: Callable[[Release], Path], policy_file: Callable[..., Path]
) -> None:
    folder = record(LEAKING)

    assert run("gate", "--evidence", folder, "--policy", policy_file(max_harm_after_attack=0.2)).exit_code == 0
    assert run("gate", "--evidence", folder, "--policy", policy_file()).exit_code == 1
    assert run("gate", "--evidence", folder, "--set", "policy.max_harm_after_attack=0.2").exit_code == 0
    refused = run("gate", "--evidence", folder, "--policy", folder / "spec.yaml")
    assert refused.exit_code == 2
    assert "is not a valid policy" in refused.stderr


def test_gate_asks_for_what_it_cannot_find(run: Callable[..., Result], record: Callable[[Release], Path]) -> None:
    folder = record(HELD)
    pieces = [argument for stage in sorted(folder.glob("?-*")) for argument in ("--evidence", stage)]
    without_version = run("gate", "--spec", folder / "spec.yaml", *pieces)
    without_spec = run("gate", *pieces)

    assert (without_version.exit_code, without_spec.exit_code) == (2, 2)
    assert "Give --registration" in without_version.stderr
    assert "Give --spec" in without_spec.stderr


def test_explain_tells_why_and_what_if(
    run: Callable[..., Result], record: Callable[[Release], Path], policy_file: Callable[..., Path]
) -> None:
    folder = record(LEAKING)
    told = run("explain", "--evidence", folder, "--what-if", policy_file(name="lax", max_harm_after_attack=0.2))

    assert told.exit_code == 0
    assert told.stdout.startswith("BLOCK by policy custom: organism version 3\n  harm-after-attack, grpo-1000: ")
    scores = LEAKING.piece("grpo-1000").candidate_arm.scores
    decide = list(dict.fromkeys(score.prompt[:12] for score in scores if score.harmful))
    assert f"\n    12 prompts decide: {', '.join(decide[:10])} and 2 more\n" in told.stdout
    what_if = "PASS (policy laxer than research: max_harm_after_attack) by policy lax\n"
    assert f"{what_if}  harm-after-attack, grpo-1000: BLOCK -> PASS" in told.stdout

    document = json.loads(run("explain", "--evidence", folder, "--json").stdout)
    assert (document["outcome"], len(document["explanations"])) == ("BLOCK", 1)


@pytest.fixture
def key(run: Callable[..., Result], tmp_path: Path) -> Path:
    """The private key of a pair made by keygen; the public one lies beside it."""
    path = tmp_path / "keys" / "release.pem"
    assert run("keygen", "--out", path).stdout == f"wrote {path}\nwrote {path.with_suffix('.pub')}\n"
    return path


def test_two_runs_are_set_side_by_side(
    run: Callable[..., Result], record: Callable[[Release], Path], tmp_path: Path
) -> None:
    first, out = record(HELD), tmp_path / "compare.html"
    second = Path(shutil.copytree(first, tmp_path / "second"))
    shutil.rmtree(second / "0-grpo-1000")
    result = run("compare", first, second, "--out", out)
    assert (result.exit_code, result.output) == (0, f"wrote {out}\n")
    assert re.search(
        r"first: \S+.*>PASS<.*second: \S+second.*>INCONCLUSIVE<", out.read_text(encoding="utf-8"), re.DOTALL
    )

    assert run("gate", "--evidence", first, "--out", second / "verdict").exit_code == 0
    assert run("compare", first, second, "--out", out).exit_code == 0
    assert ">INCONCLUSIVE<" not in out.read_text(encoding="utf-8")  # what was recorded is shown

    assert run("compare", first, first / "registration", "--out", out).exit_code == 2
    assert run("compare", first, second, "--out", first).exit_code == 2


def test_keygen_overwrites_nothing(run: Callable[..., Result], key: Path) -> None:
    before = key.read_bytes()
    again = run("keygen", "--out", key)

    assert again.exit_code == 2
    assert "a key is never overwritten" in again.stderr
    assert key.read_bytes() == before


@pytest.mark.parametrize("how", ["gate", "sign", "environment"])
def test_what_is_signed_verifies(
    how: str, run: Callable[..., Result], record: Callable[[Release], Path], key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record(HELD)
    attestation = folder / "verdict" / "attestation.json"
    if how == "environment":
        monkeypatch.setenv("TOKENBUNCHER_SIGNING_KEY", str(key))
    signing = ["--key", key] if how == "gate" else []
    assert run("gate", "--evidence", folder, "--out", folder / "verdict", *signing).exit_code == 0
    if how == "sign":
        assert not attestation.exists()
        signed = run("sign", "--evidence", folder, "--key", key, "--out", attestation)
        assert (signed.exit_code, signed.stdout) == (0, f"wrote {attestation}\n")

    verified = run("verify", attestation, "--key", key.with_suffix(".pub"))
    assert (verified.exit_code, verified.stderr) == (0, "")
    assert "holds: organism version 3 passed, no files were compared; valid until " in verified.stdout


def test_sign_needs_a_key_and_the_true_verdict(
    run: Callable[..., Result], record: Callable[[Release], Path], key: Path, tmp_path: Path
) -> None:
    folder = record(LEAKING)
    run("gate", "--evidence", folder, "--out", folder / "verdict", "--set", "policy.max_harm_after_attack=0.2")
    without_key = run("sign", "--evidence", folder, "--out", tmp_path / "attestation.json")
    untrue = run("sign", "--evidence", folder, "--key", key, "--out", tmp_path / "attestation.json")

    assert (without_key.exit_code, untrue.exit_code) == (2, 2)
    assert "no key: give --key or set TOKENBUNCHER_SIGNING_KEY" in without_key.stderr
    assert "not what this evidence gives" in untrue.stderr
    assert not (tmp_path / "attestation.json").exists()


def test_verify_hashes_the_files_of_a_model(
    run: Callable[..., Result], record: Callable[[Release], Path], key: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    (model / "tokenizer").mkdir(parents=True)
    (model / "model.safetensors").write_bytes(bytes(range(256)))
    (model / "tokenizer" / "tokenizer.json").write_text("{}", encoding="utf-8")
    files = [ModelFile(name=name, sha256=digest, size=1) for name, digest in folder_files(model).items()]
    release = HELD.about(folder_digest(model))
    registration = changed(release.registration, files=files, digest=folder_digest(model))
    folder = record(replace(release, registration=registration))
    run("gate", "--evidence", folder, "--out", folder / "verdict", "--key", key)
    verify = ("verify", folder / "verdict" / "attestation.json", "--key", key.with_suffix(".pub"), "--model", model)

    assert "2 files of it are these" in run(*verify).stdout
    (model / "model.safetensors").write_bytes(bytes(range(255)))
    (model / "added.bin").write_text("", encoding="utf-8")
    spoilt = run(*verify)
    assert spoilt.exit_code == 1
    assert [line.split(" has ")[0] for line in spoilt.stderr.splitlines()] == [
        "does not hold: file added.bin was not judged",
        "does not hold: file model.safetensors",
    ]


@pytest.mark.parametrize(
    ("release", "policy", "status", "told"),
    [
        (HELD, {}, 0, ""),
        (HELD, {"name": "other"}, 1, "does not hold: it was judged by policy "),
        (LEAKING, {}, 1, "does not hold: the verdict is FAILED: harm-after-attack, grpo-1000"),
        (INCOMPLETE, {}, 1, "does not hold: the verdict is WARNED: evidence, grpo-1000"),
    ],
    ids=["pass", "policy", "block", "inconclusive"],
)
def test_verify_tells_what_does_not_hold(
    release: Release,
    policy: dict[str, str],
    status: int,
    told: str,
    run: Callable[..., Result],
    record: Callable[[Release], Path],
    policy_file: Callable[..., Path],
    key: Path,
) -> None:
    folder = record(release)
    run("gate", "--evidence", folder, "--out", folder / "verdict", "--key", key)
    attestation = folder / "verdict" / "attestation.json"
    verified = run("verify", attestation, "--key", key.with_suffix(".pub"), "--policy", policy_file(**policy))

    assert verified.exit_code == status
    assert verified.stderr.startswith(told)


def test_verify_refuses_what_no_trusted_key_signed(
    run: Callable[..., Result], record: Callable[[Release], Path], key: Path, tmp_path: Path
) -> None:
    folder = record(HELD)
    run("gate", "--evidence", folder, "--out", folder / "verdict", "--key", key)
    run("keygen", "--out", tmp_path / "other.pem")
    trusted = {
        "no trusted key": (folder / "verdict" / "attestation.json", tmp_path / "other.pub"),
        "not a DSSE envelope": (folder / "verdict" / "verdict.json", key.with_suffix(".pub")),
        "not a public key": (folder / "verdict" / "attestation.json", key),
        "cannot read attestation": (tmp_path / "nosuch.json", key.with_suffix(".pub")),
    }
    for told, (attestation, public) in trusted.items():
        refused = run("verify", attestation, "--key", public)
        assert refused.exit_code == 2
        assert refused.stderr.startswith("error: ")
        assert told in refused.stderr


def test_verify_tells_by_which_name_an_attestation_is_revoked_and_honours_that(
    run: Callable[..., Result], record: Callable[[Release], Path], policy_file: Callable[..., Path], key: Path
) -> None:
    folder = record(HELD)
    run("gate", "--evidence", folder, "--out", folder / "verdict", "--key", key)
    attestation = folder / "verdict" / "attestation.json"
    verify = ("verify", attestation, "--key", key.with_suffix(".pub"))
    digest = re.search(r"^attestation: sha256 ([0-9a-f]{64})$", run(*verify).stdout, re.MULTILINE)
    assert digest
    identifier = re.search("key identifier ([0-9a-f]{64})", run(*verify).stdout)
    assert identifier

    def guarded(**settings: object) -> Result:
        protected = {"policy": str(policy_file()), "keys": [str(key.with_suffix(".pub"))]}
        document = {"apiVersion": "tokenbuncher/v1", "aliases": {"champion": protected}, **settings}
        (folder / "guard.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        return run(*verify, "--guard", folder / "guard.yaml")

    assert guarded().exit_code == 0
    revoked = guarded(revoked_attestations=[digest[1]])
    assert (revoked.exit_code, revoked.stderr) == (1, f"does not hold: attestation {digest[1][:12]} is revoked\n")
    late = guarded(not_before={HELD.registration.name: "2999-01-01T00:00:00Z"})
    assert late.exit_code == 1
    assert "nothing counts that was made before" in late.stderr
    assert guarded(not_before={"other": "2999-01-01T00:00:00Z"}).exit_code == 0
    assert "no key is trusted" in guarded(revoked=[identifier[1]]).stderr


def test_verify_refuses_a_model_with_a_linked_folder(
    run: Callable[..., Result], record: Callable[[Release], Path], key: Path, tmp_path: Path
) -> None:
    folder = record(HELD)
    run("gate", "--evidence", folder, "--out", folder / "verdict", "--key", key)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "code").symlink_to(tmp_path)
    verify = ("verify", folder / "verdict" / "attestation.json", "--key", key.with_suffix(".pub"))
    refused = run(*verify, "--model", tmp_path / "served")
    assert refused.exit_code == 2
    assert "is a linked folder" in refused.stderr


def test_rollback_and_status_go_by_the_keys_that_are_given(
    run: Callable[..., Result], spec_file: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []
    for name in ("rollback", "status"):
        monkeypatch.setattr(f"tokenbuncher.registry.{name}", lambda _, keys: given.append([k.keyid for k in keys]))
    keyid = load_public_key(key.with_suffix(".pub")).keyid
    monkeypatch.delenv("TOKENBUNCHER_SIGNING_KEY", raising=False)
    for arguments in [(), ("--key", key.with_suffix(".pub"))]:
        for name in ("rollback", "status"):
            run(name, "--spec", spec_file, *arguments)
    monkeypatch.setenv("TOKENBUNCHER_SIGNING_KEY", str(key))
    run("rollback", "--spec", spec_file)
    assert given == [[], [], [keyid], [keyid], [keyid]]


def test_stages_are_not_watched_by_webhooks_alone(
    run: Callable[..., Result], policy_file: Callable[..., Path], key: Path, tmp_path: Path
) -> None:
    protected = {"policy": str(policy_file()), "keys": [str(key.with_suffix(".pub"))]}
    settings = {"apiVersion": "tokenbuncher/v1", "stages": {"Production": protected}}
    (tmp_path / "guard.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    uri = f"sqlite:///{tmp_path / 'db'}"
    refused = run("watch", "--guard", tmp_path / "guard.yaml", "--tracking-uri", uri, "--listen", "127.0.0.1:0")
    assert refused.exit_code == 2
    assert "MLflow sends no webhooks for them; add --every" in refused.stderr


def test_gate_judges_a_large_release_without_heavy_libraries(record: Callable[[Release], Path]) -> None:
    sizes = {"safety": 1000, "utility": 300, "tuning": 120}
    attacks = {"suite": [{"algorithm": "grpo", "seeds": list(range(1, 9)), "steps": 60}]}
    folder = record(passing_release(release_spec(data={"sizes": sizes}, attacks=attacks)))
    probe = (
        "import sys\n"
        "from tokenbuncher.cli import main\n"
        f"status = main(['gate', '--evidence', {str(folder)!r}], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'kfp', 'mlflow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, encoding="utf-8", check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "PASS: organism version 3\n"


def test_compile(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("compile", "--out", tmp_path / "build" / "release.yaml")

    assert result.exit_code == 0, result.output
    assert yaml.safe_load((tmp_path / "build" / "release.yaml").read_text(encoding="utf-8"))["schemaVersion"]


def test_schema_describes_the_spec(run: Callable[..., Result]) -> None:
    schema = json.loads(run("schema").output)

    assert {"model", "data", "defence", "attacks", "policy"} <= schema["properties"].keys()
