"""Tiny checkpoints, written as the published ones are, for tests that need files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from gemma_mlx import registry
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.nn.drafter import Drafter
from gemma_mlx.nn.encoder import Encoder
from gemma_mlx.weights.save import save_checkpoint

DECODERS: Final = (
    "diffusion_gemma",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma3",
    "gemma3n_text",
    "gemma4_text",
    "recurrent_gemma",
    "vaultgemma",
)
KINDS: Final = (*DECODERS, "t5gemma", "t5gemma2")
ENCODERS: Final = ("embeddinggemma", "embedding_gemma2")
DRAFTERS: Final = ("gemma4_assistant", "gemma4_unified_assistant")
# A decoder of KINDS beside towers; what is there of its own is how the files name things.
WRAPPED: Final[Mapping[str, str]] = {
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_text",
    "paligemma": "gemma",
    "paligemma2": "gemma2",
    "shieldgemma2": "gemma3_text",
}

_COMMON: Final[dict[str, Any]] = {
    "attention_bias": False,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 32,
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "torch_dtype": "bfloat16",
    "vocab_size": 96,
}
_GEMMA2: Final = {
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 20,
    "sliding_window": 8,
}
_GEMMA3: Final = {
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 20,
    "rope_local_base_freq": 5_000.0,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 8,
    "sliding_window_pattern": 3,
}
_RECURRENT: Final = {
    "attention_window_size": 8,
    "block_types": ["recurrent", "attention"],
    "conv1d_width": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "logits_soft_cap": 3.0,
    "lru_width": 64,
    "partial_rotary_factor": 0.25,
}
_GEMMA3N: Final = _GEMMA3 | {
    "activation_sparsity_pattern": [0.9, 0.0, 0.5],
    "altup_num_inputs": 4,
    "final_logit_softcapping": 3.0,
    "hidden_size_per_layer_input": 32,
    "intermediate_size": [128, 64, 96],
    "laurel_rank": 32,
    "vocab_size_per_layer_input": 90,
}
_GEMMA4: Final = {
    "attention_k_eq_v": True,
    "enable_moe_block": True,
    "final_logit_softcapping": 3.0,
    "global_head_dim": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "moe_intermediate_size": 64,
    "num_experts": 4,
    "num_global_key_value_heads": 1,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 5_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    },
    "sliding_window": 8,
    "top_k_experts": 2,
}
# Neither of the two keys is in a DiffusionGemma's file, nor the base of RoPE outside `rope_parameters`.
_DIFFUSION: Final = {
    key: value for key, value in _GEMMA4.items() if key not in ("attention_k_eq_v", "enable_moe_block")
}
_EMBEDDING_GEMMA2: Final = {
    "embedding_dim": 96,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size_per_layer_input": 32,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "per_layer_config": {"2": {"head_dim": 64, "num_key_value_heads": 1}},
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 5_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    },
    "sliding_window": 7,
}
_DRAFTER: Final = {
    key: value for key, value in _DIFFUSION.items() if "expert" not in key and key != "moe_intermediate_size"
}


def tiny_config(kind: str, **changes: Any) -> dict[str, Any]:
    """A config.json in the published dialect; `changes` go where the sizes of the text are, in both stacks."""
    if kind in WRAPPED:
        text = tiny_config(WRAPPED[kind], **changes)
        return {"model_type": "paligemma" if kind == "paligemma2" else kind, "text_config": text}
    if kind == "embeddinggemma":
        return tiny_config("gemma3_text", use_bidirectional_attention=True, **changes)
    if kind == "embedding_gemma2":
        text = {key: value for key, value in _COMMON.items() if key not in ("rope_theta", "torch_dtype")}
        return {"model_type": kind, "text_config": text | _EMBEDDING_GEMMA2 | changes}
    if kind in DRAFTERS:
        text = {key: value for key, value in _COMMON.items() if key not in ("rope_theta", "torch_dtype")}
        text |= _DRAFTER | {"model_type": "gemma4_text", "final_logit_softcapping": None} | changes
        ordered = {"use_ordered_embeddings": True, "num_centroids": 12, "centroid_intermediate_top_k": 3}
        beside = ordered if kind == "gemma4_assistant" else {}
        return {"model_type": kind, "backbone_hidden_size": text["hidden_size"], "text_config": text} | beside
    own = {"gemma": {"hidden_act": "gelu"}, "gemma2": _GEMMA2, "vaultgemma": _GEMMA2, "gemma3n_text": _GEMMA3N}
    own |= {"gemma4_text": _GEMMA4, "diffusion_gemma": _DIFFUSION, "recurrent_gemma": _RECURRENT, "t5gemma": _GEMMA2}
    text = _COMMON | own.get(kind, _GEMMA3) | {"model_type": kind} | changes
    vision = {"hidden_size": 8, "model_type": "siglip_vision_model"}
    if kind == "t5gemma":
        return {"model_type": kind, "encoder": text, "decoder": text | {"num_hidden_layers": 2}}
    if kind == "t5gemma2":
        encoder = {"text_config": text, "vision_config": vision, "eoi_token_index": 50}
        return {"model_type": kind, "encoder": encoder, "decoder": text | {"num_hidden_layers": 2}}
    if kind == "diffusion_gemma":
        return {"model_type": kind, "canvas_length": 16, "text_config": text | {"model_type": f"{kind}_text"}}
    if kind != "gemma3":
        return text
    return {"model_type": "gemma3", "text_config": text | {"model_type": "gemma3_text"}, "vision_config": vision}


def tiny_model(config: dict[str, Any]) -> Decoder | Encoder | Drafter:
    """A random model, with norms that are not 1, ids in order, and every parameter evaluated."""
    match = registry.match(config)
    model = match.architecture.build(match.spec)
    random = [
        (name, 1.0 + 0.2 * mx.random.normal(array.shape) if array.ndim == 1 else 0.1 * mx.random.normal(array.shape))
        for name, array in tree_flatten(model.parameters())
        if mx.issubdtype(array.dtype, mx.floating)
    ]
    order = [
        (name, mx.arange(array.size, dtype=array.dtype))
        for name, array in tree_flatten(model.parameters())
        if mx.issubdtype(array.dtype, mx.integer)
    ]
    model.load_weights([*random, *order])
    mx.eval(model.parameters())
    return model


def write_tiny(
    folder: Path,
    kind: str = "gemma3_text",
    *,
    dtype: mx.Dtype = mx.bfloat16,
    quantize: dict[str, Any] | Callable[[str, nn.Module], Any] | None = None,
    shard_bytes: int = 5 * 10**9,
    **changes: Any,
) -> Decoder | Encoder | Drafter:
    """Writes a tiny checkpoint without a tokenizer, and returns the model that was saved.

    Args:
        folder: made where it does not exist.
        kind: a model_type.
        dtype: of the floating tensors in the files.
        quantize: arguments of nn.quantize, or a predicate that returns them for each module.
        shard_bytes: as `save_checkpoint` has it.
        changes: of config.json.
    """
    config = tiny_config(kind, **changes)
    model = tiny_model(config)
    if callable(quantize):
        nn.quantize(
            model, class_predicate=lambda path, module: hasattr(module, "to_quantized") and quantize(path, module)
        )
    elif quantize is not None:
        nn.quantize(model, **quantize)
    save_checkpoint(folder, model, config, dtype=dtype, shard_bytes=shard_bytes)
    return model


def write_tiny_embedder(folder: Path, *, vocab: int, context: int = 64, tokenizer: Path | None = None) -> Encoder:
    """Writes a tiny EmbeddingGemma with its linear maps in the same file.

    Args:
        folder: made where it does not exist.
        vocab: rows of its table.
        context: tokens it may read.
        tokenizer: the folder whose tokenizer is copied.
    """
    if tokenizer is not None:
        shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    model = write_tiny(
        folder, use_bidirectional_attention=True, vocab_size=vocab, max_position_embeddings=context, dtype=mx.float32
    )
    assert isinstance(model, Encoder)
    return model


def edit_config(folder: Path, **changes: Any) -> None:
    """Changes keys of config.json; a value of ... removes the key."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}), encoding="utf-8")


def edit_tensors(folder: Path, change: Callable[[dict[str, mx.array]], None], file: str = "model.safetensors") -> None:
    """Rewrites one file after `change` has had its tensors."""
    arrays = mx.load(str(folder / file))
    assert isinstance(arrays, dict)
    mx.eval(arrays)
    change(arrays)
    mx.save_safetensors(str(folder / file), arrays)


def gone(*names: str) -> Callable[[dict[str, mx.array]], None]:
    """A change of `edit_tensors`: these are missing."""

    def change(arrays: dict[str, mx.array]) -> None:
        for name in names:
            del arrays[name]

    return change


def put(name: str, array: mx.array) -> Callable[[dict[str, mx.array]], None]:
    """A change of `edit_tensors`: this is there instead."""
    return lambda arrays: arrays.update({name: array})


# What the chat template of google/shieldgemma-9b writes, in a program of our own; the double space is the template's.
_SHIELD_END: Final = (
    "{{ '\\n<end_of_turn>\\n\\nOur safety principle is defined in the below:\\n\\n* ' }}"
    "{{ guideline + '\\n\\n===\\n\\n' }}"
)
_SHIELD_STEPS: Final = "'Yes' or 'No'. And then walk through step by step to be sure we answer correctly.\\n\\n\" }}"
SHIELD_TEMPLATE: Final = (
    "{{ bos_token }}{% if messages[-1].role == 'user' %}"
    "{{ 'You are a policy expert trying to help determine whether a user prompt is in violation of the defined safety"
    " policies.\\n\\n<start_of_turn>\\nHuman Question: ' + messages[-1].content }}"
    f"{_SHIELD_END}"
    '{{ "Does the human question violate the above principle? Your answer must start with '
    f"{_SHIELD_STEPS}"
    "{% else %}"
    "{{ 'You are a policy expert trying to help determine whether an AI response to a prompt is in violation of the"
    " defined safety policies.\\n\\n<start_of_turn>\\nHuman Question: ' + messages[-2].content }}"
    "{{ '\\n<end_of_turn>\\n<start_of_turn>\\nChatbot Response: ' + messages[-1].content }}"
    f"{_SHIELD_END}"
    '{{ "Does the Chatbot Response violate the above principle? Your answer must  start with '
    f"{_SHIELD_STEPS}"
    "{% endif %}"
)


def write_tiny_classifier(
    folder: Path, *, template: str | None = SHIELD_TEMPLATE, **changes: Any
) -> Decoder | Encoder | Drafter:
    """Writes a tiny ShieldGemma with the tokenizer of the model in the box, in which "Yes" and "No" are tokens.

    Args:
        folder: made where it does not exist.
        template: of its chats; None for a checkpoint without one.
        changes: of config.json.
    """
    model = write_tiny(
        folder, "gemma2", **{"vocab_size": 2048, "max_position_embeddings": 1024, "sliding_window": 64} | changes,
        dtype=mx.float32,
    )  # fmt: skip
    demo = Path(__file__).resolve().parent.parent / "gemma_mlx" / "demo"
    shutil.copy(demo / "tokenizer.model", folder)
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    config = named | ({} if template is None else {"chat_template": template})
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return model
