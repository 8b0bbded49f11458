"""What a compiled pipeline must have so that nothing passes that should not, and what its tasks must not have.

A pipeline that releases has a gate with all evidence, a promotion of what that gate judged, and an exit task; what
speaks for one run is neither cached nor retried, or it would speak for another. The
signing key is the gate's alone, attacked weights are the attacks', and no task has the network of another.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any

from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import (
    ComponentSpec,
    PipelineDeploymentConfig,
    PipelineSpec,
    PipelineTaskSpec,
    TaskInputsSpec,
)

from pipelines.graph import Problem, components_of
from tokenbuncher.core.stages import STAGES

ALWAYS = PipelineTaskSpec.TriggerPolicy.TriggerStrategy.ALL_UPSTREAM_TASKS_COMPLETED
IMPORTER = "importer"
PASSPHRASE, SIGNING_KEY = "TOKENBUNCHER_KEY_PASSPHRASE", "TOKENBUNCHER_SIGNING_KEY"
STAGE_LABEL = "tokenbuncher.io/stage"
RESERVED_LABELS = ("app.kubernetes.io/name", "jobset.sigs.k8s.io/jobset-name", "workflows.argoproj.io/workflow")
"""By these network policies tell servers, nodes of a TrainJob and Kubeflow's own pods."""
ENDING = ("gate", "promote", "announce")
MEASURING = ("fetch-model", "prepare-data", "attack", "evaluate-safety")
NEEDED = {
    "tokenbuncher-release": (*MEASURING, "defend", "evaluate-utility", "register", *ENDING),
    "tokenbuncher-gate-only": ENDING,
    "tokenbuncher-red-team": (*MEASURING, "report-attacks"),
}
"""The tasks that a pipeline of that name must have; any other one that registers or judges must have `ENDING`."""
SOURCES = {
    "registration": ("register", IMPORTER),
    "attacks": ("attack",),
    "safety": ("evaluate-safety",),
    "utility": ("evaluate-utility",),
    "recorded": (IMPORTER,),
}
"""By input of gate and promote, which stage it comes from."""
_SIGNING = re.compile(r"(^|[-._])(co)?sign(ing|er|ature)?([-._]|$)", re.IGNORECASE)

Pods = Mapping[str, KubernetesExecutorConfig]


def stage_of(config: PipelineDeploymentConfig, label: str) -> str:
    """The stage that an executor runs, by the function it calls; empty if it is none of ours."""
    if label not in config.executors:
        return ""
    if config.executors[label].WhichOneof("spec") == IMPORTER:
        return IMPORTER
    arguments = list(config.executors[label].container.args)
    after = arguments[arguments.index("--function_to_execute") + 1 :] if "--function_to_execute" in arguments else []
    return after[0].replace("_", "-") if after else ""


def check_composition(pipeline: PipelineSpec, config: PipelineDeploymentConfig) -> Iterator[Problem]:
    """What a pipeline lacks to end in a verdict that counts."""
    parts = _Parts(pipeline, config)
    there = parts.stages("root")
    judges = bool({"register", *ENDING} & there)
    needed = NEEDED.get(pipeline.pipeline_info.name, ENDING if judges else ())
    for stage in sorted({*needed} - there):
        yield Problem("root.dag", f"has no task {stage}, and nothing else does its work; compile the pipeline again")
    for where, component in parts.reached("root").items():
        for name, task in component.dag.tasks.items():
            yield from _check_task(parts, component, task, where=f"{where}.dag.tasks.{name}")
    if judges:
        yield from _check_exit(parts, pipeline.root)


def _check_task(parts: _Parts, dag: ComponentSpec, task: PipelineTaskSpec, *, where: str) -> Iterator[Problem]:
    stage = parts.stage(task)
    if stage in STAGES and not STAGES[stage].repeatable:
        if task.caching_options.enable_cache:
            yield Problem(f"{where}.cachingOptions", f"{stage} must not be cached; set enableCache to false")
        if task.retry_policy.max_retry_count:
            yield Problem(f"{where}.retryPolicy", f"{stage} must not be run again by itself; remove it")
    if task.trigger_policy.strategy == ALWAYS and stage != "announce":
        yield Problem(f"{where}.triggerPolicy", "goes on after a failure; only the exit task announce may")
    if task.trigger_policy.condition and stage in ("register", *ENDING):
        yield Problem(f"{where}.triggerPolicy", f"{stage} must not depend on a condition; it refuses by itself")
    given = task.inputs.parameters
    if (stage in ("gate", "promote") or "spec" in given) and not given["spec"].HasField("component_input_parameter"):
        yield Problem(f"{where}.inputs.parameters.spec", "is a spec of its own; give it that of the pipeline")
    if stage in ("gate", "promote"):
        yield from _check_evidence(parts, dag, task, where=where)
    if stage == "promote":
        yield from _check_same_as_gate(parts, dag, task, where=where)


def _check_evidence(parts: _Parts, dag: ComponentSpec, task: PipelineTaskSpec, *, where: str) -> Iterator[Problem]:
    given = task.inputs.artifacts
    needed = ("registration", "recorded") if "recorded" in given else ("registration", "attacks", "safety", "utility")
    for key in needed:
        if key not in given:
            yield Problem(f"{where}.inputs.artifacts", f"lacks {key}; what is not judged cannot block")
        elif not {*SOURCES[key]} & parts.makers(dag, given[key]):
            yield Problem(f"{where}.inputs.artifacts.{key}", f"does not come from {' or '.join(SOURCES[key])}")


def _check_same_as_gate(parts: _Parts, dag: ComponentSpec, task: PipelineTaskSpec, *, where: str) -> Iterator[Problem]:
    given = task.inputs.artifacts
    judge = given["verdict"].task_output_artifact.producer_task if "verdict" in given else ""
    if judge not in dag.dag.tasks or parts.stage(dag.dag.tasks[judge]) != "gate":
        yield Problem(f"{where}.inputs.artifacts", "has no verdict of the gate beside it; give it that")
        return
    judged = dag.dag.tasks[judge].inputs.artifacts
    for key in sorted({*SOURCES} & {*given, *judged}):
        if key not in given or key not in judged or given[key] != judged[key]:
            yield Problem(f"{where}.inputs.artifacts.{key}", "is not what the gate judged; give both the same")


def _check_exit(parts: _Parts, root: ComponentSpec) -> Iterator[Problem]:
    """The exit task waits for all others, whatever becomes of them."""
    exits = {name: task for name, task in root.dag.tasks.items() if parts.stage(task) == "announce"}
    for name, task in exits.items():
        where = f"root.dag.tasks.{name}"
        if task.trigger_policy.strategy != ALWAYS:
            yield Problem(f"{where}.triggerPolicy", "announce must run whatever has failed; make it the exit task")
        if missed := sorted({*root.dag.tasks} - {*exits} - {*task.dependent_tasks}):
            yield Problem(f"{where}.dependentTasks", f"lacks {missed[0]}; the exit task waits for all others")
    if not exits and "announce" in parts.stages("root"):
        yield Problem("root.dag", "has no exit task; announce belongs there, outside of what it waits for")


class _Parts:
    """The components of a pipeline, by what they do."""

    def __init__(self, pipeline: PipelineSpec, config: PipelineDeploymentConfig) -> None:
        self._named = components_of(pipeline)
        self._config = config

    def stage(self, task: PipelineTaskSpec) -> str:
        """The stage that a task runs."""
        component = self._named.get(f"components.{task.component_ref.name}")
        return stage_of(self._config, component.executor_label) if component else ""

    def reached(self, where: str, before: Collection[str] = ()) -> dict[str, ComponentSpec]:
        """A component and all that its tasks run, by path."""
        if where in before or where not in self._named:
            return {}
        found = {where: self._named[where]}
        for task in self._named[where].dag.tasks.values():
            found |= self.reached(f"components.{task.component_ref.name}", {*before, *found})
        return found

    def stages(self, where: str) -> set[str]:
        """All stages that a component runs."""
        return {stage_of(self._config, part.executor_label) for part in self.reached(where).values()} - {""}

    def makers(self, dag: ComponentSpec, source: TaskInputsSpec.InputArtifactSpec) -> set[str]:
        """The stages that may have made an input of a task."""
        producer = source.task_output_artifact.producer_task
        if producer not in dag.dag.tasks:
            return set()
        return self.stages(f"components.{dag.dag.tasks[producer].component_ref.name}")


def check_pods(config: PipelineDeploymentConfig, pods: Pods) -> Iterator[Problem]:
    """Secrets, volumes and labels that a task must not have.

    Args:
        config: The executors.
        pods: What each of them asks of Kubernetes.
    """
    keys = {name for label, pod in pods.items() for name in _key_secrets(config, label, pod)}
    weights = {
        claim
        for label, pod in pods.items()
        if stage_of(config, label) in ("attack", "controls")
        for claim in _claims(pod)
    }
    labelled = any(STAGE_LABEL in pod.pod_metadata.labels for pod in pods.values())
    for label in config.executors:
        stage, where = stage_of(config, label), f"platforms.kubernetes.deploymentSpec.executors.{label}"
        pod = pods.get(label, KubernetesExecutorConfig())
        if stage != "gate":
            yield from _check_key(pod, keys, where)
        if stage not in ("attack", "controls"):
            yield from _check_claims(pod, stage, weights, where=where)
        yield from _check_labels(pod, stage, labelled, where=where)


def _check_key(pod: KubernetesExecutorConfig, keys: set[str], where: str) -> Iterator[Problem]:
    advice = "the signing key is the gate's alone; name it in stages.gate of the placement"
    for kind, secrets in (("secretAsVolume", pod.secret_as_volume), ("secretAsEnv", pod.secret_as_env)):
        for number, secret in enumerate(secrets):
            name = _named(secret.secret_name, secret.secret_name_parameter)
            if not name:
                yield Problem(f"{where}.{kind}.{number}", f"gives it a Secret that only the run names; {advice}")
            elif name in keys or _SIGNING.search(name):
                yield Problem(f"{where}.{kind}.{number}", f"gives it the Secret {name}; {advice}")
    for number, given in enumerate(pod.secret_as_env):
        if any(pair.env_var in (PASSPHRASE, SIGNING_KEY) for pair in given.key_to_env):
            yield Problem(f"{where}.secretAsEnv.{number}", f"gives it a variable of the signing key; {advice}")


def _key_secrets(config: PipelineDeploymentConfig, label: str, pod: KubernetesExecutorConfig) -> Iterator[str]:
    """The Secrets that hold a signing key or its passphrase, by the variables that name them."""
    variables = config.executors[label].container.env if label in config.executors else []
    paths = [PurePosixPath(normpath(variable.value)) for variable in variables if variable.name == SIGNING_KEY]
    for volume in pod.secret_as_volume:
        if any(path.is_relative_to(normpath(volume.mount_path)) for path in paths):
            yield _named(volume.secret_name, volume.secret_name_parameter)
    for secret in pod.secret_as_env:
        if any(pair.env_var in (PASSPHRASE, SIGNING_KEY) for pair in secret.key_to_env):
            yield _named(secret.secret_name, secret.secret_name_parameter)


def _check_claims(pod: KubernetesExecutorConfig, stage: str, weights: set[str], *, where: str) -> Iterator[Problem]:
    for number, claim in enumerate(_claims(pod)):
        if not claim or claim in weights or (stage in STAGES and STAGES[stage].image == "gate"):
            what = claim or "a claim that only the run names"
            advice = "the quarantine is for attack and controls alone"
            yield Problem(f"{where}.pvcMount.{number}", f"mounts {what}, where attacked weights may lie; {advice}")


def _claims(pod: KubernetesExecutorConfig) -> list[str]:
    return [_named(mount.constant, mount.pvc_name_parameter) for mount in pod.pvc_mount]


def _check_labels(pod: KubernetesExecutorConfig, stage: str, labelled: bool, *, where: str) -> Iterator[Problem]:
    labels = pod.pod_metadata.labels
    own = {"controls": ("controls", "attack")}.get(stage, (stage,))
    if stage == IMPORTER:
        return
    if STAGE_LABEL in labels and labels[STAGE_LABEL] not in own:
        yield Problem(
            f"{where}.podMetadata.labels", f"{STAGE_LABEL} gives {stage} the network of {labels[STAGE_LABEL]}"
        )
    if labelled and STAGE_LABEL not in labels:
        yield Problem(f"{where}.podMetadata.labels", f"lacks {STAGE_LABEL}: {stage}, so no network policy is for it")
    for name in RESERVED_LABELS:
        if name in labels:
            yield Problem(f"{where}.podMetadata.labels", f"{name} would give it the network of another; remove it")


def _named(constant: str, parameter: Any) -> str:
    """The name that a pod's configuration gives as such, or as a parameter that is a constant."""
    return constant or parameter.runtime_value.constant.string_value
