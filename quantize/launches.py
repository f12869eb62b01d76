"""Kernels of a decode step that no array of a module stands for, as tests/test_quantize_traffic.py counts in graphs."""

from __future__ import annotations

from typing import Final

from gemma_mlx.spec import (
    AttentionSpec,
    DecoderSpec,
    DrafterSpec,
    EncoderDecoderSpec,
    LayerSpec,
    RecurrentLayerSpec,
    StackSpec,
)

_SAMPLING: Final = 5
LOOKED_UP: Final = 4  # a row of a packed table: codes, scales, biases, and their product
_FUSED: Final = 1  # attention
_CAPPED: Final = 5  # attention with capped scores: q·scale, ·k, the cap, softmax, ·v
_ROTATION: Final = 1  # of queries, and of keys
_WRITE: Final = 1  # of keys, and of values, into the cache
_RESIDUAL: Final = 1
_GELU: Final = 2  # gelu(gate)·up, as MLX compiles it
_EXPERTS: Final = 15  # the choice of experts, their weights, their gate, the sum
_PER_LAYER: Final = 3  # a per-layer embedding's gate, and its sum
_PER_LAYERS: Final = 5  # before all layers: the tokens' part and the projected part, scaled and summed
_SPARSITY: Final = 4  # mean, deviation and cut of a gate
_ALTUP: Final = 8
_STREAMS: Final = 9  # streams made before all layers, and joined behind
_CAP: Final = 1  # of the logits
_RECURRENCE: Final = 1
_MERGED: Final = 8  # one softmax over own keys and an encoder's: scaled, two products twice, joined, softmax, summed
_UNSCALED: Final = 2  # the token whose embedding stands apart
_DRAFTED: Final = 2  # a draft: what is joined before it, and the choice of its token
_ORDERED: Final = 9  # the nearest centroids, their tokens, the logits of these among those of all


def once(spec: StackSpec) -> int:
    """Kernels outside the layers, and of what all layers have alike, that no module's array stands for."""
    count = len(spec.layers)
    per_layers = _PER_LAYERS + count * _PER_LAYER if spec.per_layer else 0
    if not isinstance(spec, DecoderSpec):
        return per_layers
    if isinstance(spec, DrafterSpec):
        return _DRAFTED + (_ORDERED if spec.ordered else 0)
    apart = isinstance(spec, EncoderDecoderSpec) and spec.unscaled_token is not None
    return (
        (_UNSCALED if apart else 0)
        + _SAMPLING
        + (_CAP if spec.logit_softcap else 0)
        + per_layers
        + (_STREAMS + count * _ALTUP if spec.altup else 0)
    )


def each(layer: LayerSpec | RecurrentLayerSpec) -> int:
    """Kernels of one layer that no module's array stands for."""
    around = 2 * _RESIDUAL + _GELU
    if isinstance(layer, LayerSpec) and layer.cross is not None:
        around += _RESIDUAL + _attention(layer.cross)
    if isinstance(layer, RecurrentLayerSpec):
        return around + _RECURRENCE
    attention = layer.attention
    own = 2 if layer.borrows_from is None else 1
    return (
        around
        + own * _ROTATION
        + (2 * _WRITE if own == 2 else 0)
        + (_MERGED if attention.merged else _attention(attention))
        + (1 if attention.v_norm and own == 2 else 0)
        + (_EXPERTS if layer.experts else 0)
        + (_SPARSITY if layer.sparsity else 0)
    )


def _attention(attention: AttentionSpec) -> int:
    return _FUSED if attention.softcap is None else _CAPPED
