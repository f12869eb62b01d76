"""Second-order rounding: columns are rounded one after the other, and those behind make up for the error so far.

After Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv
2210.17323, with groups of affine codes: the range of a group is chosen when the rounding comes to it, from the weights
as they are then, for the least error where each column counts as much as GPTQ says that it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import mlx.core as mx
import numpy as np
from jaxtyping import Float

from gemma_mlx.quantize.calibrate.gram import Gram, spans
from gemma_mlx.quantize.pack import clipped, pack_codes
from gemma_mlx.weights.quantized import Quantization

# Added to the diagonal, relative to its mean (the paper's section 3.3).
DAMPING: Final = 0.01

Array = np.ndarray[Any, np.dtype[Any]]


def gptq(weight: Float[mx.array, "R columns"], gram: Gram, how: Quantization, dtype: mx.Dtype) -> list[mx.array]:
    """Codes, scales and biases of a map, as `pack` returns them.

    Args:
        weight: in float32.
        gram: of its inputs.
        how: an affine packing whose groups divide the columns.
        dtype: of scales and biases.
    """
    columns = np.array(weight.T)  # a row for each column of the map, and a copy, for errors are spread in place
    codes = np.empty(columns.shape, np.uint32)
    grids: list[tuple[mx.array, mx.array]] = []
    for part, (start, stop) in zip(gram.parts, spans(len(columns)), strict=True):
        grids += _part(columns[start:stop], codes[start:stop], part, how, dtype)
    scales, biases = (mx.concatenate(list(each), axis=1) for each in zip(*grids, strict=True))
    return [pack_codes(mx.array(np.ascontiguousarray(codes.T)), how.bits), scales.astype(dtype), biases.astype(dtype)]


def _part(
    columns: Array, codes: Array, gram: mx.array, how: Quantization, dtype: mx.Dtype
) -> Iterator[tuple[mx.array, mx.array]]:
    """Rounds columns that are looked at together; yields scales and biases [R 1] of each group."""
    factor = np.array(_factor(gram))
    steps = (1 << how.bits) - 1
    for start in range(0, len(columns), how.group_size):
        stop = start + how.group_size
        block = factor[start:stop, start:stop]
        counts = mx.array(1 / np.square(np.diag(block)))
        scale, bias = clipped(mx.array(columns[start:stop]).T, how.bits, dtype, counts)
        errors = _round(columns[start:stop], codes[start:stop], block, _flat(scale), _flat(bias), steps)
        columns[stop:] -= factor[start:stop, stop:].T @ errors
        yield scale, bias


def _round(columns: Array, codes: Array, factor: Array, scale: Array, bias: Array, steps: int) -> Array:
    """Rounds the columns of a group in turn, and returns what is left of each for the columns behind the group.

    In numpy, on the CPU: each column waits for the one before it, and kernels would be launched for next to nothing.
    """
    errors = np.empty_like(columns)
    over = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    for index, column in enumerate(columns):
        code = np.clip(np.rint((column - bias) * over), 0, steps)
        errors[index] = (column - (code * scale + bias)) / factor[index, index]
        columns[index + 1 :] -= factor[index, index + 1 :, None] * errors[index]
        codes[index] = code
    return errors


def _flat(grid: Float[mx.array, "R 1"]) -> Array:
    return np.array(grid.reshape(-1))


def _factor(gram: Float[mx.array, "C C"]) -> Float[mx.array, "C C"]:
    """The upper Cholesky factor of the inverse of X'X, damped. What was never read has no part in it."""
    diagonal = mx.diag(gram)
    mean = mx.maximum(diagonal.mean(), mx.array(1e-30))
    scaled = gram / mean + mx.diag(mx.where(diagonal == 0, 1.0, 0.0) + DAMPING)
    with mx.stream(mx.cpu):  # MLX has these on the CPU alone
        inverse = mx.linalg.cholesky_inv(mx.linalg.cholesky(scaled))
        factor: mx.array = mx.linalg.cholesky(inverse, upper=True)
        mx.eval(factor)
    return factor
