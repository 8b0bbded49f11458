"""The CI examples do what they say: their own shell commands, on a recorded release."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from tests.evidence_factory import CANDIDATE, broken_arm, passing_release, release_spec
from tokenbuncher import __version__
from tokenbuncher.attestation import generate_key
from tokenbuncher.registry import register

EXAMPLES = Path("examples/ci")
RELEASE = passing_release()
BROKEN = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(RELEASE.spec, 15, CANDIDATE))


class GitHub:
    """A workflow of GitHub Actions."""

    def __init__(self):
        self.document = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text(encoding="utf-8"))
        self.variables = self.document["env"]

    def commands(self, job):
        """The script of each step, in order, by its name."""
        return {step["name"]: step["run"] for step in self.document["jobs"][job]["steps"] if "run" in step}

    def reports(self):
        uploads = [step["with"]["path"] for step in self.document["jobs"]["gate"]["steps"] if "upload" in str(step)]
        return [f"{folder}/junit.xml" for folder in uploads]


class GitLab:
    """A pipeline of GitLab."""

    def __init__(self):
        self.document = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text(encoding="utf-8"))
        self.variables = self.document["variables"]

    def commands(self, job):
        """The script of each subcommand, in order, by its name."""
        part = self.document[job]
        summary = {"Summary": "\n".join(part["after_script"])} if "after_script" in part else {}
        steps = {line.split()[1].capitalize(): line for line in part["script"]}
        return {"Install": part["before_script"][0], **steps, **summary}

    def reports(self):
        return [self.document["gate"]["artifacts"]["reports"]["junit"]]


SYSTEMS = pytest.mark.parametrize("system", [GitHub(), GitLab()], ids=["github", "gitlab"])


@pytest.fixture
def repository(tmp_path):
    """Writes a repository with a recorded release, its policy and a key pair; gives its folder."""

    def repository(release):
        release.write(tmp_path / "release")
        (tmp_path / "release" / "spec.yaml").write_text(release.spec.to_yaml(), encoding="utf-8")
        (tmp_path / "policy.yaml").write_text(
            yaml.safe_dump(release.spec.policy.model_dump(mode="json")), encoding="utf-8"
        )
        generate_key(tmp_path / "secret" / "release.pem")
        (tmp_path / "secret" / "release.pub").rename(tmp_path / "release.pub")
        return tmp_path

    return repository


def run(system, script, folder, **secrets):
    """Runs a script as the system does: in a shell that ends at the first failure."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENBUNCHER")}
    environment |= {name: str(value) for name, value in system.variables.items()}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment["GITHUB_STEP_SUMMARY"] = str(folder / "step-summary.md")
    environment["RUNNER_TEMP"] = str(folder / "secret")
    key = folder / "secret" / "release.pem"
    if key.exists():
        environment |= {"SIGNING_KEY": key.read_text(encoding="utf-8"), "TOKENBUNCHER_SIGNING_KEY": str(key)}
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env=environment | secrets,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@SYSTEMS
def test_it_installs_this_version(system):
    for job, package in (("gate", '"$PACKAGE==$VERSION"'), ("promote", '"$PACKAGE[registry]==$VERSION"')):
        assert system.commands(job)["Install"] == f"pip install {package}"
    assert (system.variables["PACKAGE"], system.variables["VERSION"]) == ("tokenbuncher", __version__)


@SYSTEMS
@pytest.mark.parametrize(
    ("release", "status", "word"),
    [(RELEASE, 0, "PASS"), (BROKEN, 1, "BLOCK"), (RELEASE.with_evidence(RELEASE.evidence[1:]), 2, "INCONCLUSIVE")],
    ids=["pass", "block", "inconclusive"],
)
def test_the_gate_tells_the_outcome_and_leaves_its_reports(system, release, status, word, repository):
    folder = repository(release)
    commands = system.commands("gate")
    judged = run(system, commands["Gate"], folder)
    assert (judged.returncode, judged.stderr) == (status, "")
    summed_up = run(system, commands["Summary"], folder)
    written = folder / "step-summary.md"
    assert f"{word}: organism version 3" in (
        written.read_text(encoding="utf-8") if written.exists() else summed_up.stdout
    )
    [report] = system.reports()
    suite = ElementTree.parse(folder / report).getroot()
    assert int(suite.get("failures")) + int(suite.get("errors")) > 0 or status == 0


@SYSTEMS
def test_what_passes_is_signed_and_verified(system, repository):
    folder = repository(RELEASE)
    run(system, system.commands("gate")["Gate"], folder)
    commands = system.commands("promote")
    signed = run(system, commands["Sign"], folder)
    assert signed.returncode == 0, signed.stderr
    verified = run(system, commands["Verify"], folder)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "holds: organism version 3 passed" in verified.stdout
    (folder / "policy.yaml").write_text("apiVersion: tokenbuncher/v1\nname: other\n", encoding="utf-8")
    assert run(system, commands["Verify"], folder).returncode == 1


@SYSTEMS
def test_what_is_blocked_is_not_verified(system, repository):
    folder = repository(BROKEN)
    run(system, system.commands("gate")["Gate"], folder)
    commands = system.commands("promote")
    assert run(system, commands["Sign"], folder).returncode == 0
    verified = run(system, commands["Verify"], folder)
    assert verified.returncode == 1
    assert "does not hold: the verdict is FAILED" in verified.stderr


def test_github_leaves_no_key_on_the_runner(repository):
    folder, system = repository(RELEASE), GitHub()
    run(system, system.commands("gate")["Gate"], folder)
    assert run(system, system.commands("promote")["Sign"], folder).returncode == 0
    assert list((folder / "secret").iterdir()) == []


def test_what_was_registered_is_promoted(repository, embedded_root, tmp_path):
    spec = release_spec(tracking={"model_name": "by-ci"}, output={"root": str(embedded_root)})
    (tmp_path / "candidate").mkdir()
    (tmp_path / "candidate" / "model.safetensors").write_text("weights", encoding="utf-8")
    registration = register(spec, tmp_path / "candidate", tmp_path / "registration")
    release = replace(passing_release(spec).about(registration.digest), registration=registration)
    folder = repository(release)
    run(GitHub(), GitHub().commands("gate")["Gate"], folder)
    command = GitHub().commands("promote")["Promote"]
    promoted = run(GitHub(), command, folder, MLFLOW_URI=spec.tracking_uri())
    assert promoted.stdout == "champion is by-ci version 1\n", promoted.stderr
    assert GitLab().commands("promote")["Promote"].split() == command.replace("\\\n", "").split()
