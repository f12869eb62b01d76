"""The parts of what a token costs: layers that attend, matrices, a step of an answer, a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from gemma_mlx.spec import AttentionSpec

WIDEST_FUSED: Final = 128  # head_dim up to which Metal reads a prompt without writing scores, in every release


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Layers whose attention is alike.

    Attributes:
        attention: what it is.
        layers: how many of them there are; all read keys and values in a decode step.
        prefilled: how many of them run for every position of a prompt; borrowers run for the last one only.
    """

    attention: AttentionSpec
    layers: int
    prefilled: int

    @property
    def fused(self) -> bool:
        """Whether a prompt is read without its scores going through memory."""
        return self.attention.head_dim <= WIDEST_FUSED and self.attention.softcap is None

    def row_numbers(self) -> int:
        """Numbers in one layer's key and value of one token."""
        return 2 * self.attention.kv_heads * self.attention.head_dim

    def rows(self, context: int) -> int:
        """Keys that a query sees among `context` tokens, itself included."""
        window = self.attention.window
        return context if window is None else min(context, window)

    def pairs(self, tokens: int, chunk: int) -> int:
        """Scores that one head of one layer forms for a prompt: a triangle where fused, rectangles elsewhere."""
        if self.attention.ahead != 0:  # both ways, under a mask that is an array: all are formed
            return tokens * tokens
        window = tokens if self.attention.window is None else self.attention.window
        if self.fused:
            inside = min(tokens, window)
            return inside * (inside + 1) // 2 + (tokens - inside) * inside
        starts = range(0, tokens, chunk)
        return sum(
            min(chunk, tokens - start) * (min(chunk, tokens - start) + min(start, window - 1)) for start in starts
        )


# What a matrix is used for. "source" makes keys and values of what an encoder found, "ordered" is a head of which the
# nearest groups are looked into, "canvas" is at work while a canvas fills.
Kind = Literal["looked up", "head", "ordered", "expert", "borrower", "layer", "canvas", "encoder", "source"]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A matrix that a quantizer packs, or several that no format tells apart.

    Attributes:
        path: of its module; of several, of the first.
        columns: numbers in a row.
        kind: what a decode step does with it.
        numbers: in it, or in all of them.
    """

    path: str
    columns: int
    kind: Kind
    numbers: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one token of an answer takes.

    Attributes:
        weight_bytes: read, without experts.
        routed_bytes: of the experts that the token goes to.
        kv_bytes: keys, values and states.
        unfused_kv_bytes: keys and values that no fused kernel reads.
        late_kv_bytes: keys and values that a fused kernel reads from `FUSED_FROM` keys on: as many as there are just
            before, or now if that is less, and those there are now.
        launches: kernels.
    """

    weight_bytes: float
    routed_bytes: float
    kv_bytes: float
    unfused_kv_bytes: float
    late_kv_bytes: tuple[float, float]
    launches: int

    @property
    def nbytes(self) -> float:
        """All that is read."""
        return self.weight_bytes + self.routed_bytes + self.kv_bytes + self.unfused_kv_bytes + self.late_kv_bytes[1]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What reading a prompt takes.

    Attributes:
        weight_bytes: of the weights that every chunk reads.
        once_bytes: of those that only the last position goes through: the head, layers that borrow.
        resident_bytes: of all weights.
        chunks: parts that the prompt is read in.
        flops: floating-point operations; the head, and layers that borrow, run for one token and count as none.
        scores: of attention that no kernel fuses: they go through memory.
        width: of the residual stream.
        sparse: whether there are experts.
    """

    weight_bytes: float
    once_bytes: float = 0.0
    resident_bytes: float = 0.0
    chunks: int
    flops: float
    scores: int
    width: int
    sparse: bool
