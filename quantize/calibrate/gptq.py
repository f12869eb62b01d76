"""Second-order rounding: columns are rounded one after the other, and those behind make up for the error so far.

After Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv
2210.17323, with groups of affine codes: the range of a group is chosen when the rounding comes to it, from the weights
as they are then, for the least error where each column counts as much as GPTQ says that it does.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import mlx.core as mx
from jaxtyping import Float

from gemma_mlx.quantize.calibrate.gram import Gram, spans
from gemma_mlx.quantize.pack import clipped, pack_codes
from gemma_mlx.weights.quantized import Quantization

# Added to the diagonal, relative to its mean (the paper's section 3.3).
DAMPING: Final = 0.01


def gptq(weight: Float[mx.array, "R columns"], gram: Gram, how: Quantization, dtype: mx.Dtype) -> list[mx.array]:
    """Codes, scales and biases of a map, as `pack` returns them.

    Args:
        weight: in float32.
        gram: of its inputs.
        how: an affine packing whose groups divide the columns.
        dtype: of scales and biases.
    """
    found = [
        _part(weight[:, start:stop], part, how, dtype)
        for part, (start, stop) in zip(gram.parts, spans(weight.shape[1]), strict=True)
    ]
    codes, scales, biases = (mx.concatenate(list(each), axis=1) for each in zip(*found, strict=True))
    return [pack_codes(codes.astype(mx.uint32), how.bits), scales.astype(dtype), biases.astype(dtype)]


def _part(weight: mx.array, gram: mx.array, how: Quantization, dtype: mx.Dtype) -> tuple[mx.array, mx.array, mx.array]:
    """Codes [R columns], scales and biases [R groups], of columns that are looked at together."""
    factor = _factor(gram)
    size, steps = how.group_size, (1 << how.bits) - 1
    done: list[tuple[mx.array, mx.array, mx.array]] = []
    rest = weight
    for start in range(0, weight.shape[1], size):
        stop = start + size
        block = factor[start:stop, start:stop]
        group = rest[:, :size]
        scale, bias = clipped(group, how.bits, dtype, 1 / mx.square(mx.diag(block)))
        codes, errors = _rounder(size, steps)(group.T, block, scale.T, bias.T)
        rest = rest[:, size:] - errors.T @ factor[start:stop, stop:]
        mx.eval(rest, codes, scale, bias)
        done.append((codes.T, scale, bias))
    codes, scales, biases = (mx.concatenate(list(each), axis=1) for each in zip(*done, strict=True))
    return codes, scales, biases


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


@cache
def _rounder(size: int, steps: int):  # type: ignore[no-untyped-def]  # mx.compile has no type
    """Rounds the columns of a group in turn; one graph for each size of group."""

    @mx.compile
    def round_group(group: mx.array, factor: mx.array, scale: mx.array, bias: mx.array) -> tuple[mx.array, mx.array]:
        """[size R], [size size], [1 R], [1 R] -> codes and errors, [size R] each."""
        over = mx.where(scale == 0, mx.array(0.0), 1 / scale)
        codes, errors = [], []
        for index in range(size):
            column = group[:1]
            code = mx.clip(mx.round((column - bias) * over), 0, steps)
            error = (column - (code * scale + bias)) / factor[index, index]
            if index + 1 < size:
                group = group[1:] - factor[index, index + 1 :, None] * error
            codes.append(code)
            errors.append(error)
        return mx.concatenate(codes), mx.concatenate(errors)

    return round_group
