"""Compiles the pipelines to Kubeflow's intermediate representation, and lints what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from kfp import compiler
from kfp.dsl.base_component import BaseComponent

from pipelines.attacks import Place
from pipelines.gate_only import gate_only_pipeline
from pipelines.lint import lint, read_ir, refuse
from pipelines.placement import Placement
from pipelines.red_team import red_team_pipeline
from pipelines.release import release_pipeline
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import check_output_file, write_text

PIPELINES: dict[str, Callable[[Place], BaseComponent]] = {
    "release": release_pipeline,
    "gate-only": gate_only_pipeline,
    "red-team": red_team_pipeline,
}


def compile_pipeline(name: str, path: Path, placement: Placement) -> None:
    """Compiles one pipeline.

    Args:
        name: Its name in `PIPELINES`.
        path: The YAML file to be written; its folder is made.
        placement: Where its tasks run. Unless it says which stages are cached, none is: a spec may name a model
            without pinning it.

    Raises:
        UserError: If the file's name does not end in .yaml, it would replace another file, or the compiled pipeline is
            not sound.
    """
    if path.suffix != ".yaml":
        raise UserError(f"{path}: the compiled pipeline is a .yaml file")
    check_output_file(path, lambda content: content.startswith(b"# PIPELINE DEFINITION\n# Name: tokenbuncher-"))
    with TemporaryDirectory() as scratch:
        compiled = Path(scratch, path.name)
        compiler.Compiler().compile(_composed(name, placement), str(compiled))
        refuse(lint(read_ir(compiled)), f"the pipeline {name} is not sound as placed")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, compiled.read_text(encoding="utf-8"))


def _composed(name: str, placement: Placement) -> BaseComponent:
    if name == "release":
        return release_pipeline(placement.place, placement.quarantine is not None, placement.parallelism)
    if name == "red-team":
        return red_team_pipeline(placement.place, placement.parallelism)
    return PIPELINES[name](placement.place)
