"""A budget of bytes -> how each matrix is packed, for the least loss that is predicted.

Every matrix can be packed in several ways, each with its bytes and its loss. Of these only the corners of the convex
hull are worth having; from the smallest of each matrix on, the step that saves the most loss for a byte is taken as
long as it fits. But for the last steps, which may leave a few bytes over, nothing is better. The same question always
has the same answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from gemma_mlx.weights.quantized import Quantization


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to pack a matrix.

    Attributes:
        how: it is packed.
        nbytes: written of it.
        loss: what the model loses by it, in nats for each token.
    """

    how: Quantization
    nbytes: int
    loss: float


def least(matrices: Sequence[Sequence[Option]]) -> int:
    """Bytes below which there is no way to pack them."""
    return sum(min(option.nbytes for option in options) for options in matrices)


def allocate(matrices: Sequence[Sequence[Option]], most: int) -> tuple[Option, ...]:
    """One option for each matrix, together of no more than `most` bytes, with the least loss.

    Args:
        matrices: the options of each.
        most: bytes, at least `least(matrices)`.
    """
    hulls = [_hull(options) for options in matrices]
    taken = [0] * len(hulls)
    left = most - sum(hull[0].nbytes for hull in hulls)
    assert left >= 0, "less than the least"
    steps = [(-_gain(hull, 0), index) for index, hull in enumerate(hulls) if len(hull) > 1]
    heapq.heapify(steps)
    while steps:
        _, index = heapq.heappop(steps)
        hull, at = hulls[index], taken[index]
        price = hull[at + 1].nbytes - hull[at].nbytes
        if price > left:
            continue  # what comes after it on this hull is larger still
        taken[index], left = at + 1, left - price
        if at + 2 < len(hull):
            heapq.heappush(steps, (-_gain(hull, at + 1), index))
    return tuple(hull[at] for hull, at in zip(hulls, taken, strict=True))


def _gain(hull: Sequence[Option], at: int) -> float:
    """Loss saved for each byte of the next step."""
    here, there = hull[at], hull[at + 1]
    return (here.loss - there.loss) / (there.nbytes - here.nbytes)


def _hull(options: Sequence[Option]) -> list[Option]:
    """Those from which on every step saves more loss for a byte than the next, smallest first."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda each: (each.nbytes, each.loss)):
        if hull and option.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _gain([hull[-1], option], 0) >= _gain(hull, len(hull) - 2):
            hull.pop()
        hull.append(option)
    return hull
