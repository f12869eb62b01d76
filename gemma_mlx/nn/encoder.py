"""An encoder, assembled from its spec: embed, layers that see both ways, norm, the mean, linear maps."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float, Integer

from gemma_mlx.cache.none import NoCache
from gemma_mlx.nn.decoder import Backbone, Layer
from gemma_mlx.nn.mask import both_ways_mask
from gemma_mlx.spec import EncoderSpec


class Encoder(nn.Module):
    """Token ids -> one vector for each row.

    Args:
        spec: every number of the network.
        layer: builds one layer from (dim, spec, norms).
    """

    def __init__(self, spec: EncoderSpec, layer: Layer) -> None:
        super().__init__()
        self.model = Backbone(spec, layer)
        self.dense = [nn.Linear(dense.inputs, dense.outputs, bias=dense.bias) for dense in spec.dense]
        self._spec = spec
        self._dtype = mx.float32

    @property
    def spec(self) -> EncoderSpec:
        """The specs this model was built from."""
        return self._spec

    def __call__(
        self, tokens: Integer[mx.array, "B L"], lengths: Integer[mx.array, " B"] | None = None
    ) -> Float[mx.array, "B N"]:
        """Rows of tokens -> float32 vectors, not normalised.

        Args:
            tokens: ids, padded on the right with any.
            lengths: tokens in each row; None where no row is padded.
        """
        hidden = self.hidden(tokens, lengths).astype(mx.float32)  # [B L dim]
        if lengths is None:
            x = hidden.mean(axis=1)
        else:
            counted = mx.arange(tokens.shape[1]) < lengths[:, None]  # [B L]
            x = mx.where(counted[..., None], hidden, 0.0).sum(axis=1) / lengths[:, None]
        for dense in self.dense:
            x = dense(x)
        return x

    def hidden(
        self, tokens: Integer[mx.array, "B L"], lengths: Integer[mx.array, " B"] | None
    ) -> Float[mx.array, "B L dim"]:
        """What leaves the last norm; arguments as `__call__` has them."""
        x = self.model.embed_tokens(tokens).astype(self._dtype) * mx.array(self._spec.embed_scale, self._dtype)
        reaches = self._spec.reaches
        masks = {reach: both_ways_mask(tokens.shape[1], *reach, lengths) for reach in set(reaches)}
        cache = NoCache()
        for layer, reach, extra in zip(self.model.layers, reaches, self.extras(x), strict=False):
            x = layer(x, masks[reach], cache, *extra)
        return self.model.norm(x)

    def extras(self, x: Float[mx.array, "B L dim"]) -> Iterable[tuple[Any, ...]]:  # noqa: ARG002
        """What each layer is given besides, made of the embeddings: nothing here."""
        return repeat(())

    def set_compute_dtype(self, dtype: mx.Dtype) -> None:
        """The dtype of the residual stream; the weights loader sets it with the weights'."""
        self._dtype = dtype
