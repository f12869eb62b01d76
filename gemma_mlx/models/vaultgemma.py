"""VaultGemma: Gemma 2 without the norms behind attention and feed-forward."""

from __future__ import annotations

from functools import partial

from gemma_mlx.models.gemma2 import NAMES, read
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.nn.layer import PreNormLayer
from gemma_mlx.spec import DecoderSpec

__all__ = ["NAMES", "build", "read"]


def build(spec: DecoderSpec) -> Decoder:
    """Specs -> model."""
    return Decoder(spec, partial(PreNormLayer, mlp_norm="pre_feedforward_layernorm"))
