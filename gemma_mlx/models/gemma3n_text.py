"""Gemma 3n's decoder: four residual streams (AltUp), a low-rank branch beside attention (LAuReL), sparse gates.

Its per-layer embeddings, its borrowed keys and values and its bare-normed values came back in Gemma 4. Sizes between
E2B and E4B are E4B with narrower feed-forwards, so that their width is the layer's own (MatFormer).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import repeat
from typing import Final

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from gemma_mlx.cache.decoder import DecoderCache
from gemma_mlx.config import Config, LayerType
from gemma_mlx.models.dims import Dims, borrowed_from
from gemma_mlx.nn.altup import AltUp, match_magnitude
from gemma_mlx.nn.attention import Source
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.nn.layer import SandwichLayer
from gemma_mlx.nn.mask import Mask
from gemma_mlx.nn.norm import Norms
from gemma_mlx.nn.per_layer import PerLayerDecoder, PerLayerInput
from gemma_mlx.spec import AltUpSpec, DecoderSpec, LayerSpec, PerLayerSpec
from gemma_mlx.weights.names import TEXT, Names

NAMES: Names = TEXT

# Keys of config.json that do not change what the decoder computes, and why.
IGNORED: Final = {
    "altup_coef_clip": "bounds coefficients while they are trained",
    "altup_lr_multiplier": "training only; in the first files, and since dropped",
    "query_pre_attn_scalar": "in the first files; scores are not scaled, whatever it says",
}


class Laurel(nn.Module):
    """norm(right(left(x))), a learned branch of low rank beside the residual (LAuReL, arXiv:2411.07501)."""

    def __init__(self, dim: int, rank: int, norms: Norms) -> None:
        super().__init__()
        self.linear_left = nn.Linear(dim, rank, bias=False)
        self.linear_right = nn.Linear(rank, dim, bias=False)
        self.post_laurel_norm = norms(dim)

    def __call__(self, x: Float[mx.array, "B L dim"]) -> Float[mx.array, "B L dim"]:
        """What the branch adds; the layer adds x itself with the rest."""
        return self.post_laurel_norm(self.linear_right(self.linear_left(x)))


class AltUpLayer(SandwichLayer, PerLayerInput):
    """A sandwich layer over the active stream, with LAuReL beside its attention; its embedding goes to the others."""

    def __init__(self, dim: int, spec: LayerSpec, norms: Norms, *, altup: AltUpSpec, per_layer_dim: int) -> None:
        super().__init__(dim, spec, norms)
        assert spec.laurel_rank is not None
        self.altup = AltUp(dim, altup, norms)
        self.laurel = Laurel(dim, spec.laurel_rank, norms)
        self.add_per_layer_input(dim, per_layer_dim, norms)

    def __call__(  # type: ignore[override]
        self, streams: Float[mx.array, "B L n dim"], mask: Mask, cache: Source, embedding: Float[mx.array, "B L p"]
    ) -> Float[mx.array, "B L n dim"]:
        """The streams behind this layer."""
        predicted, active = self.altup.predict(streams)
        x = self.input_layernorm(active)
        attended = self.post_attention_layernorm(self.self_attn(x, mask, cache))
        h = _over_root_2(active, attended, x, self.laurel(x))
        computed = h + self.post_feedforward_layernorm(self.feed_forward(h))
        return self.altup.correct(
            predicted, active, computed, lambda corrected: self.per_layer_input(corrected, embedding)
        )


@partial(mx.compile, shapeless=True)
def _over_root_2(first: mx.array, *others: mx.array) -> mx.array:
    """Their sum over the root of 2, in float32 and rounded once."""
    total = first.astype(mx.float32)
    for other in others:
        total = total + other.astype(mx.float32)
    return (total * 2**-0.5).astype(first.dtype)


class AltUpDecoder(PerLayerDecoder):
    """A decoder whose layers pass on several streams, made from the embeddings and averaged behind the last layer."""

    def __init__(self, spec: DecoderSpec, altup: AltUpSpec, per_layer: PerLayerSpec) -> None:
        super().__init__(spec, per_layer, partial(AltUpLayer, altup=altup, per_layer_dim=per_layer.dim))
        for name in ("altup_projections", "altup_unembed_projections"):
            self.model[name] = [nn.Linear(spec.dim, spec.dim, bias=False) for _ in range(1, altup.streams)]

    def run(
        self,
        x: Float[mx.array, "B L dim"],
        cache: DecoderCache | None,
        last: int | None,
        extras: Iterable[tuple[mx.array, ...]] = repeat(()),
    ) -> Float[mx.array, "B N dim"]:
        """Through all layers, as n streams between the first and the last."""
        projected = [projection(x) for projection in self.model.altup_projections]
        streams = super().run(_alike(x, projected), cache, last, extras)  # [B N n dim]
        projections = enumerate(self.model.altup_unembed_projections, 1)
        projected = [projection(streams[:, :, index]) for index, projection in projections]
        return _alike(streams[:, :, 0], projected).mean(axis=2)


def _alike(first: Float[mx.array, "B L dim"], others: list[mx.array]) -> Float[mx.array, "B L n dim"]:
    """Streams, the others scaled to the magnitude of the first."""
    first = first[:, :, None]
    return mx.concatenate([first, match_magnitude(mx.stack(others, axis=2), first)], axis=2)


def read(config: Config) -> DecoderSpec:
    """config.json -> specs."""
    count = config.integer("num_hidden_layers", high=512)
    mlp_dims = config.each_layer("intermediate_size", count, lambda one, key: one.integer(key, high=1 << 19))
    dims = Dims.read(config, mlp_dim=max(mlp_dims))
    window = config.integer("sliding_window", high=1 << 24)
    kinds = config.layer_types(dims.layers, default_pattern=5)
    ropes = config.ropes(local_default=10_000.0)
    lenders = borrowed_from(kinds, config.count("num_kv_shared_layers", high=dims.layers - 1))
    sparsities = _sparsities(config, dims.layers)
    laurel_rank = config.integer("laurel_rank", high=1 << 14)

    def layer(index: int, kind: LayerType) -> LayerSpec:
        return LayerSpec(
            attention=dims.attention(
                scale=1.0,
                rope=ropes[kind],
                window=window if kind == "sliding_attention" else None,
                qk_norm=True,
                v_norm=True,
            ),
            mlp_dim=mlp_dims[index],
            borrows_from=lenders[index],
            sparsity=sparsities[index],
            laurel_rank=laurel_rank,
        )

    spec = dims.decoder(
        [layer(index, kind) for index, kind in enumerate(kinds)],
        norm_offset=0.0,
        per_layer=PerLayerSpec(
            vocab=config.integer("vocab_size_per_layer_input", high=1 << 21),
            dim=config.integer("hidden_size_per_layer_input", high=1 << 14),
        ),
        altup=_altup(config),
    )
    config.finish(IGNORED)
    return spec


def _sparsities(config: Config, layers: int) -> tuple[float, ...]:
    """What each layer's gate is cut by; where no key says it, the first ten layers are, if there are more."""
    key = "activation_sparsity_pattern"
    if config.raw(key, None) is None:
        sparse = 10 if layers > 10 else 0
        return (0.95,) * sparse + (0.0,) * (layers - sparse)
    return config.each_layer(key, layers, lambda one, key: one.number(key, high=0.9999) if one.raw(key) else 0.0)


def _altup(config: Config) -> AltUpSpec:
    streams = config.integer("altup_num_inputs", low=2, high=64)
    return AltUpSpec(
        streams=streams,
        active=config.count("altup_active_idx", high=streams - 1),
        scaled=config.flag("altup_correct_scale", True),
    )


def build(spec: DecoderSpec) -> Decoder:
    """Specs -> model."""
    assert spec.altup is not None
    assert spec.per_layer is not None
    return AltUpDecoder(spec, spec.altup, spec.per_layer)
