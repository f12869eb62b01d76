"""The gated feed-forward block of every Gemma."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float


@partial(mx.compile, shapeless=True)
def gelu_gate(gate: mx.array, up: mx.array) -> mx.array:
    """gelu(gate)·up with the tanh form of GELU, fused into one kernel."""
    inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)  # sqrt(2 / pi)
    return 0.5 * gate * (1 + mx.tanh(inner)) * up


class GeGLU(nn.Module):
    """down(gelu(gate(x)) · up(x)); the three have no bias, except in RecurrentGemma."""

    def __init__(self, dim: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=bias)
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)

    def __call__(self, x: Float[mx.array, "B L dim"]) -> Float[mx.array, "B L dim"]:
        """Feeds each position forward on its own."""
        return self.down_proj(gelu_gate(self.gate_proj(x), self.up_proj(x)))
