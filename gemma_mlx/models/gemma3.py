"""Gemma 3 with eyes (4B, 12B, 27B): for now its decoder, which is gemma3_text under another prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gemma_mlx.config import Config
from gemma_mlx.models import gemma3_text
from gemma_mlx.models.gemma3_text import build
from gemma_mlx.models.wrapped import PICTURES, read_text
from gemma_mlx.spec import DecoderSpec
from gemma_mlx.weights.names import GEMMA3_WITH_HEAD, Names

__all__ = ["NAMES", "build", "read"]

NAMES: Names = GEMMA3_WITH_HEAD

# Published files state only what differs from these values of transformers' Gemma3TextConfig.
TEXT_DEFAULTS: Final[Mapping[str, Any]] = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
    "rope_theta": 1_000_000.0,
}


def read(config: Config) -> DecoderSpec:
    """config.json -> specs of the decoder."""
    return read_text(config, gemma3_text.read, PICTURES, defaults=TEXT_DEFAULTS)
