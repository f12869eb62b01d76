"""Griffin's recurrent block: a short causal convolution and a linear recurrence with gates (arXiv 2402.19427).

x ─┬─ linear_y ─ gelu ─────────┐
   │                           × ─ linear_out
   └─ linear_x ─ conv ─ lru ───┘
"""

from __future__ import annotations

from functools import partial
from typing import Final

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float, Integer

from gemma_mlx.cache.recurrent import RecurrentCache
from gemma_mlx.nn.mlp import gelu_gate
from gemma_mlx.spec import RecurrenceSpec

SHARPNESS: Final = 8.0  # c in a_t = a^(c·r_t), section 2.4 of the paper; a = exp(-softplus(recurrent_param))


class RecurrentBlock(nn.Module):
    """Mixes over time where other layers attend, in constant memory."""

    def __init__(self, dim: int, spec: RecurrenceSpec) -> None:
        super().__init__()
        self.linear_y = nn.Linear(dim, spec.width)
        self.linear_x = nn.Linear(dim, spec.width)
        self.linear_out = nn.Linear(spec.width, dim)
        self.conv_1d = CausalConv(spec.width, spec.taps)
        self.rg_lru = GatedRecurrence(spec.width, spec.heads)

    def __call__(
        self,
        x: Float[mx.array, "B L dim"],
        positions: Integer[mx.array, "#B L"] | None,
        cache: RecurrentCache,
    ) -> Float[mx.array, "B L dim"]:
        """Reads L tokens on from where the cache stands.

        Args:
            x: normalised.
            positions: 0 where the text begins, below 0 for padding; None where there is neither (`text_positions`).
            cache: moved on by L.
        """
        u = self.linear_x(x)
        if positions is not None:
            # Before a text that begins here the convolution sees zeros, and so it does behind padding.
            u = mx.where((positions >= 0)[..., None], u, mx.array(0, u.dtype))
        u, inputs = self.conv_1d(u, cache.inputs)
        h, state = self.rg_lru(u, positions, cache.state)
        cache.update(x.shape[1], inputs, state)
        return self.linear_out(gelu_gate(self.linear_y(x), h))


class CausalConv(nn.Module):
    """Each channel on its own: a weighted sum over the last `taps` positions.

    The weight is kept as checkpoints have it, [width 1 taps].
    """

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.weight = mx.zeros((width, 1, taps))
        self.bias = mx.zeros((width,))

    def __call__(
        self, u: Float[mx.array, "B L width"], before: Float[mx.array, "B before width"] | None
    ) -> tuple[Float[mx.array, "B L width"], Float[mx.array, "B before width"]]:
        """Returns the sums, and the inputs that the next call needs as `before`; None stands for zeros."""
        B, L, width = u.shape
        taps = self.weight.shape[2]
        if before is None:
            before = mx.zeros((B, taps - 1, width), u.dtype)
        inputs = mx.concatenate([before, u], axis=1)  # [B taps-1+L width]
        sums = mx.conv1d(inputs, self.weight.reshape(width, taps, 1), groups=width) + self.bias
        return sums, inputs[:, L:]


class GatedRecurrence(nn.Module):
    """h_t = a_t·h_(t-1) + sqrt(1 - a_t²)·i_t·u_t, with gates a and i that see u_t: the RG-LRU, computed in float32.

    The gates' matrices are block-diagonal, one block per head. The first token of a text counts in full and forgets
    whatever was before it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        block = width // heads
        self.recurrent_param = mx.zeros((width,))
        self.input_gate_weight = mx.zeros((heads, block, block))
        self.input_gate_bias = mx.zeros((heads, block))
        self.recurrent_gate_weight = mx.zeros((heads, block, block))
        self.recurrent_gate_bias = mx.zeros((heads, block))

    def __call__(
        self,
        u: Float[mx.array, "B L width"],
        positions: Integer[mx.array, "#B L"] | None,
        state: Float[mx.array, "B width"] | None,
    ) -> tuple[Float[mx.array, "B L width"], Float[mx.array, "B width"]]:
        """Returns h in the dtype of u, and the last h in float32: the next call's `state`; None stands for zeros."""
        B, L, width = u.shape
        blocks = u.reshape(B, L, *self.input_gate_bias.shape).swapaxes(1, 2)  # [B heads L block]
        i, r = (
            mx.addmm(bias[:, None], blocks, weight).swapaxes(1, 2).reshape(B, L, width)
            for weight, bias in (
                (self.input_gate_weight, self.input_gate_bias),
                (self.recurrent_gate_weight, self.recurrent_gate_bias),
            )
        )
        if positions is None and L == 1 and state is not None:
            h, state = _step(u[:, 0], i[:, 0], r[:, 0], self.recurrent_param, state)
            return h[:, None], state
        a, x = _gated(u, i, r, self.recurrent_param)
        if positions is not None:
            first = (positions == 0)[..., None]
            a, x = mx.where(first, 0, a), mx.where(first, u.astype(mx.float32) * mx.sigmoid(i.astype(mx.float32)), x)
        if state is not None:
            x[:, 0] += a[:, 0] * state
        h = scan(a, x)
        return h.astype(u.dtype), h[:, -1]


def scan(a: Float[mx.array, "B L width"], x: Float[mx.array, "B L width"]) -> Float[mx.array, "B L width"]:
    """h with h_t = a_t·h_(t-1) + x_t and h_(-1) = 0.

    Two steps in a row are one step of the same form, so half as many steps give every second h, and one step more gives
    those between: 2L steps of work in 2·log2(L) rounds, without a loop over time. Only products of a and sums are
    formed, no logarithms and no quotients, so that nothing overflows where a is 0 or nearly so.
    """
    L = a.shape[1]
    if L == 1:
        return x
    pairs = L // 2 * 2
    a_odd = a[:, 1::2]
    odd = scan(a[:, 0:pairs:2] * a_odd, a_odd * x[:, 0:pairs:2] + x[:, 1::2])  # h_1, h_3, ...
    even = mx.concatenate([x[:, :1], a[:, 2::2] * odd[:, : (L - 1) // 2] + x[:, 2::2]], axis=1)  # h_0, h_2, ...
    h = mx.stack([even[:, : L // 2], odd], axis=2).reshape(a.shape[0], pairs, a.shape[2])
    return h if pairs == L else mx.concatenate([h, even[:, -1:]], axis=1)


@partial(mx.compile, shapeless=True)
def _gated(u: mx.array, i: mx.array, r: mx.array, rate: mx.array) -> tuple[mx.array, mx.array]:
    """a_t, and what the step adds to the state, in float32."""
    u, i, r, rate = (array.astype(mx.float32) for array in (u, i, r, rate))
    log_a = -SHARPNESS * mx.sigmoid(r) * mx.logaddexp(rate, mx.array(0.0))
    # 1 - a² without cancellation where a is near 1, which is where trained models live
    return mx.exp(log_a), mx.sqrt(-mx.expm1(2 * log_a)) * mx.sigmoid(i) * u


@partial(mx.compile, shapeless=True)
def _step(u: mx.array, i: mx.array, r: mx.array, rate: mx.array, state: mx.array) -> tuple[mx.array, mx.array]:
    """One token, fused: h [B width] in the dtype of u and in float32."""
    a, x = _gated(u, i, r, rate)
    h = a * state + x
    return h.astype(u.dtype), h
