"""Tiny checkpoints as Google packs them: for phones, and with compressed-tensors for vLLM.

Every width is a multiple of 32, which is the least that MLX packs. The patterns of bits are those of the published E2B,
with the boundary between 4 and 2 bits one layer deep.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.goldens import tiny

CHANGES: dict[str, Any] = {
    "vocab_size": 96,
    "vocab_size_per_layer_input": 96,
    "hidden_size": 64,
    "hidden_size_per_layer_input": 32,
    "num_hidden_layers": 4,
    "layer_types": [tiny.SLIDING, tiny.FULL, tiny.SLIDING, tiny.FULL],
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "global_head_dim": 64,
}
MOBILE: dict[str, Any] = {
    "quant_method": "gemma",
    "num_bits": 4,
    "quantize_embeddings": True,
    "modules_to_not_convert": ["per_layer_model_projection"],
    "module_quant_configs": {
        r"^lm_head$": {"num_bits": 2},
        r"embed_tokens$": {"num_bits": 2},
        r"embed_tokens_per_layer$": {"num_bits": 4},
        r"layers\.0\.mlp\.": {"num_bits": 4},
        r"layers\.\d+\.mlp\.": {"num_bits": 2},
        r"layers\.\d+\.per_layer_input_gate$": {"num_bits": 8},
        r"layers\.\d+\.per_layer_projection$": {"num_bits": 8},
        r"layers\.\d+\.self_attn\.": {"num_bits": 4},
    },
}
# Before and behind every linear map; values have none. Round numbers would put sums of scaled codes halfway between two
# steps, where the order of the sum decides.
STEPS = (0.0519371, 0.0723119)


def mobile_bits(module: str) -> int:
    """What MOBILE says of a module."""
    patterns = MOBILE["module_quant_configs"].items()
    return next((how["num_bits"] for pattern, how in patterns if re.search(pattern, module)), MOBILE["num_bits"])


def packed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Signed codes [rows columns] -> bytes, low bits first; 8 bits stay signed."""
    if bits == 8:
        return codes.to(torch.int8)
    each = 8 // bits
    offset = (codes + 2 ** (bits - 1)).to(torch.uint8).reshape(codes.shape[0], -1, each)
    return sum(offset[..., place] << bits * place for place in range(each)).to(torch.uint8)


def rounded(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [rows columns] and a scale for each row [rows 1]."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = weight.float().abs().amax(-1, keepdim=True) / high
    return (weight.float() / scale).round().clamp(low, high), scale


def write_mobile(folder: Path, *, steps: bool = True, dtype: torch.dtype = torch.float32) -> Any:
    """A checkpoint for phones, and the reference that reads it."""
    model = tiny.build("gemma4_e", **CHANGES, tie_word_embeddings=False)
    model.save_pretrained(folder)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    linear -= {name for name in linear if "per_layer_model_projection" in name}
    tables = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if module not in linear | tables or module == name:
            tensors[name] = tensor
            continue
        codes, scale = rounded(tensor, mobile_bits(module))
        scale = scale.to(dtype)
        if module in tables:
            tensors[f"{module}.embedding_quantized"] = packed(codes, mobile_bits(module))
            tensors[f"{module}.embedding_scale"] = scale
            continue
        tensors[name], tensors[f"{module}.weight_scale"] = packed(codes, mobile_bits(module)), scale
        on = steps and "v_proj" not in module
        for side, step in zip(("input", "output"), STEPS, strict=True):
            tensors[f"{module}.{side}_activation_scale"] = torch.tensor(step if on else 0.0)
    save_file(
        {name: each.contiguous() for name, each in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    _edit(folder, MOBILE)
    return transformers.Gemma4ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def _group(bits: int, targets: list[str], *, group_size: int | None = None, steps: bool = False, form: str) -> Any:
    grid = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor", "dynamic": False}
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False, "group_size": group_size}
    return {
        "targets": targets,
        "weights": weights | {"strategy": "group" if group_size else "channel"},
        "input_activations": grid if steps else None,
        "output_activations": grid if steps else None,
        "format": form,
    }


W4A16: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "config_groups": {"group_0": _group(4, ["Linear"], group_size=32, form="pack-quantized")},
    "ignore": ["lm_head", "re:.*embed_tokens.*", "re:.*per_layer_model_projection"],
}
MOBILE_CT: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "mixed-precision",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": _group(2, ["re:.*layers\\.[1-9]\\.mlp\\..*"], steps=True, form="pack-quantized"),
        "group_1": _group(4, ["re:.*self_attn\\..*", "re:.*layers\\.0\\.mlp\\..*"], steps=True, form="pack-quantized"),
        "group_2": _group(8, ["re:.*per_layer_(input_gate|projection)$"], steps=True, form="int-quantized"),
    },
    "ignore": ["lm_head", "re:.*per_layer_model_projection"],
}


def write_compressed(folder: Path, config: dict[str, Any], *, hidden: int = 64) -> Any:
    """A checkpoint of compressed-tensors, made and read by that package."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    model = tiny.build("gemma4_e", **CHANGES | {"hidden_size": hidden})
    apply_quantization_config(model, QuantizationConfig.model_validate(config))
    for module in model.modules():
        if (scheme := getattr(module, "quantization_scheme", None)) is None:
            continue
        groups = scheme.weights.group_size or module.weight.shape[1]
        blocks = module.weight.detach().reshape(module.weight.shape[0], -1, groups)
        high = 2 ** (scheme.weights.num_bits - 1) - 1
        module.weight_scale.data = (blocks.abs().amax(-1) / high).bfloat16().float()
        for side, step in zip(("input", "output"), STEPS, strict=True):
            if hasattr(module, f"{side}_scale"):
                getattr(module, f"{side}_scale").data.fill_(step)
    ModelCompressor.from_pretrained_model(model).compress_model(model)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # tied; the rest is published in bfloat16
            short = tensor.dtype == torch.float32 and not name.endswith(("input_scale", "output_scale"))
            tensors[name] = tensor.contiguous().bfloat16() if short else tensor.contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model.config.save_pretrained(folder)
    _edit(folder, config)
    return transformers.Gemma4ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def _edit(folder: Path, config: dict[str, Any]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"quantization_config": config}) + "\n")
