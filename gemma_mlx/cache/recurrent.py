"""What a recurrent layer carries from one token to the next; its size does not depend on how many were read."""

from __future__ import annotations

from typing import ClassVar

import mlx.core as mx
from jaxtyping import Float

from gemma_mlx.errors import CacheError


class RecurrentCache:
    """The state behind the last token, and the last inputs of the convolution before it.

    A step overwrites the state and cannot be undone: the way back is a snapshot, which costs little here.

    Attributes:
        offset: tokens read.
        inputs: the last taps - 1 of them, [B before width]; None before the first token.
        state: [B width] in float32; None before the first token.
    """

    names: ClassVar = ("inputs", "state")  # of what `rows` returns

    def __init__(self) -> None:
        self.offset = 0
        self.inputs: mx.array | None = None
        self.state: mx.array | None = None

    def update(self, tokens: int, inputs: Float[mx.array, "B before width"], state: Float[mx.array, "B width"]) -> None:
        """Moves on by `tokens`."""
        self.offset += tokens
        # Both are the end of something longer, and must not keep the rest of a chunk in memory.
        self.inputs, self.state = (inputs, state) if tokens == 1 else (mx.contiguous(inputs), mx.contiguous(state))

    def can_rollback(self, tokens: int) -> bool:
        """Only whether nothing is to be forgotten."""
        return tokens == 0

    def rollback(self, tokens: int) -> None:
        """Forgets nothing."""
        if tokens:
            raise CacheError(
                f"{tokens} tokens cannot be taken back: the state of a recurrent layer remembers no earlier one."
            )

    def snapshot(self) -> tuple[mx.array, ...]:
        """The state itself: later steps make new arrays, and leave this one as it is."""
        return self.arrays()

    def restore(self, offset: int, rows: tuple[mx.array, ...]) -> None:
        """Goes back to `offset`, where `snapshot` returned `rows`."""
        self.load(offset, rows)

    def arrays(self) -> tuple[mx.array, ...]:
        """What the cache holds, for evaluation."""
        return () if self.inputs is None or self.state is None else (self.inputs, self.state)

    def rows(self) -> tuple[mx.array, ...]:
        """All there is, for saving."""
        return self.arrays()

    def load(self, offset: int, rows: tuple[mx.array, ...]) -> None:
        """The opposite of `rows`."""
        self.offset = offset
        self.inputs, self.state = rows or (None, None)
