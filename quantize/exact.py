"""A checkpoint that is packed already -> the same in MLX's layout: no code and no scale is computed anew.

Codes are the bytes of the source. Scales and biases are written for groups that MLX has, in the dtype of the source, so
what is loaded from either is the same to the bit. What the layout cannot say, grids of activations, goes into
config.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gemma_mlx.quantize.plan import TABLES, Decision, table_of
from gemma_mlx.spec import DecoderSpec
from gemma_mlx.weights.foreign import PACKED_FROM, note, steps_of
from gemma_mlx.weights.header import TensorInfo
from gemma_mlx.weights.load import Checkpoint
from gemma_mlx.weights.quantized import Quantization
from gemma_mlx.weights.write import Output

_OTHERS = ("compression_config",)  # where older programs put their tables


def decisions_of(checkpoint: Checkpoint, tensors: Iterator[tuple[str, TensorInfo, str]]) -> Iterator[Decision]:
    """What becomes of each matrix with its scales, and of each other tensor, in the order of the source.

    Args:
        checkpoint: the source.
        tensors: (parameter, where it lies, what it is), as `plan.written` gives them.
    """
    names = checkpoint.match.architecture.NAMES
    every = {parameter: (tensor, kind) for parameter, tensor, kind in tensors}
    for parameter, (tensor, kind) in sorted(every.items(), key=lambda each: (each[1][0].file, each[1][0].start)):
        module, _, last = parameter.rpartition(".")
        beside = [f"{module}.{name}" for name in ("scales", "biases") if f"{module}.{name}" in every]
        name = names.published(parameter)
        if not beside or last not in ("weight", "scales", "biases"):
            output = Output(name=name, dtype=tensor.dtype, shape=tensor.shape)
            is_map = module in checkpoint.quantization
            yield Decision(module=module, path=name, source=tensor, outputs=(output,), method="exact", maps=is_map)
        elif last == "weight" and kind != "borrowed":  # no module of the model has those
            some = [tensor, *(every[one][0] for one in beside)]
            yield Decision(
                module=module,
                path=name.removesuffix(".weight"),
                source=tensor,
                outputs=tuple(
                    Output(name=names.published(one), dtype=each.dtype, shape=each.shape)
                    for one, each in zip((parameter, *beside), some, strict=True)
                ),
                how=_how(checkpoint, module),
                method="exact",
                maps=True,
                beside=tuple(some[1:]),
            )


def _how(checkpoint: Checkpoint, module: str) -> Quantization:
    """How a module of the model, or of a tower, is packed."""
    if (how := checkpoint.quantization.get(module)) is not None:
        return how
    table = checkpoint.repacked.table
    assert table is not None, "what has scales is in a table"
    path = checkpoint.match.architecture.NAMES.parameter(f"{module}.weight").removesuffix(".weight")
    return table.modules.get(path) or table.default


def config_of(checkpoint: Checkpoint, decisions: Sequence[Decision]) -> dict[str, Any]:
    """config.json of what is written: MLX's table, and a note of what it cannot say."""
    written = {key: value for key, value in checkpoint.config.items() if key not in (*TABLES, *_OTHERS)}
    text = written.get("text_config")
    if isinstance(text, dict):
        written["text_config"] = {key: value for key, value in text.items() if key not in (*TABLES, *_OTHERS)}
    spec = checkpoint.match.spec
    if isinstance(spec, DecoderSpec) and not spec.tied_head:
        written |= {"tie_word_embeddings": False}
    written |= dict.fromkeys(TABLES, table_of(checkpoint, decisions))
    packed, names = checkpoint.repacked, checkpoint.match.architecture.NAMES
    if packed.method is not None:
        grids = {}
        for module, grid in packed.grids.items():
            parameter = names.parameter(f"{module}.weight")
            if any(steps := steps_of(grid)):
                grids[names.published(parameter).removesuffix(".weight")] = steps
        written |= {PACKED_FROM: note(packed.method, grids)}
    return dict(sorted(written.items()))
