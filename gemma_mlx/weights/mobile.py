"""Google's checkpoints for phones, `quant_method: gemma`: 2, 4 and 8 bits, and activations on a grid of 8.

Codes lie in bytes, low bits first, from -2^(bits-1) on; 8 bits are signed bytes. Each row has one scale. The file does
not say how many bits a code has: an ordered list of patterns in config.json does, of which the first that is found in a
module's name counts. Each linear map may have two steps to which its activations are rounded, 0 standing for none.
(transformers 5.23, `quantizers/quantizer_gemma.py`, whose outputs the goldens hold.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gemma_mlx.errors import ConfigError, WeightsError
from gemma_mlx.weights.header import TensorInfo
from gemma_mlx.weights.names import Names
from gemma_mlx.weights.quantized import Quantization, bad_entry
from gemma_mlx.weights.repack import AGAIN, Grid, Repacked, affine, table

METHOD: Final = "gemma"
BITS: Final = (2, 4, 8)

_KEYS: Final = ("quant_method", "num_bits", "quantize_embeddings", "module_quant_configs", "modules_to_not_convert")
# Last part of a name -> what holds the scales of such codes.
_CODES: Final = {"weight": "weight_scale", "embedding_quantized": "embedding_scale"}
_STEPS: Final = ("input_activation_scale", "output_activation_scale")
_CACHES: Final = ("k_cache_scale", "v_cache_scale")


def repacked(values: Mapping[str, Any], tensors: Mapping[str, TensorInfo], names: Names) -> Repacked:
    """The checkpoint in MLX's layout.

    Args:
        values: the `quantization_config` of config.json.
        tensors: of the folder, by name.
        names: of the architecture.

    Raises:
        ConfigError: config.json says how modules are packed in a way that is not understood.
        WeightsError: codes have no scales, or scales no codes, or they do not fit each other.
    """
    bits = Bits(values)
    found: dict[str, TensorInfo] = {}
    packed: dict[str, Quantization] = {}
    steps: dict[str, dict[str, TensorInfo]] = {}
    unread: dict[str, str] = {}
    scales = {name for name in tensors if name.rpartition(".")[2] in _CODES.values()}
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        if last in _STEPS:
            steps.setdefault(module, {})[last] = _step(tensor)
        elif last in _CACHES:
            unread[name] = "for a packed cache of another program"
        elif last in _CODES and tensor.dtype in ("U8", "I8"):
            scale = f"{module}.{_CODES[last]}"
            if scale not in tensors:
                raise WeightsError(f"The tensor {name!r} holds codes, and there is no {scale!r} beside it.", AGAIN)
            packed[module], made = affine(module, tensor, tensors[scale], bits.of(module, tensor))
            found |= made
        elif name not in scales:
            found[name] = tensor
    if left := sorted(scales - {f"{module}.{scale}" for module in packed for scale in _CODES.values()}):
        raise WeightsError(f"The tensor {left[0]!r} holds scales, and there are no codes beside it.", AGAIN)
    grids = {module: Grid(before=each.get(_STEPS[0]), after=each.get(_STEPS[1])) for module, each in steps.items()}
    return Repacked(tensors=found, table=table(packed, names), unread=unread, grids=grids, method=METHOD)


def _step(tensor: TensorInfo) -> TensorInfo:
    if tensor.dtype not in ("F32", "BF16", "F16") or tensor.shape not in ((), (1,)):
        raise WeightsError(
            f"The tensor {tensor.name!r} is {tensor.dtype} {list(tensor.shape)}, and should be one number.", AGAIN
        )
    return tensor


class Bits:
    """How many bits the codes of each module have.

    Args:
        values: the `quantization_config` of config.json.

    Raises:
        ConfigError: it holds what is not understood.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        if unknown := sorted(values.keys() - set(_KEYS)):
            raise _bad(unknown[0], values[unknown[0]], f"one of {', '.join(_KEYS)}")
        self._default = _bits("num_bits", values.get("num_bits", 4))
        patterns = values.get("module_quant_configs") or {}
        if not isinstance(patterns, dict):
            raise _bad("module_quant_configs", patterns, "an object")
        self._patterns: list[tuple[re.Pattern[str], int]] = []
        for pattern, how in patterns.items():
            stated = how.get("num_bits", self._default) if isinstance(how, dict) else how
            if isinstance(how, dict) and how.keys() - {"num_bits"}:
                raise _bad(pattern, how, "an object with 'num_bits' alone")
            try:
                self._patterns.append((re.compile(pattern), _bits(pattern, stated)))
            except re.error as error:
                raise _bad("module_quant_configs", pattern, f"a pattern ({error})") from error

    def stated(self, module: str) -> int:
        """What config.json says of a module, as the file names it."""
        return next((bits for pattern, bits in self._patterns if pattern.search(module)), self._default)

    def of(self, module: str, codes: TensorInfo) -> int:
        """The same, held against how its codes are stored.

        Raises:
            WeightsError: they contradict each other.
        """
        stated = self.stated(module)
        if (stated == 8) != (codes.dtype == "I8"):
            raise WeightsError(
                f"The tensor {codes.name!r} is {codes.dtype}, and config.json says that its codes have {stated} bits, "
                f"which lie in {'I8' if stated == 8 else 'U8'}.",
                "config.json and the files may belong to different checkpoints; fetch the model again.",
            )
        return stated


def _bits(where: str, value: object) -> int:
    if type(value) is not int or value not in BITS:
        raise _bad(where, value, f"one of {', '.join(map(str, BITS))}")
    return value


def _bad(where: str, value: object, wanted: str) -> ConfigError:
    return bad_entry(f"quantization_config, {where}", value, wanted)
