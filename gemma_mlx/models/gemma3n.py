"""Gemma 3n with eyes and ears: for now its decoder, which is gemma3n_text under another prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gemma_mlx.config import Config
from gemma_mlx.models import gemma3n_text
from gemma_mlx.models.gemma3n_text import build
from gemma_mlx.spec import DecoderSpec
from gemma_mlx.weights.names import GEMMA3N, Names

__all__ = ["NAMES", "build", "read"]

NAMES: Names = GEMMA3N

# Keys beside `text_config` that do not reach the decoder, and why.
BESIDE_TEXT: Final[Mapping[str, str]] = dict.fromkeys(
    (
        "vision_config", "audio_config", "boi_token_id", "eoi_token_id", "image_token_id", "boa_token_id",
        "eoa_token_id", "audio_token_id", "vision_soft_tokens_per_image", "audio_soft_tokens_per_image",
    ),
    "pictures and sound are not read by this version",
) | dict.fromkeys(("hidden_size", "vocab_size", "tie_word_embeddings"), "repeated from text_config")  # fmt: skip


def read(config: Config) -> DecoderSpec:
    """config.json -> specs of the decoder."""
    spec = gemma3n_text.read(config.section("text_config"))
    config.finish(BESIDE_TEXT)
    return spec
