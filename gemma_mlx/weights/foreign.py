"""The packed formats that this program reads, each with its reader: what others stored -> what MLX computes with.

A reader is given `quantization_config` and the headers, and says of what each tensor of MLX's layout is made. It reads
no tensor, so a model of any size is looked at, judged and loaded in the memory that an MLX one of its size takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, cast

from gemma_mlx.errors import ConfigError, UnsupportedModelError
from gemma_mlx.weights import compressed, mobile
from gemma_mlx.weights.files import Stored
from gemma_mlx.weights.header import TensorInfo
from gemma_mlx.weights.names import Names
from gemma_mlx.weights.quantized import Quantization, find_table, read_table
from gemma_mlx.weights.read import read
from gemma_mlx.weights.repack import Grid, Repacked

# Methods whose models multiply embeddings by their scale as it is; others round it to the dtype of the table.
EXACT_SCALES: Final = (mobile.METHOD,)

Reader = Callable[[Mapping[str, Any], Mapping[str, TensorInfo], Names], Repacked]

# `quant_method` of config.json -> its reader.
READERS: Final[Mapping[str, Reader]] = MappingProxyType(
    {mobile.METHOD: mobile.repacked, compressed.METHOD: compressed.repacked}
)

# What `gemma quantize --recipe exact` writes into config.json beside the table, for what MLX's layout cannot say.
PACKED_FROM: Final = "packed_from"


def repacked(config: Mapping[str, Any], stored: Stored, names: Names) -> tuple[Stored, Repacked]:
    """The tensors of a folder in MLX's layout, whichever program packed them, and how they are quantized.

    Raises:
        UnsupportedModelError: no reader knows the way they are packed.
        ConfigError: config.json says it in a way that is not understood.
        WeightsError: the files contradict config.json, or themselves.
    """
    where, values = find_table(config)
    reader = None
    if isinstance(values, dict) and where != "quantization" and isinstance(values.get("quant_method"), str):
        reader = READERS.get(values["quant_method"])
    if reader is None:
        method, grids = _packed_from(config)
        return stored, Repacked(tensors=stored.tensors, table=read_table(config, names), grids=grids, method=method)
    found = reader(values, stored.tensors, names)
    return replace(stored, tensors=found.tensors, unread=dict(stored.unread) | dict(found.unread)), found


def grids_of(packed: Repacked, quantization: Mapping[str, Quantization | None], names: Names) -> Mapping[str, Grid]:
    """Path of each linear map of the model -> the grid of its activations, where there is one.

    Raises:
        UnsupportedModelError: one of them is not packed, whose activations are rounded nevertheless.
    """
    found: dict[str, Grid] = {}
    for module, grid in packed.grids.items():
        path = names.parameter(f"{module}.weight").removesuffix(".weight")
        if path not in quantization or names.why_unread(f"{module}.weight") is not None:
            continue
        if quantization[path] is None:
            raise UnsupportedModelError(
                f"The activations of {module!r} are to be rounded, and its weights are not packed, which gemma does "
                "not read.",
                "Use the unquantized checkpoint.",
            )
        found[path] = grid
    return found


def steps_of(grid: Grid) -> tuple[float | None, float | None]:
    """The steps before and behind a linear map, read where they lie in a file; None where there is none.

    Raises:
        WeightsError: the file cannot be read.
    """
    return _step(grid.before), _step(grid.after)


def _step(step: TensorInfo | float | None) -> float | None:
    number = cast(float, read(step).item()) if isinstance(step, TensorInfo) else step
    return number or None


def note(method: str, grids: Mapping[str, tuple[float | None, float | None]]) -> dict[str, Any]:
    """What `packed_from` says in config.json; `repacked` reads it again."""
    return {"quant_method": method, "activation_grids": {module: list(steps) for module, steps in grids.items()}}


def _packed_from(config: Mapping[str, Any]) -> tuple[str | None, dict[str, Grid]]:
    values = config.get(PACKED_FROM)
    if values is None:
        return None, {}
    method = values.get("quant_method") if isinstance(values, dict) else None
    grids = values.get("activation_grids") if isinstance(values, dict) else None
    if method not in READERS or not isinstance(grids, dict) or not all(map(_is_grid, grids.values())):
        raise ConfigError(
            f"config.json, {PACKED_FROM} does not say how activations are rounded.",
            "Fetch config.json again, or undo the edit.",
        )
    return method, {module: Grid(before=steps[0], after=steps[1]) for module, steps in grids.items()}


def _is_grid(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(step is None or (isinstance(step, float) and step > 0) for step in value)
    )
