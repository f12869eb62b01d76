"""What two sequences of tokens have in common."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile


def common_prefix(one: Iterable[object], other: Iterable[object]) -> int:
    """How many elements both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
