"""What a linear map reads, as far as rounding it is concerned: sums of products of its inputs, X'X.

The squared error of a map's outputs is the trace of D X'X D', where D is what rounding changed. Of wide inputs, parts
are looked at on their own: products of columns that are further apart are left out, which bounds memory and time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, cast

import mlx.core as mx
from jaxtyping import Float, Integer

# The widest matrix of products: four of them, which is what solving takes, are 1.1 GB.
MOST_COLUMNS: Final = 8192
# A part begins where a group of any size does.
_STEP: Final = 128


@dataclass
class Gram:
    """Sums over the inputs of one map.

    Attributes:
        parts: X'X of each part of the columns, [columns columns] in float32.
        rows: inputs that were added.
    """

    parts: list[mx.array]
    rows: int = 0

    @classmethod
    def empty(cls, columns: int) -> Gram:
        """Of inputs of `columns` numbers, none of which was read yet."""
        return cls([mx.zeros((stop - start, stop - start)) for start, stop in spans(columns)])

    def add(self, x: Float[mx.array, "N columns"]) -> None:
        """Adds inputs, and computes."""
        for index, (start, stop) in enumerate(spans(x.shape[1])):
            part = x[:, start:stop]
            self.parts[index] = self.parts[index] + part.T @ part
        mx.eval(self.parts)
        self.rows += x.shape[0]

    def squares(self) -> Float[mx.array, " columns"]:
        """The mean square of each column."""
        return mx.concatenate([mx.diag(part) for part in self.parts]) / max(self.rows, 1)

    def counts(self) -> Float[mx.array, " columns"]:
        """How much an error in each column counts, 1 on average; one that was never read counts a little."""
        squares = self.squares()
        mean = mx.maximum(squares.mean(), mx.array(1e-30))
        return squares / mean + 1e-4

    def error(self, change: Float[mx.array, "R columns"]) -> mx.array:
        """The squared error of all outputs when the map is changed by this."""
        total = mx.array(0.0)
        for part, (start, stop) in zip(self.parts, spans(change.shape[1]), strict=True):
            some = change[:, start:stop]
            total = total + ((some @ part) * some).sum()
        return total


def spans(columns: int) -> list[tuple[int, int]]:
    """(start, stop) of the parts that so many columns are looked at in, as wide as each other where they can be."""
    count = -(-columns // MOST_COLUMNS)
    width = -(-columns // (count * _STEP)) * _STEP
    return [(start, min(start + width, columns)) for start in range(0, columns, width)]


def chosen_rows(
    x: mx.array, experts: Integer[mx.array, "*axes"], wanted: range
) -> dict[int, Float[mx.array, "N columns"]]:
    """The inputs of each wanted expert, as `ExpertLinear` is given them: [*axes 1 columns], or shared by experts."""
    flat = experts.reshape(-1)
    shared = mx.broadcast_to(x, (*experts.shape, *x.shape[-2:])).reshape(flat.size, x.shape[-1]).astype(mx.float32)
    ids: list[int] = cast(list[int], flat.tolist())
    places: dict[int, list[int]] = {expert: [] for expert in wanted}
    for place, expert in enumerate(ids):
        if expert in places:
            places[expert].append(place)
    return {expert: shared[mx.array(some)] for expert, some in places.items() if some}


def gram_bytes(columns: int) -> int:
    """Bytes of the products of so many columns."""
    return sum(4 * math.prod((stop - start, stop - start)) for start, stop in spans(columns))
