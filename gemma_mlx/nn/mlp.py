"""The gated feed-forward block of every Gemma."""

from __future__ import annotations

from functools import partial
from statistics import NormalDist

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float


@partial(mx.compile, shapeless=True)
def gelu_gate(gate: mx.array, up: mx.array) -> mx.array:
    """gelu(gate)·up with the tanh form of GELU, fused into one kernel."""
    inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)  # sqrt(2 / pi)
    return 0.5 * gate * (1 + mx.tanh(inner)) * up


@partial(mx.compile, shapeless=True)
def sparse_gelu_gate(gate: mx.array, up: mx.array, deviations: float) -> mx.array:
    """`gelu_gate` of what a gate exceeds its own mean by, less `deviations` of its standard deviations; 0 below that.

    Mean and deviation are those of each position, over the whole width, in float32.
    """
    exact = gate.astype(mx.float32)
    above = exact - exact.mean(axis=-1, keepdims=True)
    cut = mx.sqrt(mx.square(above).mean(axis=-1, keepdims=True)) * deviations
    kept: mx.array = gelu_gate(mx.maximum(above - cut, 0).astype(gate.dtype), up)
    return kept


class GeGLU(nn.Module):
    """down(gelu(gate(x)) · up(x)); none of the three has a bias, except in RecurrentGemma.

    Args:
        dim: width of the residual stream.
        hidden: width of gate and up.
        sparsity: the fraction of the gate that is cut to 0, were it normally distributed; 0 cuts none (Gemma 3n).
        bias: whether the three have biases.
    """

    def __init__(self, dim: int, hidden: int, sparsity: float = 0.0, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=bias)
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)
        self._gate = partial(sparse_gelu_gate, deviations=NormalDist().inv_cdf(sparsity)) if sparsity else gelu_gate

    def __call__(self, x: Float[mx.array, "B L dim"]) -> Float[mx.array, "B L dim"]:
        """Feeds each position forward on its own."""
        return self.down_proj(self._gate(self.gate_proj(x), self.up_proj(x)))
