"""Where the model trains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator

from tokenbuncher.core.documents import parse_yaml, read_text
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.fields import Contradiction, Positive, Strict


class ResourcesSpec(Strict):
    """Resources that each node of a TrainJob requests and is limited to; null leaves them to the runtime."""

    cpu: Annotated[str, Field(pattern=r"^(\d+(\.\d{1,3})?|\d+m)$")] | None = None
    memory: Annotated[str, Field(pattern=r"^\d+(\.\d+)?(k|[MGTPE]|[KMGTPE]i)?$")] | None = None
    gpu: Annotated[int, Field(ge=0)] = 0


class VllmSpec(Strict):
    """Rollouts of the online trainers by vLLM; see TRL's `vllm_mode` and `vllm_gpu_memory_utilization`."""

    mode: Literal["colocate", "server"] = Field(
        "colocate",
        description="colocate: vLLM shares the training GPUs. server: vLLM runs as a server on port 8000 of the same "
        "pod.",
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3


KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A Kubernetes name: lower-case letters, digits and hyphens, with a letter or digit at both ends."""


class ComputeSpec(Strict):
    """Where the defence and the attacks train: here, or as Kubeflow Trainer's TrainJobs."""

    kind: Literal["local", "trainjob"] = "local"
    namespace: KubernetesName = Field("tokenbuncher", description="Namespace of the TrainJobs.")
    defence_runtime: KubernetesName = Field("trainer", description="TrainingRuntime of the defence.")
    attack_runtime: KubernetesName = Field("attacker", description="TrainingRuntime of the attacks.")
    image: Annotated[str, Field(pattern=r"^\S+$")] | None = Field(
        None, description="Image of the trainer. If null, the image of the runtime is used."
    )
    nodes: Positive = 1
    processes: Positive = Field(1, description="Processes on each node, usually one for each GPU.")
    resources: ResourcesSpec = ResourcesSpec()
    accelerate: dict[str, JsonValue] | None = Field(
        None,
        description="Configuration of accelerate for FSDP or DeepSpeed, given as a mapping or as the path of a file.",
    )
    vllm: VllmSpec | None = None
    storage: str | None = Field(
        None, description="s3://bucket/prefix through which inputs and outputs are exchanged with the nodes."
    )
    secret: KubernetesName | None = Field(
        None,
        description="Kubernetes Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the storage; null if the "
        "runtime brings its own credentials.",
    )
    timeout: Positive = Field(86400, description="Seconds after which a TrainJob counts as failed.")

    @field_validator("accelerate", mode="before")
    @classmethod
    def _read_at_once(cls, given: Any) -> Any:
        """Reads the file at once, so that the spec is complete wherever it goes."""
        if not isinstance(given, str | Path):
            return given
        try:
            return parse_yaml(read_text("accelerate configuration", given), str(given))
        except UserError as error:
            raise ValueError(str(error)) from None

    @field_validator("storage")
    @classmethod
    def _within_reach(cls, storage: str | None) -> str | None:
        if storage and not re.fullmatch(r"s3://[A-Za-z0-9._-]+(/[^/\s]+)*/?", storage):
            raise ValueError(f"compute.storage {storage}: the nodes reach s3://bucket/prefix only")
        return storage

    @field_validator("accelerate")
    @classmethod
    def _learns_the_same(cls, accelerate: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if changed := sorted(_changes_of_training(accelerate or {})):
            raise ValueError(
                f"accelerate sets {', '.join(changed)}: it may share out a training, not change precision or steps"
            )
        return accelerate

    def checks(self) -> Iterable[Iterator[Contradiction]]:
        """A TrainJob has what it needs."""
        return (self._travels(),)

    def _travels(self) -> Iterator[Contradiction]:
        if self.kind == "trainjob" and not self.storage:
            yield ("kind",), "kind: trainjob needs storage (compute.storage), by which inputs and outputs travel"


def _changes_of_training(accelerate: Mapping[str, JsonValue]) -> set[str]:
    """Settings of accelerate by which a training would learn otherwise; evidence is not bound to them."""
    precision = {
        name for name in ("mixed_precision", "downcast_bf16") if accelerate.get(name) not in (None, False, "no")
    }
    engine = accelerate.get("deepspeed_config")
    steps = {"optimizer", "scheduler", "gradient_clipping", "fp16", "bf16", "deepspeed_config_file"}
    return precision | (steps & engine.keys() if isinstance(engine, dict) else set())
