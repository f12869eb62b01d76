"""The small parts: norm, cap, feed-forward, and how layers put them on the residual stream."""

from __future__ import annotations

import math
from functools import partial
from statistics import NormalDist

import mlx.core as mx
import mlx.nn as nn
import pytest

from gemma_mlx.cache.none import NoCache
from gemma_mlx.nn.layer import PreNormLayer, SandwichLayer
from gemma_mlx.nn.mlp import GeGLU, gelu_gate
from gemma_mlx.nn.norm import Norms, RMSNorm
from gemma_mlx.nn.softcap import softcap
from gemma_mlx.spec import AttentionSpec, LayerSpec, Rope

SPEC = LayerSpec(attention=AttentionSpec(heads=2, kv_heads=1, head_dim=4, scale=0.5, rope=Rope(theta=10.0)), mlp_dim=12)


def close(a: mx.array, b: mx.array, tolerance: float = 1e-6) -> bool:
    return bool(mx.abs(a - b).max().item() <= tolerance)  # type: ignore[operator]


def test_norm_multiplies_by_what_is_stored_plus_one() -> None:
    norm = RMSNorm(6, 0.01, 1.0)
    stored = mx.random.normal((6,))
    norm.weight = norm.from_stored(stored)
    x = 3 * mx.random.normal((2, 5, 6))
    expected = x * mx.rsqrt((x * x).mean(-1, keepdims=True) + 0.01) * (1 + stored)
    assert close(norm(x), expected)
    assert close(norm.to_stored(norm.weight), stored)


def test_the_offset_is_added_before_it_is_rounded() -> None:
    """0.00390625 is lost when 1 + w is computed in bfloat16; the loader adds in float32."""
    weight = RMSNorm(1, 1e-6, 1.0).from_stored(mx.array([2.0**-8], mx.bfloat16))
    assert weight.dtype == mx.float32
    assert weight.item() == 1 + 2.0**-8


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_softcap(dtype: mx.Dtype) -> None:
    x = mx.array([-100.0, -3.0, 0.0, 1.0, 50.0]).astype(dtype)
    out = softcap(x, 5.0)
    assert out.dtype == dtype
    expected = [5.0 * math.tanh(float(v) / 5.0) for v in x.tolist()]  # type: ignore[union-attr, arg-type]
    assert close(out.astype(mx.float32), mx.array(expected), 1e-6 if dtype == mx.float32 else 3e-2)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_gelu_is_the_tanh_form(dtype: mx.Dtype) -> None:
    gate, up = mx.linspace(-4, 4, 41).astype(dtype), mx.full((41,), 2.0, dtype)
    out = gelu_gate(gate, up)
    assert out.dtype == dtype
    values = [float(v) for v in gate.tolist()]  # type: ignore[union-attr, arg-type]
    tanh = [v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in values]
    assert close(out.astype(mx.float32), mx.array(tanh), 2e-6 if dtype == mx.float32 else 4e-2)
    if dtype == mx.float32:
        erf = mx.array([v * (1 + math.erf(v / math.sqrt(2))) for v in values])
        assert mx.abs(out - erf).max().item() > 5e-4  # type: ignore[operator]


def test_feed_forward_gates_with_gate_proj() -> None:
    block = GeGLU(4, 12)
    x = mx.random.normal((1, 3, 4))
    expected = block.down_proj(nn.gelu_approx(block.gate_proj(x)) * block.up_proj(x))
    assert close(block(x), expected)


@pytest.mark.parametrize("sparsity", [0.3, 0.95])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_sparse_gate_is_cut_at_a_quantile_of_the_normal_distribution(sparsity: float, dtype: mx.Dtype) -> None:
    block = GeGLU(8, 4096, sparsity)
    block.set_dtype(dtype)
    x = mx.random.normal((2, 3, 8)).astype(dtype)
    gate = block.gate_proj(x).astype(mx.float32)
    mean, deviation = gate.mean(-1, keepdims=True), mx.sqrt(mx.var(gate, axis=-1, keepdims=True))
    kept = mx.maximum(gate - (mean + deviation * NormalDist().inv_cdf(sparsity)), 0)
    assert (kept == 0).mean().item() == pytest.approx(sparsity, abs=0.05)
    expected = block.down_proj((nn.gelu_approx(kept) * block.up_proj(x)).astype(dtype))
    assert block(x).dtype == dtype
    assert close(block(x).astype(mx.float32), expected.astype(mx.float32), 1e-5 if dtype == mx.float32 else 0.05)


@pytest.mark.parametrize("layer", [SandwichLayer, partial(PreNormLayer, mlp_norm="post_attention_layernorm")])
def test_layers_follow_their_formula(layer: type[nn.Module]) -> None:
    block = layer(8, SPEC, Norms(eps=1e-5, stored_offset=1.0))
    for name, module in block.named_modules():
        if isinstance(module, RMSNorm):
            module.weight = 1 + 0.3 * mx.random.normal(module.weight.shape, key=mx.random.key(hash(name) & 0xFFFF))
    x, cache = mx.random.normal((1, 5, 8)), NoCache()
    if layer is SandwichLayer:
        h = x + block.post_attention_layernorm(block.self_attn(block.input_layernorm(x), "causal", cache))
        expected = h + block.post_feedforward_layernorm(block.mlp(block.pre_feedforward_layernorm(h)))
    else:
        h = x + block.self_attn(block.input_layernorm(x), "causal", cache)
        expected = h + block.mlp(block.post_attention_layernorm(h))
    assert close(block(x, "causal", cache), expected, 1e-5)
