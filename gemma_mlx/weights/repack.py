"""What readers of other programs' packed checkpoints have in common: their matrices, seen as MLX packs them.

MLX stores a matrix as codes, low bits first in words of 32, and for each group of them in a row a scale and a bias: a
weight is scale · code + bias. Programs that store signed codes with one scale differ in nothing but the offset: the
bias is -2^(bits-1) · scale, which has the scale's own digits and is therefore exact in every dtype.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gemma_mlx.errors import WeightsError
from gemma_mlx.weights.header import ITEM_BYTES, Making, TensorInfo
from gemma_mlx.weights.names import Names
from gemma_mlx.weights.quantized import AFFINE_GROUPS, FLOATING, Quantization, Table

AGAIN: Final = "The file may be damaged; fetch the model again into an empty folder."


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The steps to which a linear map's activations are rounded, 8 bits of them; None where they are not.

    Attributes:
        before: of what it reads, a number or where it lies; there, 0 stands for none.
        after: of what it gives.
    """

    before: TensorInfo | float | None = None
    after: TensorInfo | float | None = None


@dataclass(frozen=True, kw_only=True)
class Repacked:
    """The tensors of a folder, all in MLX's layout.

    Attributes:
        tensors: by name; what was packed elsewhere has `weight`, `scales` and `biases`, as MLX names them.
        table: how they are quantized; None where none is.
        unread: name of a tensor -> why it is left on the disk.
        grids: module, as the file names it -> the grid of its activations.
        method: the `quant_method` by which they were packed; None where it was MLX, or where nothing is packed.
    """

    tensors: Mapping[str, TensorInfo]
    table: Table | None
    unread: Mapping[str, str] = field(default_factory=dict)
    grids: Mapping[str, Grid] = field(default_factory=dict)
    method: str | None = None


def affine(module: str, codes: TensorInfo, scales: TensorInfo, bits: int) -> tuple[Quantization, dict[str, TensorInfo]]:
    """How a matrix is packed, and its three tensors, made of two that hold signed codes and their scales.

    Args:
        module: what the file calls it.
        codes: [rows, columns · bits / width]; I8, or codes offset by 2^(bits-1), low bits first, in U8 or I32.
        scales: floating, [rows], or [rows groups].
        bits: of a code.

    Raises:
        WeightsError: their shapes do not fit each other, or MLX has no such groups.
    """
    if len(codes.shape) != 2 or not all(codes.shape):
        raise _wrong(codes, "is no matrix of codes")
    rows, stored = codes.shape
    columns = stored * ITEM_BYTES[codes.dtype] * 8 // bits
    groups = scales.shape[1] if len(scales.shape) == 2 else 1
    if scales.dtype not in FLOATING or not scales.shape or scales.shape[0] != rows or len(scales.shape) > 2:
        raise _wrong(scales, f"does not fit the {rows:,} rows of {codes.name!r}")
    if not groups or columns % groups:
        raise _wrong(scales, f"does not divide the {columns:,} columns of {codes.name!r} into equal groups")
    alike = columns // groups
    group_size = next((size for size in reversed(AFFINE_GROUPS) if not alike % size), None)
    if group_size is None:
        raise WeightsError(
            f"The tensor {scales.name!r} has a scale for every {alike} weights; MLX packs groups of "
            f"{', '.join(map(str, AFFINE_GROUPS))}.",
            "Use the unquantized checkpoint.",
        )
    offset, times = 1 << bits - 1, alike // group_size
    shape = (rows, columns // group_size)
    words = Making(base=codes, how="signed codes" if codes.dtype == "I8" else "codes")
    spread = Making(base=scales, how="scales", times=times)
    biases = Making(base=scales, how="scales", times=times, factor=-float(offset), again=True)
    return Quantization(mode="affine", bits=bits, group_size=group_size), {
        f"{module}.weight": _of(f"{module}.weight", "U32", (rows, columns * bits // 32), words),
        f"{module}.scales": _of(f"{module}.scales", scales.dtype, shape, spread),
        f"{module}.biases": _of(f"{module}.biases", scales.dtype, shape, biases),
    }


def table(packed: Mapping[str, Quantization], names: Names) -> Table | None:
    """The table that a config.json of MLX would have; None where nothing is packed.

    Args:
        packed: module, as the file names it -> how it is packed.
        names: of the architecture.
    """
    if not packed:
        return None
    paths = {module: names.parameter(f"{module}.weight").removesuffix(".weight") for module in packed}
    return Table(
        default=Counter(packed.values()).most_common(1)[0][0],
        modules={paths[module]: how for module, how in packed.items()},
        spelled={paths[module]: module for module in packed},
    )


def _of(name: str, dtype: str, shape: tuple[int, ...], made: Making) -> TensorInfo:
    base = made.base
    return TensorInfo(name=name, dtype=dtype, shape=shape, file=base.file, start=base.start, stop=base.stop, made=made)


def _wrong(tensor: TensorInfo, what: str) -> WeightsError:
    return WeightsError(f"The tensor {tensor.name!r} of {tensor.dtype} {list(tensor.shape)} {what}.", AGAIN)
