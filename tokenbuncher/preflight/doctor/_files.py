"""Checks of the local files and folders that a spec names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from tokenbuncher.preflight.doctor._diagnosis import Diagnosis, ok, problem
from tokenbuncher.settings import FileSource, ReleaseSpec
from tokenbuncher.settings.judges import ClassifierSpec, EnsembleSpec, HarmBenchSpec
from tokenbuncher.settings.sources import Source, parse_file, parse_source

BUILT_IN = ("organism://", "smollm2://")


def check_files(spec: ReleaseSpec) -> Iterator[Diagnosis]:
    """Whether they are there; what is elsewhere is left to those who fetch it."""
    named = [*_folders(spec), *_files(spec)]
    missing = [each for each in named if not (each[1].is_dir() if each[2] == "folder" else each[1].is_file())]
    for field, path, kind in missing:
        yield problem(f"{field}: {path} is not a {kind}", "correct the path; it counts from the working folder")
    if not missing:
        yield ok(f"files: {len(named)} are named in the spec, and are there")


def _folders(spec: ReleaseSpec) -> Iterator[tuple[str, Path, str]]:
    sources = {"model.source": spec.model.source, "model.adapter_base": spec.model.adapter_base}
    judge = spec.evaluation.judge
    judges = dict(enumerate(judge.judges)) if isinstance(judge, EnsembleSpec) else {"": judge}
    models = {f"evaluation.judge{f'.judges.{place}' if place != '' else ''}": one for place, one in judges.items()}
    for field, one in {**models, "attacks.reward": spec.attacks.reward}.items():
        if isinstance(one, ClassifierSpec | HarmBenchSpec):
            sources[f"{field}.model"] = one.model
    for field, uri in sources.items():
        if uri and uri not in BUILT_IN and (source := parse_source(uri)).scheme == "file":
            yield field, _local(source), "folder"
    if spec.evaluation.harness and spec.evaluation.harness.include:
        yield "evaluation.harness.include", spec.evaluation.harness.include, "folder"


def _files(spec: ReleaseSpec) -> Iterator[tuple[str, Path, str]]:
    for field in type(spec.data).model_fields:
        given = getattr(spec.data, field)
        if isinstance(given, FileSource) and (source := parse_file(given.path)).scheme == "file":
            yield f"data.{field}.path", _local(source), "file"
    if spec.evaluation.calibration:
        yield "evaluation.calibration", spec.evaluation.calibration, "file"


def _local(source: Source) -> Path:
    path: str = source.parts["path"]
    return Path(unquote(path) if source.uri.startswith("file:") else path)
