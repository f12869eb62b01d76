"""Grouped-query attention, with a fused kernel where the scores need no cap.

heads H = 4, kv heads K = 2:     q0 q1   q2 q3
                                  \\ /     \\ /
                                  k0v0    k1v1
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from gemma_mlx.nn.mask import Mask
from gemma_mlx.nn.norm import RMSNorm, identity
from gemma_mlx.nn.softcap import softcap
from gemma_mlx.spec import AttentionSpec


class LayerCache(Protocol):
    """What attention needs of a cache: where it stands, and the keys and values to look at."""

    offset: int

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends [B K L D] and returns what the queries may see, [B K S D]."""
        ...


class Attention(nn.Module):
    """One attention block, as its spec says."""

    def __init__(self, dim: int, spec: AttentionSpec, eps: float) -> None:
        super().__init__()
        width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        self.q_proj = nn.Linear(dim, width, bias=spec.bias)
        self.k_proj = nn.Linear(dim, kv_width, bias=spec.bias)
        self.v_proj = nn.Linear(dim, kv_width, bias=spec.bias)
        self.o_proj = nn.Linear(width, dim, bias=spec.bias)
        self.q_norm: Callable[[mx.array], mx.array] = RMSNorm(spec.head_dim, eps) if spec.qk_norm else identity
        self.k_norm: Callable[[mx.array], mx.array] = RMSNorm(spec.head_dim, eps) if spec.qk_norm else identity
        self._heads, self._kv_heads, self._head_dim = spec.heads, spec.kv_heads, spec.head_dim
        self._rope = partial(
            mx.fast.rope, dims=spec.head_dim, traditional=False, base=spec.rope.theta, scale=spec.rope.scale
        )
        self._attend = (
            partial(mx.fast.scaled_dot_product_attention, scale=spec.scale)
            if spec.softcap is None
            else partial(_capped_attention, scale=spec.scale, cap=spec.softcap)
        )

    def __call__(self, x: Float[mx.array, "B L dim"], mask: Mask, cache: LayerCache) -> Float[mx.array, "B L dim"]:
        """Attends from each of the L positions to the keys in the cache and to each other."""
        B, L, _ = x.shape
        offset = cache.offset
        q = self.q_norm(self.q_proj(x).reshape(B, L, self._heads, self._head_dim)).swapaxes(1, 2)  # [B H L D]
        k = self.k_norm(self.k_proj(x).reshape(B, L, self._kv_heads, self._head_dim)).swapaxes(1, 2)  # [B K L D]
        v = self.v_proj(x).reshape(B, L, self._kv_heads, self._head_dim).swapaxes(1, 2)  # [B K L D]
        keys, values = cache.update(self._rope(k, offset=offset), v)  # [B K S D]
        out = self._attend(self._rope(q, offset=offset), keys, values, mask=mask)  # [B H L D]
        return self.o_proj(out.swapaxes(1, 2).reshape(B, L, -1))


def _capped_attention(
    q: Float[mx.array, "B H L D"],
    k: Float[mx.array, "B K S D"],
    v: Float[mx.array, "B K S D"],
    *,
    scale: float,
    cap: float,
    mask: mx.array | None,
) -> Float[mx.array, "B H L D"]:
    """Attention whose scores are capped after the scale and before the mask; no fused kernel does that."""
    B, H, L, D = q.shape
    K = k.shape[1]
    scores = softcap((q * scale).reshape(B, K, H // K, L, D) @ k[:, :, None].swapaxes(-1, -2), cap)  # [B K H/K L S]
    if mask is not None:
        mask = mask[:, :, None] if mask.ndim == 4 else mask  # [B 1 1 L S] or [L S]
        scores = mx.where(mask, scores, mx.array(mx.finfo(scores.dtype).min, scores.dtype))
    return (mx.softmax(scores, axis=-1, precise=True) @ v[:, :, None]).reshape(B, H, L, D)
