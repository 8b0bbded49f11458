"""Lints a compiled pipeline: kfp's own loader takes one that cannot run, or that gives its secrets away.

    problems = lint(read_ir(Path("build/release.yaml")))

Every problem says where it is in the document and what to do about it; no secret is repeated in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec, PlatformSpec

from pipelines.graph import Problem, check_cycles
from pipelines.plain_secrets import plain_secrets
from pipelines.safeguards import check_composition, check_pods
from tokenbuncher.core.documents import read_text, yaml_problem
from tokenbuncher.core.errors import UserError

Documents = Sequence[Any]
"""A compiled pipeline as parsed from YAML: the pipeline and, if anything is specific to a platform, the platform."""

_PINNED = re.compile(r"[^\s:@{}]+(:\d+/[^\s:@{}]+)?(:(?P<tag>[\w.-]+)|(:[\w.-]+)?@sha256:[0-9a-f]{64})")


def read_ir(path: Path) -> Documents:
    """The documents of a compiled pipeline.

    Raises:
        UserError: If the file cannot be read or is not YAML.
    """
    try:
        return list(yaml.safe_load_all(read_text("compiled pipeline", path)))
    except yaml.YAMLError as error:
        raise UserError(f"compiled pipeline {path} is not YAML: {yaml_problem(error)}") from error


def refuse(problems: Iterable[Problem], what: str) -> None:
    """Raises if there is a problem.

    Raises:
        UserError: `what`, then a line for each problem.
    """
    lines = [f"  {problem}" for problem in problems]
    if lines:
        raise UserError("\n".join([f"{what}:", *lines]))


def lint(documents: Documents) -> list[Problem]:
    """What is wrong with a compiled pipeline.

    Cycles, images without tag or digest, containers without cpu and memory, secrets in plain text, unknown fields; and
    what `pipelines.safeguards` finds: gate, promotion, exit task, caching and retries where they do harm, who has the
    signing key and the attacked weights.

    Args:
        documents: The pipeline and, if there is one, its platform.
    """
    pipeline, platform, config = PipelineSpec(), PlatformSpec(), PipelineDeploymentConfig()
    problems = [problem for document in documents for problem in plain_secrets(document)]
    unknown = list(_parsed_all(documents, pipeline, platform, config=config))
    if unknown:
        return sorted([*problems, *unknown])
    problems += check_cycles(pipeline)
    problems += _check_executors(config)
    problems += check_composition(pipeline, config)
    pods = _pods(platform, problems)
    problems += check_pods(config, pods)
    return sorted(problems)


def _parsed_all(
    documents: Documents, pipeline: PipelineSpec, platform: PlatformSpec, *, config: PipelineDeploymentConfig
) -> Iterator[Problem]:
    if len(documents) not in (1, 2):
        yield Problem("file", f"has {len(documents)} documents; a pipeline is one, and its platform may be another")
        return
    yield from _parsed(documents[0], pipeline, "pipeline")
    yield from _parsed(json_format.MessageToDict(pipeline.deployment_spec), config, "deploymentSpec")
    if len(documents) == 2:
        yield from _parsed(documents[1], platform, "platform")


def _parsed(document: Any, message: Message, where: str) -> Iterator[Problem]:
    """Fills the message, strictly; says what does not fit."""
    if not isinstance(document, dict):
        yield Problem(where, f"must be a mapping, not {type(document).__name__}; compile the pipeline again")
        return
    try:
        json_format.ParseDict(document, message)
    except (json_format.Error, TypeError, ValueError, AttributeError) as error:
        yield Problem(where, f"{' '.join(str(error).split())}; compile it with the kfp of this environment")


def _check_executors(config: PipelineDeploymentConfig) -> Iterator[Problem]:
    """Images and resources of the tasks; what the resources are, the placement has checked."""
    for label, executor in config.executors.items():
        container, where = executor.container, f"deploymentSpec.executors.{label}.container"
        if executor.WhichOneof("spec") != "container":
            continue
        pinned = _PINNED.fullmatch(container.image)
        if not pinned or pinned["tag"] == "latest":
            yield Problem(
                f"{where}.image",
                f"'{container.image}' may be another image tomorrow; give a tag other than latest, or a digest",
            )
        for field in ("resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit"):
            if field not in json_format.MessageToDict(container.resources):
                what = "is missing; the placement gives every stage cpu and memory"
                yield Problem(f"{where}.resources.{field}", what)


def _pods(platform: PlatformSpec, problems: list[Problem]) -> dict[str, KubernetesExecutorConfig]:
    """What the executors ask of Kubernetes, by executor; what cannot be read is added to the problems."""
    pods = {}
    for label, settings in platform.platforms["kubernetes"].deployment_spec.executors.items():
        where = f"platforms.kubernetes.deploymentSpec.executors.{label}"
        pod = pods[label] = KubernetesExecutorConfig()
        problems += _parsed(json_format.MessageToDict(settings), pod, where)
        paths = [mount.mount_path for mount in (*pod.secret_as_volume, *pod.pvc_mount, *pod.empty_dir_mounts)]
        for path in sorted({path for path in paths if paths.count(path) > 1}):
            problems.append(Problem(where, f"mounts several volumes at {path}; give each a path of its own"))
    return pods
