"""The tensors of a GGUF file under the names of the Hugging Face layout, and in the packings of MLX.

Of llama.cpp's names: gguf-py/gguf/tensor_mapping.py and conversion/gemma.py. Its converter adds 1 to the weights of the
norms up to Gemma 3, which is taken off again where they are read, stacks what Gemma 3n has as several matrices, and
keeps each expert's gate and up in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, get_args

import numpy as np

from gemma_mlx.errors import UnsupportedModelError, WeightsError
from gemma_mlx.gguf.blocks import READ, Bytes, Leaf
from gemma_mlx.gguf.config import config_of
from gemma_mlx.gguf.places import is_tower
from gemma_mlx.gguf.reader import Entry, Gguf, read_gguf
from gemma_mlx.weights.files import Stored
from gemma_mlx.weights.header import Blocks, Making, TensorInfo
from gemma_mlx.weights.names import COMPUTED

# A tensor's name without the last part -> the module, as published checkpoints of the bare decoder call it.
_WHOLE: Final[Mapping[str, str]] = {
    "token_embd": "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
    "dense_2": "dense.0",
    "dense_3": "dense.1",
    "per_layer_token_embd": "model.embed_tokens_per_layer",
    "per_layer_model_proj": "model.per_layer_model_projection",
    "per_layer_proj_norm": "model.per_layer_projection_norm",
}
_IN_LAYER: Final[Mapping[str, str]] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "router.proj",
    "ffn_gate_exps": "experts.switch_glu.gate_proj",
    "ffn_up_exps": "experts.switch_glu.up_proj",
    "ffn_down_exps": "experts.switch_glu.down_proj",
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
    "altup_correct_coef": "altup.correction_coefs",
    "altup_predict_coef": "altup.prediction_coefs",
    "altup_router": "altup.modality_router",
    "altup_router_norm": "altup.router_norm",
    "laurel_l": "laurel.linear_left",
    "laurel_r": "laurel.linear_right",
    "laurel_post_norm": "laurel.post_laurel_norm",
}
# The same, of numbers that are no module's weight.
_SINGLE: Final[Mapping[str, str]] = {
    "layer_output_scale.weight": "layer_scalar",
    "altup_correct_scale.weight": "altup.correct_output_scale",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale",
}
_STACKED: Final[Mapping[str, str]] = {
    "altup_proj.weight": "model.altup_projections",
    "altup_unembd_proj.weight": "model.altup_unembed_projections",
}
_GATE_AND_UP: Final = "ffn_gate_up_exps.weight"
_GATE_UP_MODULES: Final = ("experts.switch_glu.gate_proj", "experts.switch_glu.up_proj")

# In Gemma 1 the norm before the feed-forward is named after the attention it follows.
_IN_LAYER_GEMMA1: Final = {**_IN_LAYER, "ffn_norm": "post_attention_layernorm"}
# Architectures whose norms hold 1 more than the Hugging Face layout has.
_SHIFTED: Final = ("gemma", "gemma2", "gemma3", "gemma-embedding")
_NORM: Final = "norm.weight"

# Ollama's files, and some others, hold the towers beside the decoder.
_UNREAD: Final[Mapping[str, str]] = {
    r"rope_freqs\.weight": COMPUTED,
    r"(v|mm|a)\..*": "pictures and sound are not read by this version",
}


def stored_in_gguf(path: Path) -> Stored:
    """Every tensor of a GGUF file, and what of it, or of the files beside it, is not read.

    Raises:
        WeightsError: the file is damaged, or holds a tensor that no Gemma has.
        UnsupportedModelError: it holds another model, or numbers of a kind that MLX has no like of.
    """
    gguf = read_gguf(path)
    config_of(gguf)  # says what is wrong with another model before its tensors do
    tensors: dict[str, TensorInfo] = {}
    unread: dict[str, str] = {}
    for entry in gguf.tensors.values():
        why = next((why for pattern, why in _UNREAD.items() if re.fullmatch(pattern, entry.name)), None)
        if why is not None:
            unread[entry.name] = why
        else:
            tensors |= dict(_tensors(gguf, entry))
    towers = sorted(other.name for other in path.parent.glob("*.gguf") if is_tower(other.name))
    return Stored(tensors=tensors, unread=unread | dict.fromkeys(towers, "pictures and sound are not read yet"))


def _tensors(gguf: Gguf, entry: Entry) -> Iterator[tuple[str, TensorInfo]]:
    """(name in the Hugging Face layout, where it lies) of all that a tensor of the file becomes."""
    if (stack := _STACKED.get(entry.name)) is not None:
        for index in range(entry.shape[0]):
            yield from _leaves(f"{stack}.{index}", _one(entry, index))
        return
    layer = re.fullmatch(r"blk\.(\d{1,4})\.(.+)", entry.name)
    if layer is None:
        module = _WHOLE.get(entry.name.removesuffix(".weight"))
        if module is None or not entry.name.endswith(".weight"):
            raise _stranger(gguf, entry)
        yield from _leaves(module, entry, shifted=_is_shifted(gguf, f"{module}.weight"))
        return
    prefix, name = f"model.layers.{int(layer[1])}", layer[2]
    if (single := _SINGLE.get(name)) is not None:
        yield f"{prefix}.{single}", _plain(entry, shifted=False)
    elif name == _GATE_AND_UP:
        # The gates of all experts, and what they let through: the first and the second half of the rows of each.
        for leaf, tensor in _leaves("", entry):
            for module, half in zip(_GATE_UP_MODULES, tensor.parts(2, 1), strict=True):
                yield f"{prefix}.{module}{leaf}", half
    else:
        modules = _IN_LAYER_GEMMA1 if gguf.architecture == "gemma" else _IN_LAYER
        module = modules.get(name.removesuffix(".weight"))
        if module is None or not name.endswith(".weight"):
            raise _stranger(gguf, entry)
        yield from _leaves(f"{prefix}.{module}", entry, shifted=_is_shifted(gguf, f"{module}.weight"))


def _stranger(gguf: Gguf, entry: Entry) -> WeightsError:
    return WeightsError(
        f"{entry.file} holds the tensor {entry.name[:80]!r}, for which llama.cpp's {gguf.architecture} has no place.",
        "The file may be made by another program; take one made by llama.cpp, or the model in the Hugging Face layout.",
    )


def _is_shifted(gguf: Gguf, name: str) -> bool:
    return gguf.architecture in _SHIFTED and name.endswith(_NORM)


def _one(entry: Entry, index: int) -> Entry:
    """One of the matrices that are stacked in a tensor."""
    nbytes = (entry.stop - entry.start) // entry.shape[0]
    return replace(entry, shape=entry.shape[1:], start=entry.start + index * nbytes)


def _leaves(module: str, entry: Entry, *, shifted: bool = False) -> Iterator[tuple[str, TensorInfo]]:
    """The weight of a module, and where it is packed its scales and biases, which are made of the same bytes."""
    packing = entry.kind.packing
    if packing is None or shifted:
        yield f"{module}.weight", _plain(entry, shifted=shifted)
        return
    *rows, columns = entry.shape
    if columns % entry.kind.weights or columns % 32:
        raise _unlike(entry)
    base = _raw(entry, "U8", (*rows, columns // entry.kind.weights * entry.kind.nbytes))
    leaf: Leaf
    for leaf in get_args(Leaf):
        made = packing.made_bytes(leaf, entry.kind.weights)
        blocks = Blocks(stored=entry.kind.nbytes, made=made, make=packing.make(leaf))
        yield (
            f"{module}.{leaf}",
            replace(
                base,
                dtype="U32" if leaf == "weight" else packing.scales,
                shape=(*rows, columns * packing.bits // 32 if leaf == "weight" else columns // 32),
                made=Making(base=base, how=blocks, again=leaf != "weight"),
            ),
        )


def _raw(entry: Entry, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    return TensorInfo(
        file=entry.file, name=entry.name, dtype=dtype, shape=shape, start=entry.start, stop=entry.stop
    )  # fmt: skip


def _plain(entry: Entry, *, shifted: bool) -> TensorInfo:
    """Numbers that are taken as they are, or less the 1 that llama.cpp's converter adds."""
    kind = entry.kind
    if kind.floating is None or (shifted and kind.floating != "F32"):
        raise _unlike(entry)
    base = _raw(entry, kind.floating, entry.shape)
    return replace(base, made=Making(base=base, how=_LESS_1)) if shifted else base


def _less_1(blocks: Bytes) -> Bytes:
    """[numbers 4] of float32, as bytes."""
    return (np.ascontiguousarray(blocks).view("<f4") - np.float32(1)).view(np.uint8)


_LESS_1: Final = Blocks(stored=4, made=4, make=_less_1)


def _unlike(entry: Entry) -> UnsupportedModelError:
    *most, last = READ
    return UnsupportedModelError(
        f"{entry.file} stores {entry.name!r} as {entry.kind.name}, for which MLX has no packing; gemma reads "
        f"{', '.join(most)} and {last}.",
        "Take another file of this model: Q4_0 or Q8_0, or Q4_K_M, Q5_K_M or Q6_K.",
    )
