"""How GGUF files store numbers, and what MLX computes with instead.

Most kinds are codes of a block with a scale, and of some a smallest value. An affine packing of MLX says the same:
weight = scale · code + bias, with a scale and a bias for each group of 32, so these kinds are rearranged and not
rounded. Q6_K has a scale for every 16 codes, for which MLX has no packing: its weights go to the nearest of 256 steps.

Layouts: ggml/src/ggml-common.h and ggml-quants.c of ggml. All numbers are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float32]
Leaf = Literal["weight", "scales", "biases"]

GROUP: Final = 32  # weights that share a scale, in every affine packing that is made here

_HALF: Final = np.uint8(4)  # bits
_LOW: Final = np.uint8(15)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A way of storing numbers.

    Attributes:
        name: as llama.cpp calls it.
        weights: numbers in a block.
        nbytes: bytes of a block.
        floating: dtype as safetensors spells it, of kinds that are plain numbers.
        packing: how codes are read; None of kinds that are not.
    """

    name: str
    weights: int
    nbytes: int
    floating: str | None = None
    packing: Packing | None = None


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A kind as an affine packing of MLX, in groups of 32.

    Attributes:
        bits: of a code.
        scales: dtype of scales and biases that holds them as the file has them.
        codes: [blocks nbytes] -> codes side by side, low bits first, as MLX has them.
        numbers: [blocks nbytes] -> scales and biases, [blocks groups].
        exact: whether no weight changes.
    """

    bits: int
    scales: Literal["F16", "BF16", "F32"]
    codes: Callable[[Bytes], Bytes]
    numbers: Callable[[Bytes], tuple[Numbers, Numbers]]
    exact: bool = True

    def make(self, leaf: Leaf) -> Callable[[Bytes], Bytes]:
        """[blocks nbytes] -> the bytes of each block's part of the packed weight, its scales or its biases."""
        if leaf == "weight":
            return self.codes
        place = ("scales", "biases").index(leaf)

        def made(blocks: Bytes) -> Bytes:
            numbers = self.numbers(blocks)[place]
            if self.scales == "BF16":  # which numpy has not: the upper half of a float32
                return np.ascontiguousarray(numbers.astype("<f4").view("<u2")[:, 1::2]).view(np.uint8)
            return numbers.astype("<f2" if self.scales == "F16" else "<f4").view(np.uint8)

        return made

    def made_bytes(self, leaf: Leaf, weights: int) -> int:
        """Bytes that are made of a block of `weights`."""
        return weights * self.bits // 8 if leaf == "weight" else weights // GROUP * (4 if self.scales == "F32" else 2)


def pack_codes(codes: Bytes, bits: int) -> Bytes:
    """[blocks weights] -> [blocks bytes]: codes side by side, low bits first, as MLX has them."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    if bits == 4:
        return codes[:, ::2] | (codes[:, 1::2] << _HALF)
    wide = codes.reshape(len(codes), -1, 8).astype(np.uint64)
    held = np.zeros(wide.shape[:2], np.uint64)
    for index in range(8):
        held |= wide[:, :, index] << np.uint64(bits * index)
    return held.astype("<u8").view(np.uint8).reshape(*held.shape, 8)[:, :, :bits].reshape(len(codes), -1)


def _half(blocks: Bytes, start: int) -> Numbers:
    """The float16 at `start` of each block."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """All low halves of the bytes, then all high ones."""
    return np.concatenate([packed & _LOW, packed >> _HALF], axis=1)


def _pack_4(packed: Bytes, run: int) -> Bytes:
    """Of every `run` bytes all low halves, then all high ones; two codes in a byte, side by side."""
    pairs = np.ascontiguousarray(packed).view("<u2").reshape(-1, run // 2)
    low = (pairs & np.uint16(0x0F)) | ((pairs >> np.uint16(4)) & np.uint16(0xF0))
    high = ((pairs >> np.uint16(4)) & np.uint16(0x0F)) | ((pairs >> np.uint16(8)) & np.uint16(0xF0))
    return np.concatenate([low.astype(np.uint8), high.astype(np.uint8)], axis=1).reshape(len(packed), -1)


def _offset(blocks: Bytes, offset: int) -> tuple[Numbers, Numbers]:
    """Of codes from -offset on."""
    scales = _half(blocks, 0)
    return scales, -offset * scales


def _scale_and_smallest(blocks: Bytes) -> tuple[Numbers, Numbers]:
    return _half(blocks, 0), _half(blocks, 2)


def _fifth_bits(packed: Bytes) -> Bytes:
    """[blocks 4] -> the fifth bit of each of 32 codes, in its place."""
    return np.unpackbits(packed, axis=1, bitorder="little") << _HALF


def _q5_0(blocks: Bytes) -> Bytes:
    return pack_codes(_nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6]), 5)


def _q5_1(blocks: Bytes) -> Bytes:
    return pack_codes(_nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8]), 5)


def _q8_0(blocks: Bytes) -> Bytes:
    return blocks[:, 2:] ^ np.uint8(128)  # from -128..127 to 0..255


def _k_scales(blocks: Bytes) -> tuple[Numbers, Numbers]:
    """The scales and smallest values of 8 groups of 32: 6 bits of each in 12 bytes, times two float16 of the block."""
    packed = blocks[:, 4:16]
    low, high, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([low & 63, (rest & 15) | (low >> 6 << 4)], axis=1)
    smallest = np.concatenate([high & 63, (rest >> 4) | (high >> 6 << 4)], axis=1)
    return _half(blocks, 0) * scales, -_half(blocks, 2) * smallest


def _k_nibbles(packed: Bytes) -> Bytes:
    """Of every 32 bytes all low halves, then all high ones."""
    return _nibbles(packed.reshape(-1, 32)).reshape(len(packed), -1)


def _q5_k(blocks: Bytes) -> Bytes:
    fifths = np.unpackbits(blocks[:, 16:48, None], axis=2, bitorder="little")  # [blocks weight group]
    codes = _k_nibbles(blocks[:, 48:]).reshape(len(blocks), 8, 32) | (fifths.transpose(0, 2, 1) << _HALF)
    return pack_codes(codes.reshape(len(blocks), -1), 5)


def weights_of_q6_k(blocks: Bytes) -> Numbers:
    """[blocks 210] -> [blocks 256]: 6-bit codes less 32, times a signed scale for every 16, times a float16."""
    halves = []
    for half in range(2):
        low, high = blocks[:, 64 * half : 64 * half + 64], blocks[:, 128 + 32 * half : 160 + 32 * half]
        nibbles = [low[:, :32] & 15, low[:, 32:] & 15, low[:, :32] >> 4, low[:, 32:] >> 4]
        halves += [nibble | ((high >> 2 * index & 3) << 4) for index, nibble in enumerate(nibbles)]
    codes = np.concatenate(halves, axis=1).astype(np.float32) - 32
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32) * _half(blocks, 208)
    return codes * np.repeat(scales, 16, axis=1)


def _q6_k_numbers(blocks: Bytes) -> tuple[Numbers, Numbers]:
    groups = weights_of_q6_k(blocks).reshape(len(blocks), -1, GROUP)
    biases = -_raised(-groups.min(axis=2))
    return _raised((groups.max(axis=2) - biases) / 255), biases


def _q6_k(blocks: Bytes) -> Bytes:
    scales, biases = _q6_k_numbers(blocks)
    groups = weights_of_q6_k(blocks).reshape(len(blocks), -1, GROUP)
    steps = np.where(scales == 0, np.float32(1), scales)[:, :, None]
    codes = np.clip(np.rint((groups - biases[:, :, None]) / steps), 0, 255).astype(np.uint8)
    return codes.reshape(len(blocks), -1)


def _raised(numbers: Numbers) -> Numbers:
    """The next numbers above, or the same, of those that bfloat16 has: computing in it rounds nothing any more."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    up = (bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)
    return np.where(numbers > 0, up, bits & np.uint32(0xFFFF0000)).view(np.float32)


def _packed(name: str, weights: int, nbytes: int, **packing: Any) -> Kind:
    return Kind(name=name, weights=weights, nbytes=nbytes, packing=Packing(**packing))


def _foreign(name: str, weights: int, nbytes: int) -> Kind:
    return Kind(name=name, weights=weights, nbytes=nbytes)


# Number in the file -> what it stands for (ggml/include/ggml.h, ggml_type).
KINDS: Final[Mapping[int, Kind]] = {
    0: Kind(name="F32", weights=1, nbytes=4, floating="F32"),
    1: Kind(name="F16", weights=1, nbytes=2, floating="F16"),
    30: Kind(name="BF16", weights=1, nbytes=2, floating="BF16"),
    2: _packed(
        "Q4_0", 32, 18, bits=4, scales="F16", codes=lambda b: _pack_4(b[:, 2:], 16), numbers=partial(_offset, offset=8)
    ),
    3: _packed(
        "Q4_1", 32, 20, bits=4, scales="F16", codes=lambda b: _pack_4(b[:, 4:], 16), numbers=_scale_and_smallest
    ),
    6: _packed("Q5_0", 32, 22, bits=5, scales="F16", codes=_q5_0, numbers=partial(_offset, offset=16)),
    7: _packed("Q5_1", 32, 24, bits=5, scales="F16", codes=_q5_1, numbers=_scale_and_smallest),
    8: _packed("Q8_0", 32, 34, bits=8, scales="F16", codes=_q8_0, numbers=partial(_offset, offset=128)),
    12: _packed("Q4_K", 256, 144, bits=4, scales="F32", codes=lambda b: _pack_4(b[:, 16:], 32), numbers=_k_scales),
    13: _packed("Q5_K", 256, 176, bits=5, scales="F32", codes=_q5_k, numbers=_k_scales),
    14: _packed("Q6_K", 256, 210, bits=8, scales="BF16", codes=_q6_k, numbers=_q6_k_numbers, exact=False),
    # Without a like in MLX: more than one scale in 32 weights and few bits, or codes that stand for uneven steps.
    10: _foreign("Q2_K", 256, 84),
    11: _foreign("Q3_K", 256, 110),
    16: _foreign("IQ2_XXS", 256, 66),
    17: _foreign("IQ2_XS", 256, 74),
    18: _foreign("IQ3_XXS", 256, 98),
    19: _foreign("IQ1_S", 256, 50),
    20: _foreign("IQ4_NL", 32, 18),
    21: _foreign("IQ3_S", 256, 110),
    22: _foreign("IQ2_S", 256, 82),
    23: _foreign("IQ4_XS", 256, 136),
    24: _foreign("I8", 1, 1),
    25: _foreign("I16", 1, 2),
    26: _foreign("I32", 1, 4),
    27: _foreign("I64", 1, 8),
    28: _foreign("F64", 1, 8),
    29: _foreign("IQ1_M", 256, 56),
    34: _foreign("TQ1_0", 256, 54),
    35: _foreign("TQ2_0", 256, 66),
    39: _foreign("MXFP4", 32, 17),
    40: _foreign("NVFP4", 64, 36),
}
READ: Final = tuple(kind.name for kind in KINDS.values() if kind.floating or kind.packing)
