"""model_type -> architecture module, imported only when a checkpoint asks for it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from gemma_mlx.config import Config
from gemma_mlx.errors import ConfigError, UnsupportedModelError
from gemma_mlx.spec import DecoderSpec, EncoderSpec

if TYPE_CHECKING:
    from gemma_mlx.nn.decoder import Decoder
    from gemma_mlx.nn.drafter import Drafter
    from gemma_mlx.nn.encoder import Encoder
    from gemma_mlx.weights.names import Names

MODULES: Final[Mapping[str, str]] = {
    "diffusion_gemma": "gemma_mlx.models.diffusion_gemma",
    "embedding_gemma2": "gemma_mlx.models.embedding_gemma2",
    "gemma": "gemma_mlx.models.gemma",
    "gemma2": "gemma_mlx.models.gemma2",
    "gemma3": "gemma_mlx.models.gemma3",
    "gemma3_text": "gemma_mlx.models.gemma3_text",
    "gemma3n": "gemma_mlx.models.gemma3n",
    "gemma3n_text": "gemma_mlx.models.gemma3n_text",
    "gemma4": "gemma_mlx.models.gemma4",
    "gemma4_assistant": "gemma_mlx.models.gemma4_assistant",
    "gemma4_text": "gemma_mlx.models.gemma4_text",
    "gemma4_unified": "gemma_mlx.models.gemma4",
    "gemma4_unified_assistant": "gemma_mlx.models.gemma4_assistant",
    "gemma4_unified_text": "gemma_mlx.models.gemma4_text",
    "paligemma": "gemma_mlx.models.paligemma",
    "recurrent_gemma": "gemma_mlx.models.recurrent_gemma",
    "shieldgemma2": "gemma_mlx.models.shieldgemma2",
    "t5gemma": "gemma_mlx.models.t5gemma",
    "t5gemma2": "gemma_mlx.models.t5gemma2",
    "vaultgemma": "gemma_mlx.models.vaultgemma",
}

# Formats of weights, as the catalogue calls them, that this version reads; the only place that says so.
FORMATS: Final[frozenset[str]] = frozenset(("safetensors", "gguf", "compressed-tensors", "gemma"))

# The same names where config.json says `use_bidirectional_attention`: encoders.
BOTH_WAYS: Final[Mapping[str, str]] = {"gemma3_text": "gemma_mlx.models.embeddinggemma"}
# The same names where the decoder in `text_config` is a Gemma 2.
OVER_GEMMA2: Final[Mapping[str, str]] = {"paligemma": "gemma_mlx.models.paligemma2"}

# Take ids from another model and give it ids: they need no tokenizer.
DRAFTERS: Final[frozenset[str]] = frozenset(("gemma4_assistant", "gemma4_unified_assistant"))

# What others built around a Gemma, with parts that are no Gemma's -> what it does.
BUILT_AROUND: Final[Mapping[str, str]] = {
    "colpali": "makes vectors of pictures of pages",
    "pi0": "moves robots",
    "cost_wise_gemma": "ranks texts with code of its own",
}


Spec = DecoderSpec | EncoderSpec


class Architecture(Protocol):
    """What a module in gemma_mlx/models provides."""

    NAMES: Names

    def read(self, config: Config) -> Spec:
        """config.json -> specs."""
        ...

    def build(self, spec: Spec) -> Decoder | Encoder | Drafter:
        """Specs -> a model whose parameters are not evaluated yet."""
        ...


@dataclass(frozen=True)
class Match:
    """An architecture, and what a checkpoint's config says in its terms."""

    model_type: str
    architecture: Architecture
    spec: Spec


def reads(weights: str) -> bool:
    """Whether weights in a format, "safetensors", "gguf", "compressed-tensors" or "gemma", can be read."""
    return weights in FORMATS


def match(values: Mapping[str, Any]) -> Match:
    """Reads a parsed config.json.

    Raises:
        ConfigError: a key is missing, unknown or out of range.
        UnsupportedModelError: the model_type is not one this version runs.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError(
            "config.json has no 'model_type', so there is no telling which architecture it describes.",
            "Fetch config.json again.",
        )
    if model_type not in MODULES:
        raise _unsupported(model_type)
    architecture = cast(Architecture, import_module(module(values)))
    return Match(model_type, architecture, architecture.read(Config(values)))


def module(values: Mapping[str, Any]) -> str:
    """The module that runs a config.json whose model_type is in MODULES."""
    modules = dict(MODULES)
    if values.get("use_bidirectional_attention") is True:
        modules |= BOTH_WAYS
    text = values.get("text_config")
    if isinstance(text, dict) and text.get("model_type") == "gemma2":
        modules |= OVER_GEMMA2
    return modules[values["model_type"]]


def _unsupported(model_type: str) -> UnsupportedModelError:
    known = ", ".join(MODULES)
    if model_type in BUILT_AROUND:
        return UnsupportedModelError(
            f"This is a {model_type} checkpoint: it is built around a Gemma, and {BUILT_AROUND[model_type]}, which "
            "gemma does not.",
            "Use the program it was published with; gemma runs the Gemma it was made from.",
        )
    near = difflib.get_close_matches(model_type[:64], MODULES, 1)
    return UnsupportedModelError(
        f"The model_type {model_type[:64]!r} is not a Gemma; gemma runs only {known}.",
        f"Did you mean {near[0]!r}?" if near else "For other families use mlx-lm or mlx-vlm.",
    )
