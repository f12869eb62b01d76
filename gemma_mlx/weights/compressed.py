"""Checkpoints of compressed-tensors, which vLLM reads: whole numbers of 2, 4 or 8 bits, symmetric, in groups or rows.

`pack-quantized` holds codes, offset by 2^(bits-1), low bits first in words of 32 (`weight_packed`), `int-quantized`
signed bytes (`weight`); both have a `weight_scale` for each group or row. Groups of modules share what is said in
config.json: a module belongs to the group that names it, else to one of whose patterns it matches, else to that of its
class. Activations may lie on a grid of 8 bits with a step of their own before (`input_scale`) and behind
(`output_scale`) a linear map, 0 standing for none. (github.com/vllm-project/compressed-tensors 0.20)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gemma_mlx.errors import ConfigError, UnsupportedModelError, WeightsError
from gemma_mlx.weights.header import TensorInfo
from gemma_mlx.weights.names import Names
from gemma_mlx.weights.quantized import FLOATING, Quantization, bad_entry
from gemma_mlx.weights.repack import AGAIN, Grid, Repacked, affine, table

METHOD: Final = "compressed-tensors"
BITS: Final = (2, 4, 8)
PACKED, BYTES = "pack-quantized", "int-quantized"

_KEYS: Final = (
    "quant_method", "format", "config_groups", "ignore", "quantization_status", "global_compression_ratio",
    "kv_cache_scheme", "sparsity_config", "transform_config", "moe_sparsity_config", "version",
)  # fmt: skip
_SHAPES: Final = "the shape that the codes have unpacked, which the model says as well"
_UNREAD: Final = {
    "weight_shape": _SHAPES,
    "k_scale": "for a packed cache of another program",
    "v_scale": "for a packed cache of another program",
}
_STEPS: Final = ("input_scale", "output_scale")


def repacked(values: Mapping[str, Any], tensors: Mapping[str, TensorInfo], names: Names) -> Repacked:
    """The checkpoint in MLX's layout.

    Args:
        values: the `quantization_config` of config.json.
        tensors: of the folder, by name.
        names: of the architecture.

    Raises:
        ConfigError: config.json says how modules are packed in a way that is not understood.
        UnsupportedModelError: it says a way that this version does not read, and a module that it reads has it.
        WeightsError: codes have no scales, or they do not fit each other.
    """
    groups = _groups(values)
    found = dict(tensors)
    packed: dict[str, Quantization] = {}
    unread: dict[str, str] = {}
    grids: dict[str, Grid] = {}
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        is_packed = last == "weight_packed" or (last == "weight" and tensor.dtype not in FLOATING)
        if not is_packed:
            continue
        group = _group_of(module, groups)
        if group is None:
            raise WeightsError(
                f"The tensor {name!r} holds codes, and no group of config.json says how they are packed.",
                "config.json and the files may belong to different checkpoints; fetch the model again.",
            )
        if names.why_unread(f"{module}.weight") is not None and group.why_not is not None:
            continue  # left on the disk in any case
        bits = group.bits(tensor)
        for beside in ("weight_zero_point", "weight_g_idx"):
            if f"{module}.{beside}" in tensors:
                raise _unsupported(f"{module}.{beside} shifts or reorders the codes")
        if (scale := tensors.get(f"{module}.weight_scale")) is None:
            raise WeightsError(f"The tensor {name!r} holds codes, and there is no '{module}.weight_scale'.", AGAIN)
        packed[module], made = affine(module, tensor, scale, bits)
        for gone in (name, scale.name, *(f"{module}.{step}" for step in _STEPS)):
            found.pop(gone, None)
        found |= made
        steps = [tensors.get(f"{module}.{step}") for step in _STEPS]
        _check_steps(module, group, steps)
        if any(steps):
            grids[module] = Grid(before=steps[0], after=steps[1])
    for name in list(found):
        if (why := _UNREAD.get(name.rpartition(".")[2])) is not None:
            unread[name] = why
            del found[name]
    return Repacked(tensors=found, table=table(packed, names), unread=unread, grids=grids, method=METHOD)


class _Group:
    """Modules that are packed alike.

    Attributes:
        targets: names, patterns behind "re:", and classes.
        why_not: why they are not read; None where they are.
        steps: whether there are grids before and behind its linear maps.
    """

    def __init__(self, name: str, values: Mapping[str, Any], general: object) -> None:
        self.name = name
        targets = values.get("targets")
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise _bad(f"{name}, targets", targets, "a list of names")
        self.targets: tuple[str, ...] = tuple(targets)
        for target in targets:
            try:
                re.compile(target.removeprefix("re:"))
            except re.error as error:
                raise _bad(f"{name}, targets", target, f"a pattern ({error})") from error
        self._weights = values.get("weights") or {}
        if not isinstance(self._weights, dict):
            raise _bad(f"{name}, weights", self._weights, "an object")
        given = values.get("format")
        self._format = given if given is not None else general
        inputs, outputs = (values.get(f"{side}_activations") for side in ("input", "output"))
        self.steps = (inputs is not None, outputs is not None)
        grids = (_why_no_grid("input", inputs), _why_no_grid("output", outputs))
        self.why_not = self._why_not() or grids[0] or grids[1]

    def _why_not(self) -> str | None:
        how = self._weights
        if self._format not in (PACKED, BYTES):
            return f"in the format {str(self._format)[:40]!r}"
        if how.get("type", "int") != "int":
            return f"as numbers of the type {str(how.get('type'))[:20]!r}"
        if how.get("num_bits", 8) not in BITS:
            return f"with {str(how.get('num_bits'))[:20]} bits"
        if how.get("symmetric", True) is not True:
            return "with zero points (symmetric is false)"
        strategy = how.get("strategy") or ("group" if how.get("group_size") else "channel")
        if strategy not in ("group", "channel"):
            return f"with a scale for each {str(strategy)[:20]}"
        return None

    def bits(self, codes: TensorInfo) -> int:
        """Of each of its codes, held against how they are stored.

        Raises:
            UnsupportedModelError: they are not read.
            WeightsError: they are stored otherwise than config.json says.
        """
        if self.why_not is not None:
            raise _unsupported(f"{self.name} of its groups is packed {self.why_not}")
        bits: int = self._weights.get("num_bits", 8)
        wanted = "I32" if codes.name.endswith("weight_packed") else "I8"
        if codes.dtype != wanted or (wanted == "I8" and bits != 8):
            raise WeightsError(
                f"The tensor {codes.name!r} is {codes.dtype}, and config.json says that its codes have {bits} bits, "
                f"which lie in {'I8' if self._format == BYTES else 'I32'}.",
                "config.json and the files may belong to different checkpoints; fetch the model again.",
            )
        return bits


def _why_no_grid(side: str, values: Any) -> str | None:
    if values is None:
        return None
    if not isinstance(values, dict):
        raise _bad(f"{side}_activations", values, "an object or null")
    stated = (values.get("num_bits", 8), values.get("type", "int"), values.get("symmetric", True))
    if stated != (8, "int", True) or values.get("dynamic", False) is not False:
        return f"for {side} activations that are rounded as they come, or otherwise than to 8 bits with a fixed step"
    if values.get("strategy") not in (None, "tensor"):
        return f"for {side} activations with more than one step"
    return None


def _groups(values: Mapping[str, Any]) -> list[_Group]:
    if unknown := sorted(values.keys() - set(_KEYS)):
        raise _bad(unknown[0], values[unknown[0]], f"one of {', '.join(_KEYS)}")
    sparsity, transform = values.get("sparsity_config"), values.get("transform_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        raise _unsupported(f"its matrices are sparse ({str(sparsity['format'])[:40]})")
    if transform:
        raise _unsupported("its weights are rotated (transform_config)")
    status = values.get("quantization_status", "compressed")
    if status != "compressed":
        raise _unsupported(f"its weights are not packed (quantization_status is {str(status)[:20]!r})")
    groups = values.get("config_groups")
    if not isinstance(groups, dict) or not groups or not all(isinstance(each, dict) for each in groups.values()):
        raise _bad("config_groups", groups, "an object of groups")
    return [_Group(name, each, values.get("format")) for name, each in groups.items()]


def _group_of(module: str, groups: list[_Group]) -> _Group | None:
    """The group that names a module, or matches it, or its class, in this order."""
    kind = "Embedding" if re.search(r"(^|\.)embed_tokens(_per_layer)?$", module) else "Linear"
    for fits in (
        lambda target: target == module,
        lambda target: target.startswith("re:") and re.match(target[3:], module) is not None,
        lambda target: not target.startswith("re:") and target.endswith(kind),
    ):
        for group in groups:
            if any(fits(target) for target in group.targets):
                return group
    return None


def _check_steps(module: str, group: _Group, steps: list[TensorInfo | None]) -> None:
    for step, stated, name in zip(steps, group.steps, _STEPS, strict=True):
        if stated and step is None and not module.endswith(("embed_tokens", "embed_tokens_per_layer")):
            raise WeightsError(
                f"config.json says that {module!r} has activations on a grid, and there is no '{module}.{name}'.", AGAIN
            )
        if step is not None and (step.dtype not in FLOATING or step.shape not in ((), (1,))):
            raise WeightsError(
                f"The tensor {step.name!r} is {step.dtype} {list(step.shape)}, and should be one number.", AGAIN
            )


def _unsupported(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"This checkpoint is packed with compressed-tensors in a way that gemma does not read: {what}.",
        "Use the unquantized checkpoint, or one made for MLX, for example from huggingface.co/mlx-community.",
    )


def _bad(where: str, value: object, wanted: str) -> ConfigError:
    return bad_entry(f"quantization_config, {where}", value, wanted)
