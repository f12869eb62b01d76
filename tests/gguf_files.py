"""GGUF files for tests: a writer, and a checkpoint of the Hugging Face layout as llama.cpp's converter writes it.

The names, shifts and stacks here are written down a second time, from llama.cpp's side: conversion/gemma.py and
gguf-py/gguf/constants.py.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

ALIGNMENT = 32
TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q4_K": 12, "Q5_K": 13,
    "Q6_K": 14, "BF16": 30,
}  # fmt: skip


def _string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return (4, struct.pack("<I", value)) if value >= 0 else (5, struct.pack("<i", value))
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str | bytes):
        return 8, _string(value)
    entries = [_typed(entry) for entry in value]
    return 9, struct.pack("<IQ", entries[0][0], len(entries)) + b"".join(data for _, data in entries)


def write(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]],
    *,
    version: int = 3,
) -> Path:
    """Writes a file of `tensors`: name -> kind, shape with rows first, bytes."""
    head = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    for name, value in metadata.items():
        kind, data = _typed(value)
        head += [_string(name), struct.pack("<I", kind), data]
    body = bytearray()
    for name, (kind_name, shape, data) in tensors.items():
        dims = tuple(reversed(shape))
        head += [_string(name), struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, TYPES[kind_name], len(body))]
        body += data + bytes(-len(data) % ALIGNMENT)
    header = b"".join(head)
    path.write_bytes(header + bytes(-len(header) % ALIGNMENT) + body)
    return path


# ---- numbers -> blocks, as ggml's plain quantization rounds them


def _q4_0(x: np.ndarray) -> np.ndarray:
    largest = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
    d = (largest / -8).astype(np.float16)
    codes = np.clip(np.rint(x / np.where(d == 0, 1, d).astype(np.float32)) + 8, 0, 15).astype(np.uint8)
    return np.concatenate([d.view(np.uint8), codes[:, :16] | codes[:, 16:] << 4], axis=1)


def _q8_0(x: np.ndarray) -> np.ndarray:
    d = (np.abs(x).max(1, keepdims=True) / 127).astype(np.float16)
    codes = np.clip(np.rint(x / np.where(d == 0, 1, d).astype(np.float32)), -127, 127).astype(np.int8)
    return np.concatenate([d.view(np.uint8), codes.view(np.uint8)], axis=1)


def encoded(kind: str, values: np.ndarray) -> bytes:
    """Numbers as a kind stores them; in K-quants, zeros."""
    if kind == "F32":
        return values.astype("<f4").tobytes()
    if kind == "F16":
        return values.astype("<f2").tobytes()
    if kind == "BF16":
        return np.array(mx.array(values).astype(mx.bfloat16).view(mx.uint16)).astype("<u2").tobytes()
    if kind in ("Q2_K", "Q5_K"):
        return bytes(values.size // 256 * {"Q2_K": 84, "Q5_K": 176}[kind])
    blocks = values.astype(np.float32).reshape(-1, 32)
    return {"Q4_0": _q4_0, "Q8_0": _q8_0}[kind](blocks).tobytes()


def decoded(kind: str, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """What blocks of Q4_0 and Q8_0 stand for, weight by weight."""
    blocks = np.frombuffer(data, np.uint8).reshape(-1, 18 if kind == "Q4_0" else 34)
    d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    if kind == "Q4_0":
        codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1).astype(np.float32) - 8
    else:
        codes = np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)
    return (d * codes).reshape(shape)


# ---- a checkpoint -> what llama.cpp's converter makes of it

_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2", "post_feedforward_layernorm_1": "post_ffw_norm_1",
    "post_feedforward_layernorm_2": "post_ffw_norm_2", "router.proj": "ffn_gate_inp",
    "per_layer_input_gate": "inp_gate", "per_layer_projection": "proj", "post_per_layer_input_norm": "post_norm",
    "altup.correction_coefs": "altup_correct_coef", "altup.prediction_coefs": "altup_predict_coef",
    "altup.modality_router": "altup_router", "altup.router_norm": "altup_router_norm",
    "laurel.linear_left": "laurel_l", "laurel.linear_right": "laurel_r", "laurel.post_laurel_norm": "laurel_post_norm",
}  # fmt: skip
_SINGLES = {
    "layer_scalar": "layer_output_scale.weight", "altup.correct_output_scale": "altup_correct_scale.weight",
    "router.scale": "ffn_gate_inp.scale", "router.per_expert_scale": "ffn_down_exps.scale",
    "experts.gate_up_proj": "ffn_gate_up_exps.weight", "experts.down_proj": "ffn_down_exps.weight",
}  # fmt: skip
_WHOLE = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "dense.0": "dense_2",
    "dense.1": "dense_3", "embed_tokens_per_layer": "per_layer_token_embd",
    "per_layer_model_projection": "per_layer_model_proj", "per_layer_projection_norm": "per_layer_proj_norm",
}  # fmt: skip


def _named(architecture: str, name: str) -> str:
    name = name.removeprefix("model.")
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
    if layer is None:
        return f"{_WHOLE[name.removesuffix('.weight')]}.weight"
    if layer[2] in _SINGLES:
        return f"blk.{layer[1]}.{_SINGLES[layer[2]]}"
    module = layer[2].removesuffix(".weight")
    if architecture == "gemma" and module == "post_attention_layernorm":
        return f"blk.{layer[1]}.ffn_norm.weight"
    return f"blk.{layer[1]}.{_NAMES[module]}.weight"


def converted(
    folder: Path,
    path: Path,
    kind_of: Callable[[str], str] = lambda name: "F32",
    *,
    more: Mapping[str, Any] | None = None,
    beside: Mapping[str, tuple[str, tuple[int, ...], bytes]] | None = None,
) -> Path:
    """The checkpoint in `folder` as a GGUF file; matrices are stored as `kind_of` says of their names there.

    `more` metadata, and tensors `beside` these, take the place of what would be written under their names.
    """
    config = json.loads((folder / "config.json").read_text())
    arrays = {name: np.array(array.astype(mx.float32)) for name, array in _arrays(folder).items()}
    architecture = _architecture(config)
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name, array in arrays.items():
        if (stack := re.fullmatch(r"model\.(altup\w+)\.(\d)\.weight", name)) is not None:
            if stack[2] != "0":
                continue
            array = np.stack([arrays[f"model.{stack[1]}.{i}.weight"] for i in range(config["altup_num_inputs"] - 1)])
            called = {"altup_projections": "altup_proj", "altup_unembed_projections": "altup_unembd_proj"}[stack[1]]
            tensors[f"{called}.weight"] = ("F32", array.shape, encoded("F32", array))
            continue
        called = _named(architecture, name)
        shifted = name.endswith("norm.weight") and architecture in ("gemma", "gemma2", "gemma3", "gemma-embedding")
        kind = kind_of(called) if array.ndim > 1 else "F32"
        tensors[called] = (kind, array.shape, encoded(kind, array + 1 if shifted else array))
    metadata = {"general.architecture": architecture, "general.file_type": 2, **_values(architecture, config)}
    if architecture == "gemma4":
        half = config["per_layer_config"][_first_full(config)]["head_dim"] // 2
        turned = int(config["rope_parameters"]["full_attention"]["partial_rotary_factor"] * half)
        factors = np.array([1.0] * turned + [1e30] * (half - turned), np.float32)
        tensors["rope_freqs.weight"] = ("F32", (half,), factors.tobytes())
    return write(path, metadata | dict(more or {}), tensors | dict(beside or {}))


def _arrays(folder: Path) -> dict[str, mx.array]:
    found: dict[str, mx.array] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= mx.load(str(file))
    for number, dense in enumerate(sorted(folder.glob("*_Dense"))):
        found[f"dense.{number}.weight"] = mx.load(str(dense / "model.safetensors"))["linear.weight"]
    for name in [name for name in found if name.endswith("switch_glu.down_proj.weight")]:  # as MLX programs write it
        prefix = name.removesuffix("switch_glu.down_proj.weight")
        gate, up = (found.pop(f"{prefix}switch_glu.{part}_proj.weight") for part in ("gate", "up"))
        found |= {f"{prefix}gate_up_proj": mx.concatenate([gate, up], 1), f"{prefix}down_proj": found.pop(name)}
    return found


def _architecture(config: Mapping[str, Any]) -> str:
    if config.get("use_bidirectional_attention"):
        return "gemma-embedding"
    return str(config["model_type"]).removesuffix("_text")


def _first_full(config: Mapping[str, Any]) -> str:
    return str(config["layer_types"].index("full_attention"))


def _values(architecture: str, config: Mapping[str, Any]) -> dict[str, Any]:
    slides = [kind == "sliding_attention" for kind in config.get("layer_types", [])]
    ropes = config["rope_parameters"]
    full, sliding = ropes.get("full_attention", ropes), ropes.get("sliding_attention")
    values: dict[str, Any] = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "rope.freq_base": full["rope_theta"],
    }
    if full.get("rope_type") == "linear":
        values |= {"rope.scaling.type": "linear", "rope.scaling.factor": full["factor"]}
    if sliding is not None:
        values["rope.freq_base_swa"] = sliding["rope_theta"]
    if architecture != "gemma":
        values["attention.sliding_window"] = config["sliding_window"]
        values["attention.sliding_window_pattern"] = slides
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(key) is not None:
            values[key] = config[key]
    if architecture == "gemma-embedding":
        values["pooling_type"] = 1
    if architecture == "gemma3n":
        normal = statistics.NormalDist()
        values |= {
            "altup.active_idx": config["altup_active_idx"],
            "altup.num_inputs": config["altup_num_inputs"],
            "embedding_length_per_layer_input": config["hidden_size_per_layer_input"],
            "attention.shared_kv_layers": config["num_kv_shared_layers"],
            "activation_sparsity_scale": [
                normal.inv_cdf(part) if part else -math.inf for part in config["activation_sparsity_pattern"]
            ],
        }
    if architecture == "gemma4":
        values |= _gemma4_values(config, slides)
    return {f"{architecture}.{key}": value for key, value in values.items()}


def _gemma4_values(config: Mapping[str, Any], slides: list[bool]) -> dict[str, Any]:
    layers, borrowers = config["num_hidden_layers"], config["num_kv_shared_layers"]
    full = config["per_layer_config"][_first_full(config)]
    shared = full.get("num_key_value_heads", config["num_key_value_heads"])
    width = config["intermediate_size"]
    values = {
        "attention.shared_kv_layers": borrowers,
        "embedding_length_per_layer_input": config["hidden_size_per_layer_input"],
        "attention.key_length": full["head_dim"],
        "attention.value_length": full["head_dim"],
        "attention.key_length_swa": config["head_dim"],
        "attention.value_length_swa": config["head_dim"],
        "attention.head_count_kv": [config["num_key_value_heads"] if slide else shared for slide in slides],
        "rope.dimension_count": full["head_dim"],
        "rope.dimension_count_swa": config["head_dim"],
    }
    if config["use_double_wide_mlp"]:
        values["feed_forward_length"] = [width if i < layers - borrowers else 2 * width for i in range(layers)]
    if config["enable_moe_block"]:
        values |= {
            "expert_count": config["num_experts"],
            "expert_used_count": config["top_k_experts"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
        }
    return values
