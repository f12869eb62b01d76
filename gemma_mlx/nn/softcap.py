"""c·tanh(x / c): Gemma 2 caps its attention scores and its logits with it."""

from __future__ import annotations

from functools import partial

import mlx.core as mx


@partial(mx.compile, shapeless=True)
def _capped(x: mx.array, cap: mx.array) -> mx.array:
    return mx.tanh(x / cap) * cap


def softcap(x: mx.array, cap: float) -> mx.array:
    """c·tanh(x / c), element by element, in the dtype of x."""
    return _capped(x, mx.array(cap, x.dtype))
