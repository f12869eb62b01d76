"""Activations on a grid: which multiples they become, and a packed map that rounds what it reads and gives."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from gemma_mlx.nn.grid import GridLinear, on_grid


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_the_nearest_of_256_multiples(dtype: mx.Dtype) -> None:
    x = mx.array([0.0, 0.24, 0.25, 0.75, 1.25, -0.25, -0.26, 1e4, -1e4, 63.4, -64.2]).astype(dtype)
    expected = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, -0.5, 63.5, -64.0, 63.5, -64.0]
    for shape in ((11,), (1, 11), (11, 1)):
        found = on_grid(x.reshape(shape), mx.array(0.5, dtype))
        assert found.dtype == dtype
        assert found.reshape(-1).tolist() == expected


@pytest.mark.parametrize("steps", [(0.1, 0.2), (None, 0.2), (0.1, None), (None, None)])
def test_a_map_on_grids(steps: tuple[float | None, float | None]) -> None:
    linear = nn.Linear(64, 32, bias=False).to_quantized(group_size=32, bits=8)
    made = GridLinear(linear, *steps, mx.float32)
    assert tree_flatten(made.parameters()) == tree_flatten(linear.parameters()), "the steps are no parameters"
    x = mx.random.normal((2, 3, 64), key=mx.random.key(0))
    rounded, expected = np.array(x), None
    before, after = steps
    if before is not None:
        rounded = np.clip(np.round(rounded / np.float32(before)), -128, 127) * np.float32(before)
    expected = np.array(linear(mx.array(rounded)))
    if after is not None:
        expected = np.clip(np.round(expected / np.float32(after)), -128, 127) * np.float32(after)
    assert np.array_equal(np.array(made(x)), expected)
