"""Whether the files of a checkpoint hold what the model that config.json describes needs, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from gemma_mlx.errors import WeightsError
from gemma_mlx.weights.header import TensorInfo
from gemma_mlx.weights.quantized import FLOATING, Quantization

INTEGERS: Final = ("I64", "I32")
AGAIN: Final = "Fetch the model again into an empty folder; config.json and the files may be of different checkpoints."


def check_layers(layers: int, tensors: Mapping[str, TensorInfo]) -> None:
    """The plainest contradiction of config and files, said before a model of that many layers is built."""
    held = {int(match[1]) + 1 for name in tensors if (match := re.match(r"model\.layers\.(\d{1,6})\.", name))}
    if held and max(held) != layers:
        raise WeightsError(f"config.json says {layers} layers, and the files hold {max(held)}.", AGAIN)


def check_tensors(
    model_type: str,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, TensorInfo],
    quantization: Mapping[str, Quantization | None],
    integers: Collection[str],
) -> None:
    """Every parameter has its tensor, in its shape and a fitting dtype, and every tensor its parameter."""
    missing = [name for name in shapes if name not in tensors]
    left = [tensor.name for parameter, tensor in tensors.items() if parameter not in shapes]
    if missing:
        instead = f" They hold {_count(left, 'tensor')} without a place: {_few(left)}." if left else ""
        raise WeightsError(
            f"The files lack {_count(missing, 'tensor')} that a {model_type} of this config needs: {_few(missing)}."
            + instead,
            AGAIN,
        )
    if left:
        raise WeightsError(
            f"The files hold {_count(left, 'tensor')} for which a {model_type} of this config has no place: "
            f"{_few(left)}.",
            AGAIN,
        )
    wrong = [name for name, shape in shapes.items() if _layout(tensors[name].shape) != _layout(shape)]
    if wrong:
        first = tensors[wrong[0]]
        raise WeightsError(
            f"{_count(wrong, 'tensor')} {'has' if len(wrong) == 1 else 'have'} another shape than config.json says: "
            f"{first.name!r} is {list(first.shape)}, and should be {list(shapes[wrong[0]])}.",
            AGAIN,
        )
    for name in shapes:
        tensor, allowed = tensors[name], INTEGERS if name in integers else _dtypes(name, quantization)
        if tensor.dtype not in allowed:
            raise WeightsError(
                f"The tensor {tensor.name!r} is {tensor.dtype}, and should be {' or '.join(allowed)}.",
                "It may be quantized by another program; use the unquantized checkpoint, or one made for MLX.",
            )


def _layout(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape`, axes of length 1 last: a depthwise kernel is [width 1 taps] to torch and [width taps 1] to mlx-lm."""
    return tuple(sorted(shape, key=lambda length: length == 1))


def _dtypes(parameter: str, quantization: Mapping[str, Quantization | None]) -> Sequence[str]:
    path, _, name = parameter.rpartition(".")
    how = quantization.get(path)
    if how is None or name == "bias":
        return FLOATING
    if name == "weight":
        return ("U32",)
    return FLOATING if how.mode == "affine" else ("U8",)


def _count(names: Sequence[str], noun: str) -> str:
    return f"{len(names):,} {noun}{'' if len(names) == 1 else 's'}"


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
