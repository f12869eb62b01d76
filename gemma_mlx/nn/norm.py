"""RMS norm as the Gemmas up to 3 use it."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float


class RMSNorm(nn.Module):
    """y = x · rsqrt(mean(x²) + eps) · weight, computed in float32.

    Checkpoints of Gemma 1, 2, 3 and VaultGemma store weight - 1. `stored_offset` is added once while loading, in
    float32, so that no step adds it again in every layer and 1 + w is not rounded twice.
    """

    def __init__(self, dim: int, eps: float, stored_offset: float = 1.0) -> None:
        super().__init__()
        self.weight = mx.ones((dim,))
        self._eps = eps
        self._stored_offset = stored_offset

    def __call__(self, x: Float[mx.array, "*axes dim"]) -> Float[mx.array, "*axes dim"]:
        """Normalises the last axis."""
        return mx.fast.rms_norm(x, self.weight, self._eps)

    def from_stored(self, tensor: mx.array) -> mx.array:
        """The weight from what a checkpoint holds; the loader calls it."""
        return tensor.astype(mx.float32) + self._stored_offset

    def to_stored(self, weight: mx.array) -> mx.array:
        """What a checkpoint holds for the weight."""
        return weight.astype(mx.float32) - self._stored_offset


def identity(x: mx.array) -> mx.array:
    """Stands where a block has no norm or no cap."""
    return x
