"""A matrix -> codes and scales: as MLX does it, with the range of each group chosen, or on the lattice it lies on.

MLX stretches a group's range over all codes. That is not the best that the format can do: a range a little smaller
loses less of a group whose ends are outliers; and weights that were trained for a lattice (Q4_0: d·k with k from -8 to
7, in blocks of 32) come off it, while scale d and bias -8d say exactly what they are.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import cache
from typing import Final, Literal, cast, get_args

import mlx.core as mx
from jaxtyping import Float, UInt32

from gemma_mlx.errors import UnsupportedModelError
from gemma_mlx.quantize.formats import BLOCKS_OF_32
from gemma_mlx.weights.quantized import Mode, Quantization

Calibrated = Literal["gptq", "awq", "dwq"]
Method = Literal["plain", "clip", "lattice", "exact"] | Calibrated

CALIBRATED: Final[tuple[Calibrated, ...]] = get_args(Calibrated)

# Parts of a group's range that are tried.
CLIPS: Final = (0.95, 0.9, 0.84, 0.78, 0.7)
# The scale of a block on a lattice is one of these times its largest weight.
_DIVISORS: Final = (-8.0, 7.0, -7.0)
_EVEN: Final = 1.0  # where all weights of a group count alike
# Relative error from which on blocks are on no lattice: rounding to bfloat16 gives 0.2 %, other weights 6 % and more.
OFF_LATTICE: Final = 0.01
MAY_BE_OFF: Final = 0.01  # of the blocks of a tensor that lies on a lattice
# Mode -> relative error of Gaussian weights that is still sound. MLX 0.32.4 has 11.6, 2.65 and 9.5 %; mxfp8 of 0.31.2,
# which let nearly half of the blocks saturate, 7 %.
SOUND: Final[dict[Mode, float]] = {"mxfp4": 0.14, "mxfp8": 0.04, "nvfp4": 0.12}


def pack(weight: mx.array, how: Quantization, method: Method = "plain") -> list[mx.array]:
    """Codes, scales, and of affine packings biases, as `mx.quantize` returns them.

    Args:
        weight: [... columns], floating; the group size divides its columns.
        how: how it is packed.
        method: "clip" and "lattice" are for affine packings; "lattice" for 4 bits in groups of 32.
    """
    if method == "plain":
        return list(cast(tuple[mx.array, ...], mx.quantize(weight, how.group_size, how.bits, mode=how.mode)))
    assert how.mode == "affine"
    groups = weight.reshape(-1, how.group_size).astype(mx.float32)
    if method == "lattice":
        assert how == BLOCKS_OF_32
        scales, biases = _lattice(groups, weight.dtype)
    else:
        scales, biases = clipped(groups, how.bits, weight.dtype)
    rows = weight.shape[:-1]
    packed = coded(groups, scales, biases, how.bits, weight.dtype)
    return [array.reshape(*rows, -1) for array in packed]


def coded(
    groups: Float[mx.array, "*axes n size"], scales: mx.array, biases: mx.array, bits: int, dtype: mx.Dtype
) -> list[mx.array]:
    """The nearest codes, packed, with scales and biases in `dtype`; the last two axes become one in all of them."""
    codes = _codes(groups, scales, biases, (1 << bits) - 1)[0].astype(mx.uint32)
    rows = groups.shape[:-2]
    return [
        pack_codes(codes.reshape(*rows, -1), bits),
        scales.reshape(*rows, -1).astype(dtype),
        biases.reshape(*rows, -1).astype(dtype),
    ]


def pack_codes(codes: UInt32[mx.array, "... columns"], bits: int) -> UInt32[mx.array, "... words"]:
    """Codes side by side, low bits first, 32 of them in `bits` words."""
    blocks = codes.reshape(*codes.shape[:-1], -1, 32)
    words = []
    for word in range(bits):
        held = mx.zeros(blocks.shape[:-1], mx.uint32)
        for index in range(32):
            shift = index * bits - 32 * word
            if -bits < shift < 32:
                code = blocks[..., index]
                held = held | (code << shift if shift >= 0 else code >> -shift)
        words.append(held)
    return mx.stack(words, axis=-1).reshape(*codes.shape[:-1], -1)


def _codes(
    groups: mx.array, scales: mx.array, biases: mx.array, steps: int, counts: mx.array | float = _EVEN
) -> tuple[mx.array, mx.array]:
    """Codes, as floating numbers, and each group's sum of squared errors; a grid without extent is the last choice."""
    places = (groups - biases) * mx.where(scales == 0, mx.array(0.0), 1 / scales)
    codes = mx.clip(mx.round(places), 0, steps)
    errors = (mx.square(codes - places) * counts).sum(axis=-1, keepdims=True) * mx.square(scales)
    return codes, mx.where(scales == 0, mx.array(mx.inf), errors)


def _best(
    groups: mx.array, grids: list[tuple[mx.array, mx.array]], steps: int, counts: mx.array | float = _EVEN
) -> tuple[mx.array, mx.array]:
    """Scales and biases of the grid that says each group best; of equals the first."""
    scales, biases = grids[0]
    _, errors = _codes(groups, scales, biases, steps, counts)
    for other_scales, other_biases in grids[1:]:
        _, other_errors = _codes(groups, other_scales, other_biases, steps, counts)
        better = other_errors < errors
        scales, biases = mx.where(better, other_scales, scales), mx.where(better, other_biases, biases)
        errors = mx.where(better, other_errors, errors)
        mx.eval(scales, biases, errors)  # one trial in memory, not all
    return scales, biases


def clipped(
    groups: Float[mx.array, "*axes size"], bits: int, dtype: mx.Dtype, counts: mx.array | float = _EVEN
) -> tuple[Float[mx.array, "*axes 1"], Float[mx.array, "*axes 1"]]:
    """Scales and biases for the range of each group that has the least squared error.

    Args:
        groups: weights in float32.
        bits: of the codes.
        dtype: in which scales and biases will be stored; they are rounded to it.
        counts: how much the error of each weight counts; broadcast.
    """
    steps = (1 << bits) - 1
    low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
    whole = _grid(low, high, steps, dtype)
    tried = [whole, *(_stretched(low * part, high * part, steps, dtype) for part in CLIPS)]
    found = _best(groups, tried, steps, counts)
    return _best(groups, [found, _fitted(groups, _codes(groups, *found, steps)[0], dtype, counts)], steps, counts)


def _stretched(low: mx.array, high: mx.array, steps: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    """Scale and bias from one end of the range to the other."""
    scale = mx.maximum((high - low) / steps, mx.array(1e-7))
    return scale.astype(dtype).astype(mx.float32), low.astype(dtype).astype(mx.float32)


def _fitted(groups: mx.array, codes: mx.array, dtype: mx.Dtype, counts: mx.array | float) -> tuple[mx.array, mx.array]:
    """Scale and bias that say each group best with these codes."""
    shares = mx.broadcast_to(mx.array(counts), groups.shape)
    shares = shares / mx.maximum(shares.sum(axis=-1, keepdims=True), mx.array(1e-30))
    mean, mean_code = ((shares * one).sum(axis=-1, keepdims=True) for one in (groups, codes))
    spread = (shares * mx.square(codes - mean_code)).sum(axis=-1, keepdims=True)
    along = (shares * (codes - mean_code) * (groups - mean)).sum(axis=-1, keepdims=True)
    scale = (along / mx.maximum(spread, mx.array(1e-8))).astype(dtype).astype(mx.float32)
    return scale, (mean - scale * mean_code).astype(dtype).astype(mx.float32)


def _grid(low: mx.array, high: mx.array, steps: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    """Scale and bias from one end of the range to the other, as MLX lays them: zero is on the grid, and so is the end
    further away from it."""
    down = mx.abs(low) > mx.abs(high)
    scale = mx.maximum((high - low) / steps, mx.array(1e-7))
    scale = mx.where(down, scale, -scale)
    edge = mx.where(down, low, high)
    to_zero = mx.round(edge / scale)
    scale = mx.where(to_zero == 0, scale, edge / mx.where(to_zero == 0, mx.array(1.0), to_zero))
    bias = mx.where(to_zero == 0, mx.array(0.0), edge)
    return scale.astype(dtype).astype(mx.float32), bias.astype(dtype).astype(mx.float32)


def _lattice(blocks: Float[mx.array, "G 32"], dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    """Each block on its lattice; one that is on none is packed as MLX would, into the same bytes."""
    low, high = blocks.min(axis=-1, keepdims=True), blocks.max(axis=-1, keepdims=True)
    grids = [(scale, -8 * scale) for scale in (_spacing(blocks, divisor, dtype) for divisor in _DIVISORS)]
    return _best(blocks, [*grids, _grid(low, high, 15, dtype)], 15)


def _spacing(blocks: mx.array, divisor: float, dtype: mx.Dtype) -> mx.array:
    """The spacing d of each block, if its largest weight is `divisor`·d: the one that fits all its weights best."""
    largest = mx.take_along_axis(blocks, mx.abs(blocks).argmax(axis=-1, keepdims=True), axis=-1)
    first = largest / divisor
    steps = mx.clip(mx.round(blocks / mx.where(first == 0, mx.array(1.0), first)), -8, 7)
    weight = mx.square(steps).sum(axis=-1, keepdims=True)
    fitted = (steps * blocks).sum(axis=-1, keepdims=True) / mx.maximum(weight, mx.array(1.0))
    return fitted.astype(dtype).astype(mx.float32)


def is_on_lattice(blocks: Float[mx.array, "G 32"], may_be_off: float = MAY_BE_OFF) -> bool:
    """Whether nearly all blocks are each d·k with whole k from -8 to 7, but for rounding; zeros are no proof.

    Args:
        blocks: of weights.
        may_be_off: part of them that need not be.
    """
    dtype, blocks = blocks.dtype, blocks.astype(mx.float32)
    if not blocks.size or not mx.any(blocks != 0).item():
        return False
    grids = [(scale, -8 * scale) for scale in (_spacing(blocks, divisor, dtype) for divisor in _DIVISORS)]
    scales, biases = _best(blocks, grids, 15)
    _, errors = _codes(blocks, scales, biases, 15)
    sums = mx.square(blocks).sum(axis=-1, keepdims=True)
    off = (sums > 0) & (errors > OFF_LATTICE**2 * sums)
    return cast(int, off.sum().item()) <= may_be_off * cast(int, (sums > 0).sum().item())


def relative_error(weight: mx.array, packed: list[mx.array], how: Quantization) -> float:
    """Root mean square of what packing changed, relative to the weights'."""
    # In 16 bits, code·scale + bias would be rounded twice, and more coarsely than the packing is.
    rest = packed[1:] if how.mode != "affine" else [array.astype(mx.float32) for array in packed[1:]]
    codes, scales, biases = packed[0], rest[0], rest[1] if len(rest) > 1 else None
    made = mx.dequantize(codes, scales, biases, how.group_size, how.bits, mode=how.mode).astype(mx.float32)
    weight = weight.astype(mx.float32)
    return cast(float, mx.sqrt(mx.square(made - weight).sum() / mx.square(weight).sum()).item())


def check_sound(how: Quantization) -> None:
    """Sees whether the MLX in use packs in this mode as it should.

    Raises:
        UnsupportedModelError: weights come back further from themselves than the mode accounts for.
    """
    if how.mode == "affine":
        return
    error, most = _round_trip(how, mx.quantize), SOUND[how.mode]
    if error > most:
        raise UnsupportedModelError(
            f"{how.mode} of MLX {importlib.metadata.version('mlx')} is damaged: packing changes weights by "
            f"{error:.1%}, where a sound one changes them by less than {most:.0%}.",
            "Take a newer MLX: pip install -U mlx; or pack in another mode: --mode affine",
        )


@cache
def _round_trip(how: Quantization, quantize: Callable[..., object]) -> float:
    """Relative error of 65,536 Gaussian weights; `quantize` is there so that another MLX is another question."""
    weight = mx.random.normal((256, 256), key=mx.random.key(7)).astype(mx.bfloat16)
    packed = cast(tuple[mx.array, ...], quantize(weight, how.group_size, how.bits, mode=how.mode))
    return relative_error(weight, list(packed), how)
