"""A decoder, assembled from its spec: embed, layers, norm, tied head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float, Integer

from gemma_mlx.cache.decoder import DecoderCache
from gemma_mlx.nn.mask import attention_mask
from gemma_mlx.nn.norm import RMSNorm, identity
from gemma_mlx.nn.softcap import softcap
from gemma_mlx.spec import DecoderSpec, LayerSpec

Layer = Callable[[int, LayerSpec, float], Any]


class Backbone(nn.Module):
    """The parameters under `model.` in a checkpoint."""

    def __init__(self, spec: DecoderSpec, layer: Layer) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(spec.vocab, spec.dim)
        self.layers = [layer(spec.dim, layer_spec, spec.norm_eps) for layer_spec in spec.layers]
        self.norm = RMSNorm(spec.dim, spec.norm_eps)


class Decoder(nn.Module):
    """Token ids -> logits. An engine uses `embed`, `__call__` and `make_cache`, and nothing else.

    Args:
        spec: every number of the network.
        layer: builds one layer from (dim, spec, eps).
    """

    def __init__(self, spec: DecoderSpec, layer: Layer) -> None:
        super().__init__()
        self.model = Backbone(spec, layer)
        if not spec.tied_head:
            self.lm_head = nn.Linear(spec.dim, spec.vocab, bias=False)
        self._spec = spec
        self._windows = dict.fromkeys(spec.windows)
        self._array_masks = any(attention.softcap for attention in spec.attentions)
        self._cap = partial(softcap, cap=spec.logit_softcap) if spec.logit_softcap else identity
        self._dtype = mx.float32

    @property
    def spec(self) -> DecoderSpec:
        """The specs this model was built from."""
        return self._spec

    def make_cache(self, padding: Integer[mx.array, " B"] | None = None) -> DecoderCache:
        """An empty cache; `padding` counts the columns of padding on the left of each row."""
        return DecoderCache.empty(self._spec, padding)

    def embed(self, tokens: Integer[mx.array, "B L"]) -> Float[mx.array, "B L dim"]:
        """Token ids -> scaled embeddings, in the dtype the model computes in."""
        x = self.model.embed_tokens(tokens).astype(self._dtype)
        scaled: mx.array = x * mx.array(self._spec.embed_scale, self._dtype)
        return scaled

    def __call__(
        self, x: Float[mx.array, "B L dim"], cache: DecoderCache | None = None, *, last: int | None = None
    ) -> Float[mx.array, "B N vocab"]:
        """Embeddings -> logits.

        Args:
            x: what `embed` returns.
            cache: what was read before; appended to. None for a pass of its own.
            last: return logits only for this many last positions; all where None. Without them the head is not run.
        """
        L = x.shape[1]
        cache = DecoderCache.none(self._spec) if cache is None else cache
        masks = {
            window: attention_mask(
                L, cache.keys(window, L), cache.offset, window, cache.padding, as_array=self._array_masks
            )
            for window in self._windows
        }
        for layer, window, layer_cache in zip(self.model.layers, self._spec.windows, cache.layers, strict=True):
            x = layer(x, masks[window], layer_cache)
        if last is not None:
            x = x[:, L - last :]
        return self._cap(self.head(self.model.norm(x)))

    def head(self, x: Float[mx.array, "*axes dim"]) -> Float[mx.array, "*axes vocab"]:
        """Normed hidden states -> logits, uncapped: by the embedding table, or by a table of its own."""
        logits: mx.array = self.model.embed_tokens.as_linear(x) if self._spec.tied_head else self.lm_head(x)
        return logits

    def set_compute_dtype(self, dtype: mx.Dtype) -> None:
        """The dtype of the residual stream; the weights loader sets it with the weights'."""
        self._dtype = dtype
