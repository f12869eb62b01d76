"""Signed codes with scales, seen as MLX packs them: the same numbers, and the same bytes."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gemma_mlx.errors import WeightsError
from gemma_mlx.weights.header import read_header
from gemma_mlx.weights.quantized import Quantization
from gemma_mlx.weights.read import Rows, arrays, read
from gemma_mlx.weights.repack import affine


def _codes(bits: int, rows: int = 5, columns: int = 96) -> np.ndarray:
    low = -(1 << bits - 1)
    return np.random.default_rng(bits).integers(low, -low, (rows, columns))


def _stored(codes: np.ndarray, bits: int, kind: str) -> mx.array:
    """As programs store them: signed bytes, or offset and low bits first in bytes or words."""
    if kind == "I8":
        return mx.array(codes.astype(np.int8))
    width = {"U8": 8, "I32": 32}[kind]
    each = width // bits
    offset = (codes + (1 << bits - 1)).astype(np.uint64).reshape(codes.shape[0], -1, each)
    words = sum(offset[..., place] << np.uint64(bits * place) for place in range(each))
    return mx.array(words.astype(np.uint32 if width == 32 else np.uint8)).view(mx.int32 if width == 32 else mx.uint8)


@pytest.mark.parametrize("groups", [None, 1, 3])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(("bits", "kind"), [(2, "U8"), (4, "U8"), (8, "I8"), (2, "I32"), (4, "I32"), (8, "I32")])
def test_the_same_numbers(tmp_path: Path, bits: int, kind: str, dtype: mx.Dtype, groups: int | None) -> None:
    codes = _codes(bits)
    scales = mx.random.uniform(0.01, 0.1, (5,) if groups is None else (5, groups), key=mx.random.key(1)).astype(dtype)
    mx.save_safetensors(str(tmp_path / "m.safetensors"), {"c": _stored(codes, bits, kind), "s": scales})
    header = read_header(tmp_path / "m.safetensors")
    how, made = affine("up", header["c"], header["s"], bits)
    assert how == Quantization(mode="affine", bits=bits, group_size=32)  # of 96 columns, and of 3 groups of 32
    found = arrays(made, dtype)
    assert {name: (array.dtype, array.shape) for name, array in found.items()} == {
        "up.weight": (mx.uint32, (5, 96 * bits // 32)),
        "up.scales": (dtype, (5, 3)),
        "up.biases": (dtype, (5, 3)),
    }
    full = np.repeat(np.array(scales.astype(mx.float32)).reshape(5, -1), 96 // (groups or 1), axis=1)
    dense = mx.dequantize(
        found["up.weight"], found["up.scales"].astype(mx.float32), found["up.biases"].astype(mx.float32), 32, bits
    )
    assert np.abs(np.array(dense) - codes * full).max() <= 1e-6 * np.abs(codes * full).max()
    assert mx.array_equal(found["up.biases"], found["up.scales"] * -(1 << bits - 1)), "exact in every dtype"
    assert sum(tensor.file_bytes for tensor in made.values()) == header["c"].nbytes + header["s"].nbytes
    for name, tensor in made.items():
        part = tensor.pieces(0, [(1, 2), (3, 5)])
        assert mx.array_equal(read(part), mx.take(found[name], mx.array([1, 3, 4]), axis=0))
        rows = Rows(tensor)
        room = rows.blank(2)
        rows.fill(room, [4, 0])
        assert mx.array_equal(rows.seen(room), mx.take(found[name], mx.array([4, 0]), axis=0))


@pytest.mark.parametrize(("columns", "size"), [(256, 128), (192, 64), (160, 32), (1536, 128)])
def test_a_scale_for_each_row_takes_the_largest_groups(tmp_path: Path, columns: int, size: int) -> None:
    tensors = {"c": mx.zeros((2, columns), mx.int8), "s": mx.ones((2, 1))}
    mx.save_safetensors(str(tmp_path / "m.safetensors"), tensors)
    header = read_header(tmp_path / "m.safetensors")
    assert affine("up", header["c"], header["s"], 8)[0].group_size == size


@pytest.mark.parametrize(
    ("codes", "scales", "says"),
    [
        (mx.zeros((2, 48), mx.int8), mx.ones((2,)), "a scale for every 48 weights"),
        (mx.zeros((2, 64), mx.int8), mx.ones((2, 4)), "a scale for every 16 weights"),
        (mx.zeros((2, 64), mx.int8), mx.ones((3,)), "does not fit the 2 rows of 'c'"),
        (mx.zeros((2, 64), mx.int8), mx.ones((2,), mx.int32), "'s' of I32 [2] does not fit"),
        (mx.zeros((2, 64), mx.int8), mx.ones((2, 1, 1)), "does not fit"),
        (mx.zeros((2, 64), mx.int8), mx.ones((2, 5)), "does not divide the 64 columns of 'c'"),
        (mx.zeros((2, 64), mx.int8), mx.ones((2, 0)), "does not divide"),
        (mx.zeros((64,), mx.int8), mx.ones((64,)), "'c' of I8 [64] is no matrix"),
        (mx.zeros((0, 64), mx.int8), mx.ones((0,)), "is no matrix"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, codes: mx.array, scales: mx.array, says: str) -> None:
    mx.save_safetensors(str(tmp_path / "m.safetensors"), {"c": codes, "s": scales})
    header = read_header(tmp_path / "m.safetensors")
    with pytest.raises(WeightsError) as caught:
        affine("up", header["c"], header["s"], 8)
    assert says in caught.value.message
    assert caught.value.hint
