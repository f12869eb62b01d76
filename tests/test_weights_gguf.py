"""A checkpoint as llama.cpp writes it computes what it computes in the Hugging Face layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import gemma_mlx
from gemma_mlx import registry
from gemma_mlx.gguf.reader import read_gguf
from gemma_mlx.weights.gguf import stored_in_gguf
from gemma_mlx.weights.load import inspect, named_parameters
from gemma_mlx.weights.save import save_checkpoint
from tests import gguf_files

GOLDENS = Path(__file__).parent / "goldens"
# What GGUF files cannot say, and llama.cpp takes for granted: scores are divided by the root of a head's width.
_AS_LLAMA_CPP = {"query_pre_attn_scalar": 12}


def source(name: str, folder: Path, **changes: Any) -> Path:
    """A golden's checkpoint, its config changed."""
    shutil.copytree(GOLDENS / name, folder, ignore=shutil.ignore_patterns("reference"))
    config = json.loads((folder / "config.json").read_text())
    if "query_pre_attn_scalar" in config:
        config |= _AS_LLAMA_CPP
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def logits(path: Path) -> mx.array:
    gemma = gemma_mlx.load(path, mx.float32)
    tokens = mx.array([[2, *range(5, 5 + 40, 3), 11, 60, 79]])
    return gemma.logits(tokens)


@pytest.mark.parametrize(
    "name", ["gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_e", "gemma4_dense", "gemma4_moe"]
)
def test_float32_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    folder = source(name, tmp_path / "source")
    file = gguf_files.converted(folder, tmp_path / "model.gguf")
    found, wanted = logits(file), logits(folder)
    # 1 was added to the norms' weights in float32 and is taken off again, which rounds the smallest of them.
    assert mx.abs(found - wanted).max().item() <= 1e-5 * mx.abs(wanted).max().item()


def random_checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """A checkpoint of random float32 weights, in the layout that MLX programs write."""
    match = registry.match(config)
    model = match.architecture.build(match.spec)
    model.load_weights(
        [(name, mx.random.normal(array.shape) * 0.2 + (array.ndim == 1)) for name, array in named_parameters(model)]
    )
    save_checkpoint(folder, model, config, dtype=mx.float32)
    return folder


def widened(name: str) -> dict[str, Any]:
    """A golden's config with every width a multiple of 32, as blocks need it."""
    config: dict[str, Any] = json.loads((GOLDENS / name / "config.json").read_text())
    config |= {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32}
    if "query_pre_attn_scalar" in config:
        config["query_pre_attn_scalar"] = 32
    for layer in config.get("per_layer_config", {}).values():
        layer["head_dim"] = 64
    if config.get("moe_intermediate_size"):
        config["moe_intermediate_size"] = 32
    if config.get("hidden_size_per_layer_input"):
        config["hidden_size_per_layer_input"] = 32
    if isinstance(config.get("activation_sparsity_pattern"), list):
        config["laurel_rank"] = 32
    return config


def replaced(folder: Path, file: Path, target: Path, kind: str) -> Path:
    """The checkpoint with each packed matrix as its blocks stand for it."""
    shutil.copytree(folder, target)
    stored = read_gguf(file)
    arrays = mx.load(str(folder / "model.safetensors"))
    for name, tensor in stored_in_gguf(file).tensors.items():
        if tensor.made is None or not name.endswith(".weight") or tensor.dtype != "U32":
            continue
        entry = stored.tensors[tensor.name]
        data = file.read_bytes()[entry.start : entry.stop]
        values = gguf_files.decoded(kind, data, entry.shape)
        half = values.shape[1] // 2 if "gate_up" in tensor.name else 0
        part = values[:, :half] if half and "gate_proj" in name else values[:, half:] if half else values
        assert arrays[name].shape == part.shape
        arrays[name] = mx.array(part)
    mx.save_safetensors(str(target / "model.safetensors"), arrays, {"format": "pt"})
    return target


PACKED = ["gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_e", "gemma4_dense", "gemma4_moe"]


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "Q4_0") for name in PACKED), ("gemma3_text", "Q8_0"), ("gemma4_e", "Q8_0")]
)
def test_blocks_compute_as_the_weights_they_stand_for(name: str, kind: str, tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "source", widened(name))
    small = ("altup", "router", "ffn_gate_inp")  # llama.cpp packs none of these
    file = gguf_files.converted(
        folder, tmp_path / "model.gguf", lambda name: "F32" if any(part in name for part in small) else kind
    )
    plain = replaced(folder, file, tmp_path / "plain", kind)
    checkpoint = inspect(file)
    packed = [how for how in checkpoint.quantization.values() if how is not None]
    assert len(packed) > len(checkpoint.quantization) / 2
    assert {str(how) for how in packed} == {f"affine, {4 if kind == 'Q4_0' else 8} bits, groups of 32"}
    found, wanted = logits(file), logits(plain)
    assert mx.abs(found - wanted).max().item() <= 1e-4 * (wanted.max() - wanted.min()).item()
    on_disk = gemma_mlx.load(file, mx.float32, per_layer="disk").logits([[2, 9, 11]])
    in_memory = gemma_mlx.load(file, mx.float32, per_layer="memory").logits([[2, 9, 11]])
    assert mx.array_equal(on_disk, in_memory).item()
