"""Blocks of codes become packings of MLX that stand for the same weights."""

from __future__ import annotations

import importlib.metadata
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import mlx.core as mx
import numpy as np
import pytest

from gemma_mlx.gguf.blocks import KINDS, READ, Kind, Leaf, pack_codes, weights_of_q6_k
from tests import gguf_files

BLOCKS = 24


def half(data: bytes) -> float:
    return float(struct.unpack("<e", data)[0])


# Each kind as ggml's own loops read a block (ggml-quants.c, dequantize_row_*), a number at a time.


def q4_0(b: bytes) -> Iterator[float]:
    codes = [byte & 15 for byte in b[2:]] + [byte >> 4 for byte in b[2:]]
    yield from (half(b[:2]) * (code - 8) for code in codes)


def q4_1(b: bytes) -> Iterator[float]:
    codes = [byte & 15 for byte in b[4:]] + [byte >> 4 for byte in b[4:]]
    yield from (half(b[:2]) * code + half(b[2:4]) for code in codes)


def fifths(b: bytes, codes: list[int]) -> list[int]:
    bits = struct.unpack("<I", b)[0]
    return [code | (bits >> place & 1) << 4 for place, code in enumerate(codes)]


def q5_0(b: bytes) -> Iterator[float]:
    codes = fifths(b[2:6], [byte & 15 for byte in b[6:]] + [byte >> 4 for byte in b[6:]])
    yield from (half(b[:2]) * (code - 16) for code in codes)


def q5_1(b: bytes) -> Iterator[float]:
    codes = fifths(b[4:8], [byte & 15 for byte in b[8:]] + [byte >> 4 for byte in b[8:]])
    yield from (half(b[:2]) * code + half(b[2:4]) for code in codes)


def q8_0(b: bytes) -> Iterator[float]:
    yield from (half(b[:2]) * code for code in struct.unpack("<32b", b[2:]))


def scale_and_smallest(j: int, q: bytes) -> tuple[int, int]:
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    return (q[j + 4] & 15) | (q[j - 4] >> 6) << 4, (q[j + 4] >> 4) | (q[j] >> 6) << 4


def q4_k(b: bytes) -> Iterator[float]:
    for group in range(8):
        scale, smallest = scale_and_smallest(group, b[4:16])
        for byte in b[16 + group // 2 * 32 :][:32]:
            code = byte >> 4 if group % 2 else byte & 15
            yield half(b[:2]) * scale * code - half(b[2:4]) * smallest


def q5_k(b: bytes) -> Iterator[float]:
    for group in range(8):
        scale, smallest = scale_and_smallest(group, b[4:16])
        for place, byte in enumerate(b[48 + group // 2 * 32 :][:32]):
            code = (byte >> 4 if group % 2 else byte & 15) | (b[16 + place] >> group & 1) << 4
            yield half(b[:2]) * scale * code - half(b[2:4]) * smallest


def q6_k(b: bytes) -> Iterator[float]:
    out = [0.0] * 256
    for part in range(2):
        low, high, scales = b[64 * part :], b[128 + 32 * part :], struct.unpack("<8b", b[192 + 8 * part :][:8])
        for place in range(32):
            codes = [
                low[place] & 15 | (high[place] & 3) << 4,
                low[place + 32] & 15 | (high[place] >> 2 & 3) << 4,
                low[place] >> 4 | (high[place] >> 4 & 3) << 4,
                low[place + 32] >> 4 | (high[place] >> 6 & 3) << 4,
            ]
            for quarter, code in enumerate(codes):
                scale = scales[place // 16 + 2 * quarter]
                out[128 * part + 32 * quarter + place] = half(b[208:210]) * scale * (code - 32)
    yield from out


REFERENCE: dict[str, Callable[[bytes], Iterator[float]]] = {
    "Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q5_1": q5_1, "Q8_0": q8_0, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k,
}  # fmt: skip
PACKED = [kind for kind in KINDS.values() if kind.packing is not None]


def blocks_of(kind: Kind) -> np.ndarray:
    """Codes at random, and scales of a likely size."""
    random = np.random.default_rng(len(kind.name) + kind.nbytes)
    blocks = random.integers(0, 256, (BLOCKS, kind.nbytes), dtype=np.uint8)
    halves = random.normal(0, 0.01, (BLOCKS, 2)).astype("<f2").view(np.uint8)
    if kind.name == "Q6_K":
        blocks[:, 208:] = halves[:, :2]
    else:
        blocks[:, :2] = halves[:, :2]
        if kind.name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K"):
            blocks[:, 2:4] = halves[:, 2:]
    return blocks


def triple(kind: Kind, blocks: np.ndarray) -> list[mx.array]:
    """Weight, scales and biases, of one row for each block."""
    assert kind.packing is not None
    seen = {"F16": ("<u2", mx.float16), "BF16": ("<u2", mx.bfloat16), "F32": ("<u4", mx.float32)}
    number, dtype = seen[kind.packing.scales]
    weight, *rest = (np.ascontiguousarray(kind.packing.make(leaf)(blocks)) for leaf in get_args(Leaf))
    return [mx.array(weight.view("<u4")), *(mx.array(array.view(number)).view(dtype) for array in rest)]


def dequantized(kind: Kind, blocks: np.ndarray) -> np.ndarray:
    assert kind.packing is not None
    codes, scales, biases = triple(kind, blocks)
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return np.array(mx.dequantize(codes, scales, biases, group_size=32, bits=kind.packing.bits))


@pytest.mark.parametrize("kind", PACKED, ids=lambda kind: kind.name)
def test_the_packing_stands_for_the_weights(kind: Kind) -> None:
    assert kind.packing is not None
    blocks = blocks_of(kind)
    wanted = np.array([list(REFERENCE[kind.name](block.tobytes())) for block in blocks], np.float32)
    found = dequantized(kind, blocks)
    assert found.shape == (BLOCKS, kind.weights)
    if kind.packing.exact:
        assert np.array_equal(found, wanted)
    else:
        assert np.array_equal(weights_of_q6_k(blocks), wanted)
        assert np.linalg.norm(found - wanted) <= 0.005 * np.linalg.norm(wanted)


@pytest.mark.parametrize("kind", PACKED, ids=lambda kind: kind.name)
def test_bytes_are_as_many_as_said(kind: Kind) -> None:
    assert kind.packing is not None
    for leaf in ("weight", "scales", "biases"):
        made = kind.packing.make(leaf)(blocks_of(kind))
        assert made.dtype == np.uint8
        assert made.shape == (BLOCKS, kind.packing.made_bytes(leaf, kind.weights))


def test_only_one_kind_is_rounded() -> None:
    assert [kind.name for kind in PACKED if kind.packing is not None and not kind.packing.exact] == ["Q6_K"]
    assert READ == ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")


def test_q6_k_of_zeros_and_of_equal_weights() -> None:
    kind = next(kind for kind in PACKED if kind.name == "Q6_K")
    zeros = np.zeros((1, kind.nbytes), np.uint8)
    assert not dequantized(kind, zeros).any()
    equal = zeros.copy()
    equal[0, 192:208] = 1
    equal[0, 208:] = np.array([0.5], "<f2").view(np.uint8)
    assert (dequantized(kind, equal) == -16.0).all()  # codes are 0, which stands for -32


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_codes_lie_as_mlx_has_them(bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << bits, (3, 64), dtype=np.uint8)
    words = mx.array(pack_codes(codes, bits).view("<u4"))
    ones, zeros = mx.ones((3, 2)), mx.zeros((3, 2))
    assert np.array_equal(np.array(mx.dequantize(words, ones, zeros, group_size=32, bits=bits)), codes)


@pytest.mark.parametrize(
    "kind", [kind for kind in PACKED if kind.name in ("Q4_0", "Q4_1", "Q8_0")], ids=lambda k: k.name
)
def test_mlx_makes_the_same_of_them(kind: Kind, tmp_path: Path) -> None:
    blocks = blocks_of(kind)
    tensors = {"x.weight": (kind.name, (BLOCKS, 32), blocks.tobytes())}
    path = gguf_files.write(tmp_path / "x.gguf", {"general.architecture": "x"}, tensors)
    try:
        theirs = mx.load(str(path))
    except RuntimeError as error:
        pytest.skip(f"mlx {importlib.metadata.version('mlx')} was built without GGUF: {error}")
    for leaf, array in zip(("weight", "scales", "biases"), triple(kind, blocks), strict=True):
        assert mx.array_equal(theirs[f"x.{leaf}"], array).item(), leaf
