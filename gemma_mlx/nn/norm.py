"""RMS norm: with the weight stored as it is (Gemma 3n, 4) or less 1 (up to Gemma 3), and without a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float


class RMSNorm(nn.Module):
    """y = x · rsqrt(mean(x²) + eps) · weight, computed in float32.

    Checkpoints of Gemma 1, 2, 3 and VaultGemma store weight - 1, later ones the weight. `stored_offset` (spec
    `norm_offset`) is added once while loading, in float32, so that no step adds it again in every layer and 1 + w is
    not rounded twice.
    """

    def __init__(self, dim: int, eps: float, stored_offset: float) -> None:
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


@dataclass(frozen=True, kw_only=True)
class Norms:
    """The norms of one network; components are given it and make theirs.

    Attributes:
        eps: of all of them.
        stored_offset: as `RMSNorm` has it.
    """

    eps: float
    stored_offset: float

    def __call__(self, dim: int) -> RMSNorm:
        """A norm of `dim` with a weight."""
        return RMSNorm(dim, self.eps, self.stored_offset)

    def bare(self) -> Callable[[mx.array], mx.array]:
        """A norm without a weight."""
        return partial(mx.fast.rms_norm, weight=None, eps=self.eps)


def identity(x: mx.array) -> mx.array:
    """Stands where a block has no norm or no cap."""
    return x
