"""The size of a model, from its config.json or as given; weights are never read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from tokenbuncher.builtin import organism
from tokenbuncher.core.documents import decoded, first_problem
from tokenbuncher.core.errors import UserError
from tokenbuncher.preflight.plan.experts import count_experts, is_mixture
from tokenbuncher.settings import LoraSpec, ReleaseSpec
from tokenbuncher.settings.sources import parse_source
from tokenbuncher.storage import resolve

ORGANISM = Path(organism.__file__).parent / "aligned" / "config.json"
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
# What a model is taken for of which only the four figures are given: today's usual proportions.
INNER, GROUPED = 4.0, 0.25


Figure = Annotated[int, Field(ge=1, le=10**9)]


class _Configuration(BaseModel):
    """What is needed of a decoder's config.json."""

    hidden_size: Figure
    num_hidden_layers: Figure
    vocab_size: Figure
    intermediate_size: Figure
    num_attention_heads: Figure
    num_key_value_heads: Figure | None = None
    head_dim: Figure | None = None
    tie_word_embeddings: bool | None = None


class Shape(NamedTuple):
    """What time and memory of a decoder depend on."""

    parameters: float
    layers: int
    hidden: int
    vocabulary: int
    inner: float
    """Width inside the gated MLP."""
    keys: float
    """Width of the keys, and of the values."""
    body: float
    """Parameters of the layers that a token passes, of experts only so many; the output layer only sees responses."""
    active: float | None = None
    """Of a mixture of experts, the parameters that a token passes."""

    @property
    def head(self) -> float:
        """Parameters of the output layer."""
        return self.vocabulary * self.hidden

    def adapter(self, lora: LoraSpec) -> float:
        """Parameters of an adapter on all linear layers, the most that it can have."""
        attention = 4 * self.hidden + 2 * (self.hidden + self.keys)
        return lora.rank * self.layers * (attention + 3 * (self.hidden + self.inner))


def shape_of(
    spec: ReleaseSpec,
    parameters: float | None = None,
    layers: int | None = None,
    *,
    hidden: int | None = None,
    vocabulary: int | None = None,
) -> Shape:
    """The shape of the spec's model.

    Args:
        spec: The release spec.
        parameters: How many, if given; without, they are counted from the configuration.
        layers: Of a model whose configuration is not at hand; also `hidden` and `vocabulary`.
        hidden: Width of the hidden states.
        vocabulary: Tokens in the vocabulary.

    Raises:
        UserError: If the configuration is not at hand or of no known form, and the figures are not given.
    """
    if parameters and layers and hidden and vocabulary:
        body = max(parameters - 2 * vocabulary * hidden, 0.0)
        return Shape(parameters, layers, hidden, vocabulary, INNER * hidden, GROUPED * hidden, body)
    if layers or hidden or vocabulary:
        raise UserError("give --parameters, --layers, --hidden and --vocabulary together")
    counted = _counted(_configuration(spec), spec.model.source)
    return counted._replace(parameters=parameters) if parameters else counted


def _configuration(spec: ReleaseSpec) -> dict[str, Any]:
    source = spec.model.source
    if source == "smollm2://":
        return SMOLLM2
    path = ORGANISM if source == "organism://" else _config(_local(source))
    if not path.is_file() and spec.model.adapter_base:
        path = _local(spec.model.adapter_base) / "config.json"
    try:
        return json.loads(decoded(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read the configuration of the model, {path}: {error}; {_FIGURES}") from error


_FIGURES = "give --parameters, --layers, --hidden and --vocabulary (its config.json has them)"


def _config(folder: Path) -> Path:
    """Its config.json; MLflow keeps that of a logged model a folder further down."""
    path = folder / "config.json"
    return path if path.is_file() or not (folder / "MLmodel").is_file() else folder / "model" / "config.json"


def _local(source: str) -> Path:
    if parse_source(source).scheme != "file":
        raise UserError(f"model.source {source} is not on this machine, and is not fetched for a plan; {_FIGURES}")
    return resolve(source)


def _counted(config: dict[str, Any], source: str) -> Shape:
    text = _language_model(config)
    mixture = isinstance(config, dict) and is_mixture(config)
    try:
        given = _Configuration.model_validate(
            {"intermediate_size": text.get("hidden_size"), **text} if mixture else text
        )
    except ValidationError as error:
        raise UserError(
            f"model.source {source}: its config.json has no usable {first_problem(error)}; {_FIGURES}"
        ) from error
    dense = _dense(given)
    return _mixture(config, text, dense, source=source) if mixture else dense


def _language_model(config: Any) -> Any:
    """The part of a configuration that is about the language model, if it has parts."""
    part = config.get("text_config") if isinstance(config, dict) else None
    return part if isinstance(part, dict) and "hidden_size" not in config else config


def _dense(given: _Configuration) -> Shape:
    hidden, layers, vocabulary = given.hidden_size, given.num_hidden_layers, given.vocab_size
    inner, heads = given.intermediate_size, given.num_attention_heads
    width = given.head_dim or hidden // heads
    keys = width * (given.num_key_value_heads or heads)
    embeddings = vocabulary * hidden * (1 if given.tie_word_embeddings else 2)
    layer = 2 * hidden * (width * heads + keys) + 3 * hidden * inner + 2 * hidden
    return Shape(embeddings + layers * layer + hidden, layers, hidden, vocabulary, inner, keys, layers * layer)


def _mixture(config: dict[str, Any], text: dict[str, Any], dense: Shape, *, source: str) -> Shape:
    """The shape of a mixture of experts: all its parameters are held, and a token passes some."""
    try:
        experts = count_experts(config, text)
    except UserError as error:
        raise UserError(
            f"model.source {source} is a mixture of experts, and {error}; {_FIGURES}, parameters that one token uses"
        ) from error
    attention = dense.body / dense.layers - 3 * dense.hidden * dense.inner
    inner = max(experts.body / dense.layers - attention, 0.0) / (3 * dense.hidden)
    return dense._replace(
        parameters=experts.parameters, body=experts.body, inner=inner, active=experts.body + dense.head
    )
