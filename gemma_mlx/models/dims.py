"""The sizes every text decoder states, read and checked once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gemma_mlx.config import Config
from gemma_mlx.errors import ConfigError, UnsupportedModelError
from gemma_mlx.spec import DecoderSpec, LayerSpec, RecurrentLayerSpec


@dataclass(frozen=True, kw_only=True)
class Dims:
    """Config keys with the names of the specs. The bounds are some 8 times the largest Gemma."""

    vocab: int
    dim: int
    mlp_dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm_eps: float
    attention_bias: bool
    tied_head: bool
    logit_softcap: float | None

    @classmethod
    def read(cls, config: Config) -> Dims:
        """Reads the sizes.

        Raises:
            ConfigError: one is missing or out of range, or the heads cannot share the kv heads.
            UnsupportedModelError: the checkpoint is an encoder (`use_bidirectional_attention`).
        """
        config.tanh_gelu()
        if config.flag("use_bidirectional_attention", False):
            raise UnsupportedModelError(
                "This checkpoint attends in both directions: it is an embedding model, which this version cannot run.",
                "Chat needs a model that writes text, such as a Gemma 3 -it checkpoint.",
            )
        dims = cls(
            vocab=config.integer("vocab_size", high=1 << 21),
            dim=config.integer("hidden_size", high=1 << 16),
            mlp_dim=config.integer("intermediate_size", high=1 << 19),
            layers=config.integer("num_hidden_layers", high=512),
            heads=config.integer("num_attention_heads", high=512),
            kv_heads=config.integer("num_key_value_heads", high=512),
            head_dim=config.integer("head_dim", high=2048, multiple=2),
            context=config.integer("max_position_embeddings", high=1 << 24),
            norm_eps=config.number("rms_norm_eps", 1e-6, high=0.1),
            attention_bias=config.flag("attention_bias", False),
            tied_head=config.flag("tie_word_embeddings", True),
            logit_softcap=config.optional_number("final_logit_softcapping"),
        )
        if dims.heads % dims.kv_heads:
            raise ConfigError(
                f"config.json: {dims.heads} attention heads cannot share {dims.kv_heads} key-value heads evenly.",
                "Fetch config.json again, or undo the edit.",
            )
        return dims

    def decoder(self, layers: Sequence[LayerSpec | RecurrentLayerSpec]) -> DecoderSpec:
        """The spec of a decoder of these sizes."""
        return DecoderSpec(
            vocab=self.vocab,
            dim=self.dim,
            layers=tuple(layers),
            context=self.context,
            embed_scale=math.sqrt(self.dim),
            norm_eps=self.norm_eps,
            logit_softcap=self.logit_softcap,
            tied_head=self.tied_head,
        )
