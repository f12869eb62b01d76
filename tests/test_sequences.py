"""What two sequences have in common."""

from __future__ import annotations

import pytest

from gemma_mlx.sequences import common_prefix


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [([], [], 0), ([1], [], 0), ([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([2, 1], [1, 2], 0)],
)
def test_common_prefix(one: list[int], other: list[int], common: int) -> None:
    assert common_prefix(one, other) == common_prefix(tuple(other), iter(one)) == common
