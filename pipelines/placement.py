"""Where and with what each stage runs on Kubernetes: one optional YAML document, applied when a pipeline is compiled.

    images: {trainer: registry.example/trainer:1.0, gate: registry.example/gate@sha256:...}
    all:                                    # every stage
      env: {MLFLOW_S3_ENDPOINT_URL: "http://minio:9000"}
      secret_env: [{secret: s3, key: access-key, env: AWS_ACCESS_KEY_ID}]
    stages:                                 # one stage: in addition, and where they differ, instead
      attack:
        memory: {request: 32Gi, limit: 64Gi}
        accelerator: {type: nvidia.com/gpu, count: 1}
    quarantine: {claim: quarantine, path: /work/runs/quarantine}
    parallelism: 4                          # attacks at once

Secrets are named, never given. Without a document every stage has cpu and memory, which do for the organism.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from kfp import kubernetes
from kfp.dsl import PipelineTask
from kubernetes.utils.quantity import parse_quantity  # type: ignore[import-untyped]
from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from components import GATE_IMAGE, TRAINER_IMAGE
from tokenbuncher.core.documents import Origin, parse_yaml, read_text
from tokenbuncher.core.fields import Strict, Variable
from tokenbuncher.core.problems import validated
from tokenbuncher.core.stages import STAGES

if TYPE_CHECKING:
    StageName = str
else:
    StageName = Literal[tuple(STAGES)]

HOSTNAME = "kubernetes.io/hostname"
RETRIES = 2
"""For nodes and networks that fail. Kubeflow cannot tell these from other failures, which then fail three times."""

CPU, MEMORY = r"\d+(\.\d+)?|\d+m", r"\d+([MGTPE]|[KMGTPE]i)"
"""What Kubeflow and Kubernetes both read as a quantity; of bytes Kubernetes knows no K."""
Cpu = Annotated[str, BeforeValidator(str), Field(pattern=f"^({CPU})$", description="Such as 2, 0.5, 500m.")]
Memory = Annotated[str, Field(pattern=f"^{MEMORY}$", description="Such as 512Mi, 8Gi.")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\s/][^\s]*$")]
Name = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(gt=0, strict=True)]
"""Not a boolean, which would be read as 1."""


class Range(Strict):
    """What a stage is sure of, and what it may use at most."""

    request: str
    limit: str

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not parse_quantity(self.request) or not parse_quantity(self.limit):
            raise ValueError(f"request {self.request} and limit {self.limit} must both be above zero")
        if parse_quantity(self.request) > parse_quantity(self.limit):
            raise ValueError(f"request {self.request} is more than the limit {self.limit}")
        return self


class CpuRange(Range):
    """Cores, or thousandths of one."""

    request: Cpu
    limit: Cpu


class MemoryRange(Range):
    """Bytes."""

    request: Memory
    limit: Memory


class Accelerator(Strict):
    """Devices of one type."""

    type: Name = Field("nvidia.com/gpu", description="Kubernetes' name of the resource.")
    count: Positive = 1


class Toleration(Strict):
    """A taint that the pods tolerate."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class SecretVariable(Strict):
    """An environment variable with the value of a key of a Secret."""

    secret: Name
    key: Name
    env: Variable


class SecretFiles(Strict):
    """A folder with a file for each key of a Secret."""

    secret: Name
    path: AbsolutePath


class StagePlacement(Strict):
    """Where and with what a stage runs; what is left out is as in `all`, or the default."""

    cpu: CpuRange | None = None
    memory: MemoryRange | None = None
    accelerator: Accelerator | None = None
    shared_memory: Memory | None = Field(None, description="Size of /dev/shm, which counts as memory of the pod.")
    timeout: Positive | None = Field(None, description="Seconds after which the pod is ended.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    node_selector: dict[Name, str] = Field({})
    tolerations: list[Toleration] = Field([])
    env: dict[Variable, str] = Field({}, description="Literal values; never secrets.")
    secret_env: list[SecretVariable] = Field([])
    secret_files: list[SecretFiles] = Field([])
    pod_labels: dict[Name, str] = Field({})

    def overlaid(self, upper: StagePlacement) -> StagePlacement:
        """This with what the other one has: mappings and lists are joined, all else is replaced."""
        merged = {name: getattr(self, name) for name in type(self).model_fields}
        for name in upper.model_fields_set:
            ours, theirs = merged[name], getattr(upper, name)
            if isinstance(theirs, dict):
                merged[name] = {**ours, **theirs}
            elif isinstance(theirs, list):
                merged[name] = [*ours, *theirs]
            else:
                merged[name] = theirs
        return StagePlacement.model_validate(merged)


LIGHT = StagePlacement(cpu=CpuRange(request="250m", limit="1"), memory=MemoryRange(request="512Mi", limit="2Gi"))
HEAVY = StagePlacement(cpu=CpuRange(request="1", limit="4"), memory=MemoryRange(request="4Gi", limit="8Gi"))


class Images(Strict):
    """The two images, by tag or digest."""

    trainer: str = TRAINER_IMAGE
    gate: str = GATE_IMAGE


class Quarantine(Strict):
    """A PersistentVolumeClaim for attacked weights, mounted by the attacks and their controls alone."""

    claim: Name
    path: AbsolutePath = Field(description="The folder `quarantine` below the spec's output.root, in the pod.")
    access: Literal["ReadWriteMany", "ReadWriteOnce"] = Field(
        "ReadWriteMany", description="The claim's access mode; ReadWriteOnce is for one node at a time."
    )


class Placement(Strict):
    """Where and with what the stages run."""

    images: Images = Images()
    all: StagePlacement = StagePlacement()
    stages: dict[StageName, StagePlacement] = Field({})
    quarantine: Quarantine | None = None
    parallelism: Positive | None = Field(None, description="Attacks that run at once; all of them, if null.")
    _cached: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _fits(self) -> Placement:
        for stage in STAGES:
            placed = self.of(stage)
            if not placed.cpu or not placed.memory:
                raise ValueError(f"{stage} has no {'memory' if placed.cpu else 'cpu'}; give it one, or leave it out")
            shared = parse_quantity(placed.shared_memory) if placed.shared_memory else None
            if shared == 0:
                raise ValueError(f"{stage} has shared_memory {placed.shared_memory}; give it more, or leave it out")
            if shared and shared > parse_quantity(placed.memory.limit):
                raise ValueError(
                    f"{stage} has shared_memory {placed.shared_memory}, which is part of its memory of at most "
                    f"{placed.memory.limit}; raise memory.limit"
                )
        if self.quarantine and self.quarantine.access == "ReadWriteOnce" and not self._one_node_at_a_time():
            raise ValueError(
                f"quarantine: {self.quarantine.claim} is ReadWriteOnce, which one node at a time can mount, and the "
                "attacks run on many; make the claim ReadWriteMany, or set parallelism: 1, or name the node of attack "
                f"and controls by node_selector {HOSTNAME}, or leave the quarantine out"
            )
        return self

    def _one_node_at_a_time(self) -> bool:
        nodes = {self.of(stage).node_selector.get(HOSTNAME) for stage in ("attack", "controls")}
        return self.parallelism == 1 or (len(nodes) == 1 and None not in nodes)

    def of(self, stage: str) -> StagePlacement:
        """The placement of one stage: the default, then `all`, then its own.

        The controls, if nothing is said of them, are placed like an attack; but they may take longer than one.
        """
        if stage == "controls" and "controls" not in self.stages:
            return self.of("attack").model_copy(update={"timeout": None})
        default = LIGHT if STAGES[stage].image == "gate" else HEAVY
        own = self.stages.get(stage, StagePlacement())
        return default.overlaid(self.all).overlaid(own)

    def caching(self, stages: Collection[str]) -> Placement:
        """The same, with stages whose results may be taken from the cache: they depend on nothing but the spec."""
        placement = self.model_copy()
        placement._cached = tuple(stages)
        return placement

    def place(self, task: PipelineTask) -> PipelineTask:
        """Places a task of a pipeline that is being composed; it is cached only if that was said of its stage.

        Args:
            task: A task of one of our components, whose name is that of its stage.

        Returns:
            The task.
        """
        stage = task.component_spec.name
        placed = self.of(stage)
        assert placed.cpu
        assert placed.memory
        task.set_container_image(getattr(self.images, STAGES[stage].image))
        task.set_cpu_request(placed.cpu.request).set_cpu_limit(placed.cpu.limit)
        task.set_memory_request(placed.memory.request).set_memory_limit(placed.memory.limit)
        task.set_caching_options(STAGES[stage].repeatable and stage in self._cached)
        if STAGES[stage].repeatable:
            task.set_retry(RETRIES, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s")
        if placed.accelerator:
            task.set_accelerator_type(placed.accelerator.type).set_accelerator_limit(placed.accelerator.count)
        for name, value in placed.env.items():
            task.set_env_variable(name, value)
        _place_pod(task, placed)
        if self.quarantine and stage in ("attack", "controls"):
            kubernetes.mount_pvc(task, self.quarantine.claim, self.quarantine.path)
        return task


def _place_pod(task: PipelineTask, placed: StagePlacement) -> None:
    for variable in placed.secret_env:
        kubernetes.use_secret_as_env(task, variable.secret, {variable.key: variable.env})
    for files in placed.secret_files:
        kubernetes.use_secret_as_volume(task, files.secret, files.path)
    for key, value in placed.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in placed.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump())
    for key, value in placed.pod_labels.items():
        kubernetes.add_pod_label(task, key, value)
    if placed.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", "Memory", placed.shared_memory)
    if placed.image_pull_policy:
        kubernetes.set_image_pull_policy(task, placed.image_pull_policy)
    if placed.timeout:
        kubernetes.set_timeout(task, placed.timeout)


def load_placement(path: Path | None) -> Placement:
    """Reads a placement.

    Args:
        path: Its YAML file; None for the defaults.

    Raises:
        UserError: If the file cannot be read or a field is wrong; names the field.
    """
    if path is None:
        return Placement()
    text = read_text("placement", path)
    return validated(Placement, parse_yaml(text, str(path)), f"placement {path} is not valid", origin=Origin(text))
