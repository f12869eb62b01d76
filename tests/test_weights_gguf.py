"""A checkpoint as llama.cpp writes it computes what it computes in the Hugging Face layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

import gemma_mlx
from gemma_mlx import registry
from gemma_mlx.errors import InputError, UnsupportedModelError, WeightsError
from gemma_mlx.gguf.reader import read_gguf
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.plan import plan
from gemma_mlx.weights.gguf import stored_in_gguf
from gemma_mlx.weights.load import inspect, named_parameters
from gemma_mlx.weights.read import read
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


def test_an_embedding_model(tmp_path: Path) -> None:
    folder = source("embeddinggemma", tmp_path / "source")
    for name, inputs, outputs in (("2_Dense", 40, 160), ("3_Dense", 160, 40)):  # as published, four times as wide
        step = json.loads((folder / name / "config.json").read_text()) | {
            "in_features": inputs,
            "out_features": outputs,
        }
        (folder / name / "config.json").write_text(json.dumps(step))
        maps = {"linear.weight": mx.random.normal((outputs, inputs)) * 0.1}
        mx.save_safetensors(str(folder / name / "model.safetensors"), maps)
    file = gguf_files.converted(folder, tmp_path / "model.gguf")
    tokens = mx.array([[2, 5, 9, 60, 1]])
    found, wanted = (gemma_mlx.load(path, mx.float32).model(tokens) for path in (file, folder))
    assert mx.abs(found - wanted).max().item() <= 1e-5 * mx.abs(wanted).max().item()


@pytest.mark.parametrize(("kind", "says"), [("Q2_K", "as Q2_K"), ("Q5_K", None)])
def test_a_kind_that_mlx_has_no_like_of(kind: str, says: str | None, tmp_path: Path) -> None:
    config = widened("gemma3_text") | {"intermediate_size": 256}
    folder = random_checkpoint(tmp_path / "source", config)
    file = gguf_files.converted(folder, tmp_path / "model.gguf", lambda name: kind if "ffn_down" in name else "F16")
    if says is None:
        assert str(inspect(file).quantization["model.layers.0.mlp.down_proj"]) == "affine, 5 bits, groups of 32"
        return
    with pytest.raises(UnsupportedModelError, match=says) as caught:
        inspect(file)
    assert "Q4_0, Q4_1" in caught.value.message
    assert "ffn_down.weight" in caught.value.message


def test_towers_are_noticed(tmp_path: Path) -> None:
    folder = source("gemma3_text", tmp_path / "source")
    gguf_files.converted(folder, tmp_path / "model-f32.gguf", beside={"v.blk.0.x": ("F32", (1,), bytes(4))})
    gguf_files.write(tmp_path / "mmproj-f16.gguf", {"general.architecture": "clip"}, {})
    checkpoint = inspect(tmp_path)
    assert checkpoint.folder == tmp_path / "model-f32.gguf"
    assert set(checkpoint.unread) == {"v.blk.0.x", "mmproj-f16.gguf"}
    with pytest.raises(UnsupportedModelError, match="the tower for pictures or sound"):
        inspect(tmp_path / "mmproj-f16.gguf")


@pytest.mark.parametrize("name", ["blk.0.strange.weight", "blk.0.attn_q.bias", "strange.weight"])
def test_a_tensor_without_a_place(name: str, tmp_path: Path) -> None:
    folder = source("gemma3_text", tmp_path / "source")
    file = gguf_files.converted(folder, tmp_path / "model.gguf", beside={name: ("F32", (1,), bytes(4))})
    with pytest.raises(WeightsError, match=name):
        inspect(file)


def test_a_norm_that_is_packed(tmp_path: Path) -> None:
    folder = source("gemma3_text", tmp_path / "source")
    norm = {"output_norm.weight": ("F16", (40,), bytes(80))}
    with pytest.raises(UnsupportedModelError, match=r"output_norm\.weight"):
        inspect(gguf_files.converted(folder, tmp_path / "model.gguf", beside=norm))


def test_an_embedding_in_float16_is_scaled_as_it_was_trained(tmp_path: Path) -> None:
    """Google's own Gemma 3 files have their table so. sqrt(40) is 6.3125 in bfloat16 and 6.32421875 in float16."""
    folder = source("gemma3_text", tmp_path / "source")
    file = gguf_files.converted(folder, tmp_path / "model.gguf", lambda name: "F16" if "token_embd" in name else "F32")
    assert inspect(file).match.spec.embed_scale == 6.3125


def test_written_in_the_layout_of_mlx(tmp_path: Path) -> None:
    """Nothing is lost, and mlx-lm reads it."""
    config = widened("gemma3_text") | {"num_hidden_layers": 7}
    config["layer_types"] = [*["sliding_attention"] * 5, "full_attention", "sliding_attention"]
    folder = random_checkpoint(tmp_path / "source", config)
    file = gguf_files.converted(
        folder,
        tmp_path / "model.gguf",
        lambda name: "F16" if "token_embd" in name else "Q8_0" if "attn" in name else "Q4_0",
        more={"gemma3.attention.sliding_window_pattern": 6},
    )
    with pytest.raises(InputError, match="quantized already") as caught:
        plan(file)
    assert "--recipe exact" in str(caught.value.hint)
    target = tmp_path / "target"
    written = quantize(plan(file, recipe_name="exact"), target)
    before, after = inspect(file), written
    assert after.quantization == before.quantization
    for name, tensor in before.tensors.items():
        assert mx.array_equal(read(tensor).reshape(-1), read(after.tensors[name]).reshape(-1)).item(), name
    found = logits(target)
    assert mx.array_equal(found, logits(file)).item()
    peer = load_model(target)[0]
    peer.set_dtype(mx.float32)
    theirs = peer(mx.array([[2, *range(5, 5 + 40, 3), 11, 60, 79]]))
    assert mx.abs(theirs - found).max().item() <= 1e-4 * (found.max() - found.min()).item()


def test_a_file_of_floats_is_quantized_as_others_are(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "source", widened("gemma3_text"))
    file = gguf_files.converted(folder, tmp_path / "model.gguf", lambda name: "BF16")
    plain = quantize(plan(folder, recipe_name="uniform"), tmp_path / "plain")
    made = quantize(plan(file, recipe_name="uniform"), tmp_path / "made")
    assert {name: str(how) for name, how in made.quantization.items()} == {
        name: str(how) for name, how in plain.quantization.items()
    }
    for name, tensor in made.tensors.items():
        found, other = read(tensor), read(plain.tensors[name])
        if "norm" in name:  # whose 1 was added in float32
            assert mx.abs(found.astype(mx.float32) - other.astype(mx.float32)).max().item() <= 1e-5, name
        else:
            assert mx.array_equal(found, other).item(), name
