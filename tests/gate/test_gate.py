import json
import math
import re
import subprocess
import sys

import pytest

from tests.evidence_factory import CANDIDATE, MALFORMED, broken_arm, passing_release, write_defence_log
from tokenbuncher.attestation import generate_key, load_private_key, load_public_key, verify
from tokenbuncher.core.errors import UserError
from tokenbuncher.evidence import DEFENCE_STEPS
from tokenbuncher.gate import conclude, gate, unfinished, unfinished_figures
from tokenbuncher.report import card, documents, failures, junit, release_figures
from tokenbuncher.verdict import Outcome, Verdict, read_verdict

RELEASE = passing_release()


def test_gate_writes_verdict_and_report(tmp_path, capsys):
    evidence, registration = RELEASE.write(tmp_path / "in")
    verdict = gate(RELEASE.spec, evidence, registration, out=tmp_path / "out")
    assert verdict.outcome is Outcome.PASS
    assert read_verdict(tmp_path / "out") == verdict
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == [
        "card.md",
        "junit.xml",
        "report.html",
        "report.json",
        "report.md",
        "verdict.json",
    ]
    assert documents(release_figures(RELEASE.spec, verdict, RELEASE.evidence)).items() <= written.items()
    assert written["card.md"] == card(RELEASE.spec, verdict, RELEASE.evidence, signed=False)
    assert written["junit.xml"] == junit(RELEASE.spec.policy, verdict)
    assert capsys.readouterr().out == "PASS: organism version 3\n"


def test_gate_without_an_output_folder_only_tells(tmp_path, capsys):
    evidence, registration = RELEASE.write(tmp_path / "in")
    assert gate(RELEASE.spec, evidence, registration).outcome is Outcome.PASS
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert capsys.readouterr().out == "PASS: organism version 3\n"


@pytest.mark.parametrize(("left_out", "outcome"), [(0, Outcome.PASS), (1, Outcome.INCONCLUSIVE)])
def test_gate_signs_whatever_the_verdict_is(tmp_path, left_out, outcome):
    public = generate_key(tmp_path / "release.pem")
    evidence, registration = RELEASE.write(tmp_path / "in")
    signer = load_private_key(tmp_path / "release.pem")
    verdict = gate(RELEASE.spec, evidence[left_out:], registration, out=tmp_path / "out", signer=signer)
    assert verdict.outcome is outcome
    _, problems = verify((tmp_path / "out" / "attestation.json").read_text(encoding="utf-8"), [load_public_key(public)])
    assert (problems == []) == (outcome is Outcome.PASS)


def test_a_folder_may_have_any_name_that_the_system_takes(tmp_path):
    evidence, registration = RELEASE.write(tmp_path / b"\xff".decode(errors="surrogateescape"))
    (evidence[0] / "evidence.json").write_text("{", encoding="utf-8")
    verdict = gate(RELEASE.spec, evidence, registration, out=tmp_path / "out")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert r"/\udcff/" in verdict.reasons[0]
    assert read_verdict(tmp_path / "out") == verdict


def test_gate_takes_files_or_their_folders(tmp_path):
    folders, registration = RELEASE.write(tmp_path / "in")
    files = [folder / "evidence.json" for folder in folders]
    verdict = gate(RELEASE.spec, files, registration / "registration.json", out=tmp_path / "out")
    assert verdict.outcome is Outcome.PASS


def test_keys_of_the_verdict_have_a_stable_order(tmp_path):
    evidence, registration = RELEASE.write(tmp_path / "in")
    gate(RELEASE.spec, evidence[::-1], registration, out=tmp_path / "out")
    document = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    assert list(document) == list(Verdict.model_fields)


def test_blocked_release_is_written_and_what_blocks_is_shown_as_a_table(tmp_path, capsys):
    release = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(RELEASE.spec, 15, CANDIDATE))
    evidence, registration = release.write(tmp_path / "in")
    verdict = gate(release.spec, evidence, registration, out=tmp_path / "out")
    assert verdict.outcome is Outcome.BLOCK
    assert read_verdict(tmp_path / "out") == verdict
    assert capsys.readouterr().out.splitlines() == [*failures(verdict), "BLOCK: organism version 3"]


def empty(path):
    path.write_text("", encoding="utf-8")


def truncate(path):
    path.write_text(path.read_text(encoding="utf-8")[:-100], encoding="utf-8")


def remove(path):
    path.unlink()


def put_nan(path):
    path.write_text(
        re.sub(r'"final_reward": ?[\d.]+', '"final_reward": NaN', path.read_text(encoding="utf-8"), count=1),
        encoding="utf-8",
    )


def add_unknown_field(path):
    path.write_text(path.read_text(encoding="utf-8").replace("{", '{"waived": true,', 1), encoding="utf-8")


def change_schema(path):
    path.write_text(path.read_text(encoding="utf-8").replace("tokenbuncher/v1", "tokenbuncher/v9"), encoding="utf-8")


@pytest.mark.parametrize("spoil", [empty, truncate, remove, put_nan, add_unknown_field, change_schema])
def test_evidence_that_cannot_be_read_is_inconclusive(tmp_path, spoil):
    evidence, registration = RELEASE.write(tmp_path / "in")
    spoil(evidence[0] / "evidence.json")
    verdict = gate(RELEASE.spec, evidence, registration, out=tmp_path / "out")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert str(evidence[0]) in verdict.reasons[0]
    assert "evidence, grpo-1000: missing. Run its stage." in verdict.reasons
    assert read_verdict(tmp_path / "out") == verdict


def test_no_evidence_is_inconclusive(tmp_path):
    _, registration = RELEASE.write(tmp_path / "in")
    assert gate(RELEASE.spec, [], registration, out=tmp_path / "out").outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("spoil", [empty, truncate, remove, add_unknown_field])
def test_registration_that_cannot_be_read_is_refused_and_nothing_is_written(tmp_path, spoil):
    evidence, registration = RELEASE.write(tmp_path / "in")
    spoil(registration / "registration.json")
    with pytest.raises(UserError, match=r"registration\.json"):
        gate(RELEASE.spec, evidence, registration / "registration.json", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_verdict_of_an_earlier_run_is_replaced(tmp_path):
    evidence, registration = RELEASE.write(tmp_path / "in")
    gate(RELEASE.spec, evidence, registration, out=tmp_path / "out")
    gate(RELEASE.spec, evidence[:-1], registration, out=tmp_path / "out")
    assert read_verdict(tmp_path / "out").outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("room", ["gate", "verdict", "report"])
def test_import_brings_no_heavy_library(room):
    heavy = {"torch", "transformers", "trl", "mlflow", "kfp", "pandas", "scipy", "statsmodels"}
    code = f"import sys, tokenbuncher.{room}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.split() == []


def test_judging_brings_no_training_library(tmp_path):
    evidence, registration = RELEASE.write(tmp_path / "in")
    (tmp_path / "spec.yaml").write_text(RELEASE.spec.to_yaml(), encoding="utf-8")
    code = f"""
import sys
from pathlib import Path
from tokenbuncher.attestation import generate_key, load_private_key, load_public_key, verify
from tokenbuncher.gate import gate
from tokenbuncher.settings import load_spec
evidence = [Path(path) for path in {[str(path) for path in evidence]}]
spec, out = load_spec({str(tmp_path / "spec.yaml")!r}), Path({str(tmp_path / "out")!r})
gate(spec, evidence, Path({str(registration)!r}), out=out)
print(*sorted({{"torch", "transformers", "trl", "mlflow", "kfp"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "\n"


def judged_with(tmp_path, **given):
    """The verdict and the report with a step log, by what was judged."""
    evidence, registration = RELEASE.write(tmp_path / "in")
    out = tmp_path / "out"
    verdict = gate(RELEASE.spec, evidence, registration, out=out, **given)
    texts = {name: (out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md", "card.md")}
    return verdict.model_dump(exclude={"created", "expires"}), texts


def test_the_report_shows_the_defence_by_its_step_log(tmp_path):
    steps = write_defence_log(tmp_path / "log")
    plain, without = judged_with(tmp_path / "plain")
    verdict, texts = judged_with(tmp_path / "shown", steps=steps)
    assert verdict == plain
    for name, text in texts.items():
        assert "certain-refusal reached its target after 40 steps" in text, name
        assert "reached its target" not in without[name]
    assert '<h2 id="defence">' in texts["report.html"]
    assert 'id="defence"' not in without["report.html"]


def test_a_step_log_in_the_folder_of_a_run_is_found(tmp_path):
    _, registration = RELEASE.write(tmp_path / "in")
    write_defence_log(tmp_path / "in" / "artifacts" / "defend" / "steps")
    verdict = gate(RELEASE.spec, [tmp_path / "in"], registration, out=tmp_path / "out")
    assert verdict.outcome is Outcome.PASS
    assert "reached its target after 40 steps" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


IMPOSSIBLE = [
    {"held_out_escape_max": 1.5},
    {"held_out_kl": -1.0},
    {"held_out_kl": math.nan},
    {"held_out_escape": math.inf},
    {"held_out_refusals_added": -0.1},
    {"max_kl": 0.0},
    {"target": 2.0},
    {"max_refusal_mass": 1e300},
]


@pytest.mark.parametrize("content", [*MALFORMED, *IMPOSSIBLE], ids=str)
def test_a_step_log_that_is_wrong_changes_no_verdict(tmp_path, content, capsys):
    steps = write_defence_log(tmp_path / "log", **(content if isinstance(content, dict) else {}))
    if isinstance(content, bytes):
        (steps / DEFENCE_STEPS).write_bytes(content)
    plain, without = judged_with(tmp_path / "plain")
    verdict, texts = judged_with(tmp_path / "given", steps=steps)
    assert verdict == plain
    assert "is left out" in capsys.readouterr().out
    assert len(texts["card.md"]) == len(without["card.md"])
    assert 'id="defence"' not in texts["report.html"]


@pytest.mark.parametrize("name", ["nosuch", "nosuch.jsonl"])
def test_a_step_log_that_is_missing_changes_no_verdict(tmp_path, name):
    verdict, texts = judged_with(tmp_path / "given", steps=tmp_path / name)
    assert verdict == judged_with(tmp_path / "plain")[0]
    assert 'id="defence"' not in texts["report.html"]


def test_a_step_log_does_not_make_a_failing_release_pass(tmp_path):
    release = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(RELEASE.spec, 15, CANDIDATE))
    evidence, registration = release.write(tmp_path / "in")
    verdict = gate(release.spec, evidence, registration, steps=write_defence_log(tmp_path / "log"))
    assert verdict.outcome is Outcome.BLOCK


def test_a_signed_verdict_with_a_step_log_verifies(tmp_path):
    public = generate_key(tmp_path / "release.pem")
    evidence, registration = RELEASE.write(tmp_path / "in")
    signer, steps = load_private_key(tmp_path / "release.pem"), write_defence_log(tmp_path / "log")
    gate(RELEASE.spec, evidence, registration, out=tmp_path / "out", signer=signer, steps=steps)
    text = (tmp_path / "out" / "attestation.json").read_text(encoding="utf-8")
    assert verify(text, [load_public_key(public)])[1] == []
    assert "certain-refusal reached" in (tmp_path / "out" / "card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("place", ["folder", "named"])
def test_a_run_without_a_verdict_shows_its_defence(tmp_path, place):
    steps = write_defence_log(tmp_path / "run" / "defend" / "steps")
    given = [tmp_path / "run"] if place == "folder" else []
    figures = unfinished_figures(RELEASE.spec, given, "out of memory", steps=[] if given else [steps / DEFENCE_STEPS])
    assert figures.outcome is Outcome.INCONCLUSIVE
    assert figures.defence.steps == 40


def test_a_verdict_is_told_even_if_the_step_log_cannot_be_fetched(tmp_path, monkeypatch, capsys):
    release = passing_release()
    (tmp_path / "verdict.json").write_text(release.judge().model_dump_json(), encoding="utf-8")
    fetch = unfinished.bring_records

    def failing(uri, names, folder):
        if DEFENCE_STEPS in names:
            raise UserError("no such bucket")
        return fetch(uri, names, folder)

    monkeypatch.setattr("tokenbuncher.gate.unfinished.bring_records", failing)
    conclude(release.spec, str(tmp_path), "", report=tmp_path / "report.html")
    assert "PASS: organism version 3" in capsys.readouterr().out
    (tmp_path / "verdict.json").unlink()
    conclude(release.spec, str(tmp_path), "a failure", report=tmp_path / "report.html")
    assert "there is no verdict, so nothing passed" in capsys.readouterr().out
