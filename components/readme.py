"""Writes every component's README.md from its docstring, signature and metadata.yaml.

python -m components.readme
"""

import importlib
from pathlib import Path
from typing import Any

import yaml
from docstring_parser import parse
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.structures import InputSpec, OutputSpec

from tokenbuncher.core.stages import STAGES

FOLDER = Path(__file__).parent
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/component.py"))


def load_component(name: str) -> BaseComponent:
    """The component of that folder."""
    return getattr(importlib.import_module(f"components.{name}.component"), name)


def load_metadata(name: str) -> dict[str, Any]:
    """The metadata.yaml of the component of that folder."""
    metadata: dict[str, Any] = yaml.safe_load((FOLDER / name / "metadata.yaml").read_text(encoding="utf-8"))
    return metadata


def readme(name: str) -> str:
    """The README of a component.

    Args:
        name: Name of its folder.
    """
    component = load_component(name)
    spec = component.component_spec
    documentation = parse(component.python_func.__doc__)
    described = {parameter.arg_name: parameter.description for parameter in documentation.params}
    if documentation.returns:
        described["Output"] = documentation.returns.description
    rows = [
        ("input, optional" if given.optional else "input", key, _type(given), described[key])
        for key, given in (spec.inputs or {}).items()
    ]
    rows += [("output", key, _type(made), described[key]) for key, made in (spec.outputs or {}).items()]
    table = "\n".join(f"| {role} | `{key}` | {kind} | {_one_line(text)} |" for role, key, kind, text in rows)
    stage, metadata = STAGES[spec.name], load_metadata(name)
    same = f"The same stage: `tokenbuncher {spec.name} --help`. " if stage.options else ""
    return f"""# {spec.name}

{_one_line(documentation.short_description)}

| | name | type | |
|---|---|---|---|
{table}

{_one_line(documentation.long_description)}

Runs in the {stage.image}'s image. {same}Compile it alone: `python -m components.{name}.component {name}.yaml`.

{_verified(metadata)}
"""


def _verified(metadata: dict[str, Any]) -> str:
    (pipelines,) = metadata["dependencies"]["kubeflow"]
    return (
        f"Stability: {metadata['stability']}. Needs Kubeflow Pipelines {pipelines['version']}. Last verified on "
        f"{metadata['lastVerified']:%Y-%m-%d} by `{metadata['verifiedBy']}`."
    )


def _type(described: InputSpec | OutputSpec) -> str:
    kind = described.type.partition("@")[0].removeprefix("system.")
    return f"List[{kind}]" if described.is_artifact_list else kind


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    for name in NAMES:
        (FOLDER / name / "README.md").write_text(readme(name), encoding="utf-8")
