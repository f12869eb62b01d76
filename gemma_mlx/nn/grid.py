"""Linear maps whose activations lie on grids of 8 bits, as checkpoints that were trained so expect it."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

LOWEST, HIGHEST = -128, 127


@partial(mx.compile, shapeless=True)
def on_grid(x: Float[mx.array, "*axes dim"], step: Float[mx.array, ""]) -> Float[mx.array, "*axes dim"]:
    """Each number as the nearest whole multiple of `step`, of those from -128 to 127 times it."""
    return mx.clip(mx.round(x / step), LOWEST, HIGHEST) * step


class GridLinear(nn.QuantizedLinear):
    """A packed linear map that rounds what it reads, or what it gives, or both.

    Args:
        linear: the map.
        before: step of the grid of what it reads; None where that is not rounded.
        after: of what it gives.
        dtype: what is computed in.
    """

    def __init__(self, linear: nn.QuantizedLinear, before: float | None, after: float | None, dtype: mx.Dtype) -> None:
        nn.Module.__init__(self)
        dict.update(self, linear)  # its arrays; nn.Module's own update wants them to be here already
        self.group_size, self.bits, self.mode = linear.group_size, linear.bits, linear.mode
        self._before = None if before is None else mx.array(before, dtype)
        self._after = None if after is None else mx.array(after, dtype)

    def __call__(self, x: Float[mx.array, "*axes inputs"]) -> Float[mx.array, "*axes outputs"]:
        """[... inputs] -> [... outputs]."""
        if self._before is not None:
            x = on_grid(x, self._before)
        y: mx.array = super().__call__(x)
        return y if self._after is None else on_grid(y, self._after)
