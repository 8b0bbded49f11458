"""Components as Kubeflow sees them, and their bodies called as functions."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml
from kfp import compiler, dsl

import components
from tests.evidence_factory import CANDIDATE, broken_arm, passing_release, release_spec
from tokenbuncher.files import folder_digest
from tokenbuncher.verdict import Outcome, read_verdict

FOLDER = Path(components.__file__).parent
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/component.py"))


def component(name: str) -> dsl.base_component.BaseComponent:
    return getattr(importlib.import_module(f"components.{name}.component"), name)


def test_every_stage_is_a_component() -> None:
    assert NAMES == [
        "attack",
        "defend",
        "evaluate_safety",
        "evaluate_utility",
        "fetch_model",
        "gate",
        "prepare_data",
        "promote",
        "register",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_compiles_to_our_image_and_installs_nothing(name: str, tmp_path: Path) -> None:
    compiler.Compiler().compile(component(name), str(tmp_path / "component.yaml"))

    (executor,) = yaml.safe_load((tmp_path / "component.yaml").read_text())["deploymentSpec"]["executors"].values()
    assert executor["container"]["image"] == components.IMAGE
    assert "pip install" not in " ".join(executor["container"]["command"])


@pytest.mark.parametrize("name", NAMES)
def test_readme_lists_inputs_and_outputs(name: str) -> None:
    spec = component(name).component_spec
    listed = re.findall(r"^\| (input|output) \| `(\w+)`", (FOLDER / name / "README.md").read_text(), re.MULTILINE)

    assert sorted(listed) == sorted(
        [("input", key) for key in spec.inputs or {}] + [("output", key) for key in spec.outputs or {}]
    )


@pytest.mark.parametrize("name", NAMES)
def test_importing_a_component_needs_no_stage(name: str) -> None:
    source = (FOLDER / name / "component.py").read_text()

    assert re.findall(r"^(?:from|import) (\S+)", source, re.MULTILINE) == ["kfp", "components"]


def folder(path: Path, **files: str) -> dsl.Artifact:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return dsl.Artifact(uri=str(path))


@pytest.mark.parametrize("held", [True, False], ids=["held", "broken"])
def test_register_gate_promote(held: bool, embedded_root: Path, tmp_path: Path) -> None:
    spec = release_spec(tracking={"model_name": f"component-{held}"}, output={"root": str(embedded_root)})
    base, candidate, data = (folder(tmp_path / name, weights=name) for name in ("base", "candidate", "data"))
    registration, verdict = (dsl.Artifact(uri=str(tmp_path / name)) for name in ("registration", "verdict"))
    report = dsl.HTML(uri=str(tmp_path / "shown"))
    component("register").python_func(spec=spec.to_yaml(), candidate=candidate, attacks=[], registration=registration)

    release = passing_release(spec)
    if not held:
        release = release.with_piece("grpo-1000", candidate_arm=broken_arm(spec, model=CANDIDATE))
    release = release.about(*(folder_digest(Path(artifact.path)) for artifact in (candidate, base, data)))
    *attacks, safety, utility = (dsl.Artifact(uri=str(stage)) for stage in release.write(tmp_path / "evidence")[0])
    inputs = {
        "spec": spec.to_yaml(),
        "attacks": attacks,
        "safety": safety,
        "utility": utility,
        "registration": registration,
        "verdict": verdict,
    }
    component("gate").python_func(**inputs, report=report)

    assert Path(report.path).read_bytes() == (tmp_path / "verdict" / "report.html").read_bytes()
    assert read_verdict(tmp_path / "verdict").outcome is (Outcome.PASS if held else Outcome.BLOCK)
    if held:
        component("promote").python_func(**inputs)
    else:
        with pytest.raises(SystemExit):
            component("promote").python_func(**inputs)
