"""Which modules of a checkpoint are quantized, and how: the config's word against the shapes in the file.

mlx-lm and mlx-vlm write `quantization` into config.json: values for all modules, and beside them entries keyed by
module path for those that differ, `false` for those that are not quantized. A module is quantized where the file holds
its `.scales`. For a module without an entry of its own the shapes decide, as they do in mlx-lm, because mixed
checkpoints exist whose values for all modules fit only most of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, cast

import mlx.nn as nn
from mlx.utils import tree_flatten

from gemma_mlx.errors import ConfigError, UnsupportedModelError, WeightsError
from gemma_mlx.weights.header import TensorInfo
from gemma_mlx.weights.names import Names

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]

AFFINE_BITS: Final = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS: Final = (32, 64, 128)
# Mode -> its only (bits, group size).
FIXED: Final[Mapping[Mode, tuple[int, int]]] = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
FLOATING: Final = ("BF16", "F16", "F32")

# `quant_method` -> what it is called, of those that are not read; `foreign.READERS` has the others.
FOREIGN: Final[Mapping[str, str]] = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "block-wise FP8",
    "fbgemm_fp8": "FBGEMM FP8",
    "modelopt": "NVIDIA ModelOpt",
    "mxfp4": "MXFP4 in the layout of transformers",
    "metal": "the Metal kernels of transformers",
    "torchao": "torchao",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "quanto": "Quanto",
    "eetq": "EETQ",
    "higgs": "HIGGS",
    "vptq": "VPTQ",
    "auto-round": "AutoRound",
    "bitnet": "BitNet",
}

_MLX_DEFAULTS: Final = (4, 64)  # bits, and codes that share a scale
_VALUES: Final = ("group_size", "bits", "mode")
_BESIDE: Final = (*_VALUES, "quant_method")  # keys of the table that are no module


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How one matrix is stored: codes of `bits` bits, and for every `group_size` of them in a row a scale.

    Attributes:
        mode: "affine" (a floating scale and bias for each group), "mxfp4", "mxfp8" or "nvfp4" (an 8-bit scale).
        bits: per code.
        group_size: codes that share a scale.
    """

    mode: Mode
    bits: int
    group_size: int

    def __str__(self) -> str:
        return f"{self.mode}, {self.bits} bits, groups of {self.group_size}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """What config.json says.

    Attributes:
        default: for modules without an entry.
        modules: module path, as our model names it -> its entry; None where it says `false`.
        spelled: module path -> how the config spells it.
    """

    default: Quantization
    modules: Mapping[str, Quantization | None]
    spelled: Mapping[str, str]

    def without(self, paths: Collection[str]) -> Table:
        """What it says of all modules but these."""
        return replace(self, modules={path: how for path, how in self.modules.items() if path not in paths})


def read_table(config: Mapping[str, Any], names: Names) -> Table | None:
    """The quantization table of a config.json; None where the checkpoint is not quantized.

    Raises:
        UnsupportedModelError: another program's quantization.
        ConfigError: the table is malformed.
    """
    where, values = find_table(config)
    if values is None:
        return None
    if not isinstance(values, dict):
        raise bad_entry(where, values, "an object")
    method = values.get("quant_method")
    if where != "quantization" and ("bits" not in values or method is not None):
        raise _foreign(method)
    modules: dict[str, Quantization | None] = {}
    spelled: dict[str, str] = {}
    default = _entry(where, values)
    for key, value in values.items():
        if key in _BESIDE:
            continue
        parameter = names.parameter(f"{key}.weight")
        paths = [part.removesuffix(".weight") for part in (names.parts(parameter) or ((parameter,), 0))[0]]
        if isinstance(value, dict):
            unknown = sorted(value.keys() - set(_VALUES))
            if unknown:
                raise bad_entry(f"{where}, {key}", value, f"of {', '.join(_VALUES)}, without {unknown[0]!r}")
            # What an entry leaves out is not taken from the table: MLX then uses affine, 4 bits, groups of 64.
            entry = _entry(f"{where}, {key}", value, _MLX_DEFAULTS) if value else None
        elif isinstance(value, bool):
            entry = default if value else None
        else:
            raise bad_entry(f"{where}, {key}", value, "an object, true or false")
        for path in paths:
            modules[path], spelled[path] = entry, key
    return Table(default=default, modules=modules, spelled=spelled)


def find_table(config: Mapping[str, Any]) -> tuple[str, Any]:
    """(where, value) of the first table there is; other programs put theirs beside the text model's sizes."""
    if config.get("quantization") is not None:
        return "quantization", config["quantization"]
    text = config.get("text_config")
    for where, values in (("", config), ("text_config, ", text if isinstance(text, dict) else {})):
        for key in ("quantization_config", "compression_config"):
            if values.get(key) is not None:
                return where + key, values[key]
    return "", None


def _entry(where: str, values: Mapping[str, Any], default: tuple[Any, Any] = (None, None)) -> Quantization:
    mode = values.get("mode", "affine")
    if not isinstance(mode, str) or (mode != "affine" and mode not in FIXED):
        raise bad_entry(f"{where}, mode", mode, "one of 'affine', " + ", ".join(map(repr, FIXED)))
    default_bits, default_group = FIXED.get(cast(Mode, mode), default)
    # mlx_lm.convert's mixed recipes write null where no group size was named: MLX then uses its own.
    own = dict(zip(("bits", "group_size"), FIXED.get(cast(Mode, mode), _MLX_DEFAULTS), strict=True))
    said = {key: own[key] if key in values and values[key] is None else values.get(key) for key in own}
    bits: Any = said["bits"] if "bits" in values else default_bits
    group_size: Any = said["group_size"] if "group_size" in values else default_group
    if mode != "affine":
        if (bits, group_size) != (default_bits, default_group):
            raise bad_entry(where, dict(values), f"{default_bits} bits in groups of {default_group}, as {mode} is")
        return Quantization(mode=cast(Mode, mode), bits=bits, group_size=group_size)
    if type(bits) is not int or bits not in AFFINE_BITS:
        raise bad_entry(f"{where}, bits", bits, f"one of {', '.join(map(str, AFFINE_BITS))}")
    if type(group_size) is not int or group_size not in AFFINE_GROUPS:
        raise bad_entry(f"{where}, group_size", group_size, f"one of {', '.join(map(str, AFFINE_GROUPS))}")
    return Quantization(mode="affine", bits=bits, group_size=group_size)


def bad_entry(where: str, value: object, wanted: str) -> ConfigError:
    """What is said of a value of config.json that is none of those that are understood."""
    shown = repr(value)
    return ConfigError(
        f"config.json, {where} is {shown if len(shown) <= 60 else shown[:57] + '...'}, but must be {wanted}.",
        "Fetch config.json again, or undo the edit.",
    )


def _foreign(method: object) -> UnsupportedModelError:
    name = FOREIGN.get(method, repr(method)[:60]) if isinstance(method, str) else "a method it does not name"
    return UnsupportedModelError(
        f"This checkpoint is quantized with {name}, which gemma does not read; it reads what MLX tools write, "
        "compressed-tensors, and Google's own.",
        "Use the unquantized checkpoint, or one made for MLX, for example from huggingface.co/mlx-community.",
    )


def leaves(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(path, module) of the modules that hold no others, in the order of the network."""
    return cast(list[tuple[str, nn.Module]], tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module))


def plan(
    model: nn.Module, table: Table | None, tensors: Mapping[str, TensorInfo], names: Names
) -> dict[str, Quantization | None]:
    """Module path -> how the checkpoint stores its matrix, for every module of `model` that can be quantized.

    Args:
        model: unquantized and unevaluated; its shapes are what the codes must unpack to.
        table: what config.json says.
        tensors: what the files hold, by parameter name.
        names: of the architecture; its unread modules may have entries in the table.

    Raises:
        WeightsError: the config and the files contradict each other, or no quantization fits the shapes.
    """
    found: dict[str, Quantization | None] = {}
    for path, module in leaves(model):
        if hasattr(module, "to_quantized"):
            found[path] = _module(path, module.weight.shape, table, tensors)
    _check_table(table, found, tensors, names)
    return found


def _module(
    path: str, shape: Sequence[int], table: Table | None, tensors: Mapping[str, TensorInfo]
) -> Quantization | None:
    scales, weight = tensors.get(f"{path}.scales"), tensors.get(f"{path}.weight")
    named = table is not None and path in table.modules
    said = table.modules[path] if table is not None and named else None
    if scales is None or weight is None:
        if said is not None and weight is not None:
            raise _contradiction(path, f"config.json says {said}, but the file holds no scales for it")
        if weight is not None and weight.dtype == "U32":
            raise _contradiction(path, "it is packed, but the file holds no scales for it")
        return None
    if table is None:
        raise _contradiction(path, "the file holds scales for it, but config.json has no 'quantization'")
    if named and said is None:
        raise _contradiction(path, "config.json says it is not quantized, but the file holds scales for it")
    seen = _from_shapes(path, shape, weight, scales)
    if said is not None and said != seen:
        raise _contradiction(path, f"config.json says {said}, and its tensors {seen}")
    return seen


def _from_shapes(path: str, shape: Sequence[int], weight: TensorInfo, scales: TensorInfo) -> Quantization:
    """The one quantization under which a matrix of `shape`, or one for each expert, has these weights and scales."""
    *rows, columns = shape
    wrong = _contradiction(
        path,
        f"a weight of {weight.dtype} {list(weight.shape)} with scales of {scales.dtype} {list(scales.shape)} fits no "
        f"quantization of a matrix {list(shape)}",
    )
    if weight.dtype != "U32" or not len(shape) == len(weight.shape) == len(scales.shape):
        raise wrong
    codes, groups = weight.shape[-1], scales.shape[-1]
    fits = list(weight.shape[:-1]) == list(scales.shape[:-1]) == rows
    if not fits or not groups or columns % groups or codes * 32 % columns:
        raise wrong
    bits, group_size = codes * 32 // columns, columns // groups
    if scales.dtype in FLOATING:
        if bits in AFFINE_BITS and group_size in AFFINE_GROUPS:
            return Quantization(mode="affine", bits=bits, group_size=group_size)
    elif scales.dtype == "U8":
        for mode, fixed in FIXED.items():
            if fixed == (bits, group_size):
                return Quantization(mode=mode, bits=bits, group_size=group_size)
    raise wrong


def _check_table(
    table: Table | None,
    found: Mapping[str, Quantization | None],
    tensors: Mapping[str, TensorInfo],
    names: Names,
) -> None:
    if table is None:
        return
    if not any(found.values()) and tensors:
        raise WeightsError(
            "config.json says that the weights are quantized, but no tensor in the files is.",
            "Index, config and files may belong to different checkpoints; fetch the model again into an empty folder.",
        )
    for path, said in table.modules.items():
        spelled = table.spelled[path]
        if (
            said is not None
            and path not in found
            and names.why_unread(f"{spelled}.weight") is None
            and path != "lm_head"
        ):
            raise WeightsError(
                f"config.json quantizes {spelled!r}, a module that this model does not have.",
                "config.json and the files may belong to different checkpoints; fetch the model again.",
            )


def _contradiction(path: str, what: str) -> WeightsError:
    return WeightsError(
        f"The tensor {path + '.weight'!r}: {what}.",
        "config.json and the files may belong to different checkpoints; fetch the model again into an empty folder.",
    )


def quantize(model: nn.Module, found: Mapping[str, Quantization | None]) -> None:
    """Replaces modules of `model` by quantized ones, as `plan` says, without computing anything."""

    def how(path: str, module: nn.Module) -> dict[str, Any] | bool:
        quantization = found.get(path) if hasattr(module, "to_quantized") else None
        return False if quantization is None else asdict(quantization)

    nn.quantize(model, class_predicate=how)
