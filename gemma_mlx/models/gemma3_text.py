"""Gemma 3's decoder: five sliding layers to a full one, each kind with its own RoPE, queries and keys normalised."""

from __future__ import annotations

from gemma_mlx.config import Config
from gemma_mlx.errors import ConfigError
from gemma_mlx.models.dims import Dims
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.nn.layer import SandwichLayer
from gemma_mlx.spec import DecoderSpec, LayerSpec
from gemma_mlx.weights.names import GEMMA3_TEXT, Names

NAMES: Names = GEMMA3_TEXT


def read(config: Config) -> DecoderSpec:
    """config.json -> specs. The linear factor of the 4B and larger stretches the full layers only."""
    dims = Dims.read(config)
    layers = read_layers(config, dims)
    config.finish()
    return dims.decoder(layers)


def read_layers(config: Config, dims: Dims) -> list[LayerSpec]:
    """The spec of each layer."""
    scale = config.number("query_pre_attn_scalar") ** -0.5
    if (cap := config.raw("attn_logit_softcapping", None)) is not None:
        raise ConfigError(
            f"config.json: 'attn_logit_softcapping' is {cap!r}, but a Gemma 3 does not cap its scores.",
            "Set it to null: transformers reads the key and computes without it, as the model was trained.",
        )
    window = config.integer("sliding_window", high=1 << 24)
    ropes = config.ropes(local_default=10_000.0)
    return [
        LayerSpec(
            attention=dims.attention(
                scale=scale,
                rope=ropes[kind],
                window=window if kind == "sliding_attention" else None,
                qk_norm=True,
            ),
            mlp_dim=dims.mlp_dim,
        )
        for kind in config.layer_types(dims.layers, default_pattern=6)
    ]


def build(spec: DecoderSpec) -> Decoder:
    """Specs -> model."""
    return Decoder(spec, SandwichLayer)
