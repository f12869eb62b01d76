"""Gemma 1, 1.1 and CodeGemma: full attention, pre-norm, GeGLU, tied embeddings."""

from __future__ import annotations

from functools import partial

from gemma_mlx.config import Config
from gemma_mlx.models.dims import Dims
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.nn.layer import PreNormLayer
from gemma_mlx.spec import DecoderSpec, LayerSpec
from gemma_mlx.weights.names import TEXT, Names

NAMES: Names = TEXT


def read(config: Config) -> DecoderSpec:
    """config.json -> specs."""
    dims = Dims.read(config)
    attention = dims.attention(scale=dims.head_dim**-0.5, rope=config.ropes(local_default=None)["full_attention"])
    config.finish()
    return dims.decoder([LayerSpec(attention=attention, mlp_dim=dims.mlp_dim)] * dims.layers)


def build(spec: DecoderSpec) -> Decoder:
    """Specs -> model; the second norm of a layer is named after the attention it follows."""
    return Decoder(spec, partial(PreNormLayer, mlp_norm="post_attention_layernorm"))
