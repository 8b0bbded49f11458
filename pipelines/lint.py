"""Lints a compiled pipeline: kfp's own loader takes one that cannot run, or that gives its secrets away.

    problems = lint(read_ir(Path("build/release.yaml")))
    problems += check_arguments(read_ir(Path("build/release.yaml")), {"spec": "..."})

Every problem says where it is in the document and what to do about it; no secret is repeated in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec, PlatformSpec

from pipelines.plain_secrets import plain_secrets
from pipelines.references import Problem, check_graph, components_of, type_name, value_fits
from pipelines.safeguards import check_composition, check_pods, check_resources, stage_of
from tokenbuncher.core.documents import read_text, yaml_problem
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.stages import STAGES

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

    References that lead nowhere, cycles, wrong or missing types, images without tag or digest, containers without
    cpu and memory that fit, caching and retries where they do harm, secrets in plain text, unknown fields; and what
    `pipelines.safeguards` tells: gate, promotion, exit task, who has the signing key and the attacked weights.

    Args:
        documents: The pipeline and, if there is one, its platform.
    """
    pipeline, platform, config = PipelineSpec(), PlatformSpec(), PipelineDeploymentConfig()
    problems = [problem for document in documents for problem in plain_secrets(document)]
    unknown = list(_parsed_all(documents, pipeline, platform, config=config))
    if unknown:
        return sorted([*problems, *unknown])
    executors = set(config.executors)
    problems += _check_head(pipeline)
    problems += check_graph(pipeline, executors)
    problems += _check_executors(config)
    problems += _check_effectful(pipeline, config)
    problems += check_composition(pipeline, config)
    pods: dict[str, KubernetesExecutorConfig] = {}
    problems += _check_platform(platform, executors, pods)
    problems += check_pods(config, pods)
    return sorted(problems)


def check_arguments(documents: Documents, arguments: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the arguments of a run: unknown, missing, or of another type.

    Args:
        documents: The compiled pipeline.
        arguments: Its arguments by name.
    """
    pipeline = PipelineSpec()
    problems = list(_parsed(documents[0] if documents else None, pipeline, "pipeline"))
    parameters = pipeline.root.input_definitions.parameters
    for name, value in arguments.items():
        if name not in parameters:
            known = ", ".join(sorted(parameters)) or "none"
            problems.append(Problem(f"argument {name}", f"unknown; the pipeline takes: {known}"))
        elif not value_fits(value, parameters[name].parameter_type):
            wanted = type_name(parameters[name].parameter_type)
            problems.append(Problem(f"argument {name}", f"is {type(value).__name__}, must be {wanted}"))
    for name, parameter in parameters.items():
        if name not in arguments and not parameter.is_optional and not parameter.HasField("default_value"):
            problems.append(Problem(f"argument {name}", f"missing; give a {type_name(parameter.parameter_type)}"))
    return problems


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


def _check_head(pipeline: PipelineSpec) -> Iterator[Problem]:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", pipeline.pipeline_info.name):
        yield Problem("pipelineInfo.name", "must be of lower-case letters, digits and dashes; name the pipeline")
    if not re.fullmatch(r"2\.\d+\.\d+", pipeline.schema_version):
        yield Problem("schemaVersion", "must be 2.x.y; compile with kfp 2")
    if pipeline.root.WhichOneof("implementation") != "dag" or not pipeline.root.dag.tasks:
        yield Problem("root.dag", "has no tasks; a pipeline needs one")


def _check_executors(config: PipelineDeploymentConfig) -> Iterator[Problem]:
    for label, executor in config.executors.items():
        where = f"deploymentSpec.executors.{label}"
        kind = executor.WhichOneof("spec")
        if kind == "container":
            yield from _check_container(executor.container, f"{where}.container")
        elif kind != "importer":
            yield Problem(where, "is neither container nor importer; Kubeflow runs nothing else")


def _check_container(container: PipelineDeploymentConfig.PipelineContainerSpec, where: str) -> Iterator[Problem]:
    pinned = _PINNED.fullmatch(container.image)
    if not pinned or pinned["tag"] == "latest":
        yield Problem(
            f"{where}.image",
            f"'{container.image}' may be another image tomorrow; give a tag other than latest, or a digest",
        )
    if not container.command:
        yield Problem(f"{where}.command", "is missing; without it the image's own entry point would run")
    resources = container.resources
    for field, given in {
        "resourceCpuRequest": resources.resource_cpu_request or resources.cpu_request,
        "resourceCpuLimit": resources.resource_cpu_limit or resources.cpu_limit,
        "resourceMemoryRequest": resources.resource_memory_request or resources.memory_request,
        "resourceMemoryLimit": resources.resource_memory_limit or resources.memory_limit,
    }.items():
        if not given:
            yield Problem(f"{where}.resources.{field}", "is missing; the placement gives every stage cpu and memory")
    yield from check_resources(container, where)


def _check_effectful(pipeline: PipelineSpec, config: PipelineDeploymentConfig) -> Iterator[Problem]:
    """A cached or repeated registration, verdict or promotion would speak for another run."""
    components = components_of(pipeline)
    for place, component in components.items():
        for name, task in component.dag.tasks.items():
            called = components.get(f"components.{task.component_ref.name}")
            stage = stage_of(config, called.executor_label) if called else ""
            where = f"{place}.dag.tasks.{name}"
            if stage not in STAGES or STAGES[stage].repeatable:
                continue
            if task.caching_options.enable_cache:
                yield Problem(f"{where}.cachingOptions", f"{stage} must not be cached; set enableCache to false")
            if task.retry_policy.max_retry_count:
                yield Problem(f"{where}.retryPolicy", f"{stage} must not be run again by itself; remove it")


def _check_platform(
    platform: PlatformSpec, executors: set[str], pods: dict[str, KubernetesExecutorConfig]
) -> Iterator[Problem]:
    """What is wrong with what the executors ask of Kubernetes, which is filled in by executor."""
    for name, single in platform.platforms.items():
        if name != "kubernetes":
            yield Problem(f"platforms.{name}", "is no platform of ours; only kubernetes is")
            continue
        for label, settings in single.deployment_spec.executors.items():
            where = f"platforms.kubernetes.deploymentSpec.executors.{label}"
            if label not in executors:
                yield Problem(where, "is an executor that the pipeline does not have; compile it again")
            pod = pods[label] = KubernetesExecutorConfig()
            yield from _parsed(json_format.MessageToDict(settings), pod, where)
            yield from _check_pod(pod, where)


def _check_pod(pod: KubernetesExecutorConfig, where: str) -> Iterator[Problem]:
    for number, secret in enumerate(pod.secret_as_env):
        named = secret.secret_name or secret.HasField("secret_name_parameter")
        paired = secret.key_to_env and all(pair.secret_key and pair.env_var for pair in secret.key_to_env)
        if not named or not paired:
            yield Problem(f"{where}.secretAsEnv.{number}", "is not whole; give the Secret, its key and the variable")
    for number, volume in enumerate(pod.secret_as_volume):
        if not (volume.secret_name or volume.HasField("secret_name_parameter")) or not volume.mount_path:
            yield Problem(f"{where}.secretAsVolume.{number}", "is not whole; give the Secret and the path")
    for number, mount in enumerate(pod.pvc_mount):
        if not (mount.WhichOneof("pvc_reference") or mount.HasField("pvc_name_parameter")) or not mount.mount_path:
            yield Problem(f"{where}.pvcMount.{number}", "is not whole; give the claim and the path")
    paths = [mount.mount_path for mount in (*pod.secret_as_volume, *pod.pvc_mount, *pod.empty_dir_mounts)]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield Problem(where, f"mounts several volumes at {path}; give each a path of its own")
