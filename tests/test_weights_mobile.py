"""Google's checkpoints for phones: how many bits, what else their files hold, and damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gemma_mlx.errors import ConfigError, GemmaError, WeightsError
from gemma_mlx.weights.load import BORROWED, inspect
from gemma_mlx.weights.mobile import Bits
from gemma_mlx.weights.quantized import Quantization
from tests.tiny import edit_config, edit_tensors, gone, put

GOLDEN = Path(__file__).parent / "goldens" / "gemma4_mobile"
UP = "model.layers.1.mlp.up_proj"
TOKENS = "model.embed_tokens"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "mobile")
    return tmp_path / "mobile"


def test_every_matrix_has_its_bits(folder: Path) -> None:
    checkpoint = inspect(folder)
    bits = {path: how and how.bits for path, how in checkpoint.quantization.items()}
    assert (bits["lm_head"], bits[TOKENS], bits["model.embed_tokens_per_layer"]) == (2, 2, 4)
    assert (bits["model.layers.0.mlp.up_proj"], bits[UP]) == (4, 2)
    assert (bits["model.layers.2.self_attn.q_proj"], bits["model.layers.0.per_layer_input_gate"]) == (4, 8)
    assert bits["model.per_layer_model_projection"] is None
    assert checkpoint.quantization[UP] == Quantization(mode="affine", bits=2, group_size=64)
    assert checkpoint.repacked.method == "gemma"
    grids = checkpoint.grids
    assert len(grids) == len([path for path, how in bits.items() if how and "embed_tokens" not in path])
    # Codes and scales as the files have them; what MLX needs besides is made while they are read.
    stored = sum(tensor.nbytes for tensor in mx.load(str(folder / "model.safetensors")).values())
    assert checkpoint.nbytes == stored - 8 * len(grids)


def test_the_first_pattern_counts() -> None:
    bits = Bits({"module_quant_configs": {r"layers\.0\.": {"num_bits": 8}, r"layers\.": {}, "head": 2}, "num_bits": 4})
    assert [bits.stated(f"model.layers.{index}.mlp") for index in (0, 1)] == [8, 4]
    assert (bits.stated("lm_head"), bits.stated("else")) == (2, 4)


def test_scales_of_caches_and_borrowed_keys_stay_on_the_disk(folder: Path) -> None:
    def more(arrays: dict[str, mx.array]) -> None:
        arrays["model.layers.0.self_attn.k_cache_scale"] = mx.array(0.1)
        for name in ("weight", "weight_scale", "input_activation_scale", "output_activation_scale"):
            for module in ("k_proj", "v_proj"):
                arrays[f"model.layers.2.self_attn.{module}.{name}"] = arrays[f"model.layers.0.self_attn.k_proj.{name}"]

    edit_tensors(folder, more)
    checkpoint = inspect(folder)
    assert checkpoint.unread["model.layers.0.self_attn.k_cache_scale"] == "for a packed cache of another program"
    assert checkpoint.unread["model.layers.2.self_attn.k_proj.weight"] == BORROWED
    assert "model.layers.2.self_attn.k_proj" not in checkpoint.grids


def test_towers_are_packed_too(folder: Path) -> None:
    tower = "model.vision_tower.encoder.layers.0.self_attn.q_proj.linear"
    edit_tensors(
        folder,
        lambda arrays: arrays.update(
            {
                f"{tower}.weight": mx.zeros((4, 64), mx.int8),
                f"{tower}.weight_scale": mx.ones((4, 1)),
                f"{tower}.input_activation_scale": mx.array(0.5),
                f"{tower}.input_max": mx.array(1.0),
            }
        ),
    )
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    patterns = {"vision_tower": {"num_bits": 8}} | config["module_quant_configs"]
    edit_config(folder, quantization_config=config | {"module_quant_configs": patterns})
    checkpoint = inspect(folder)
    why = "pictures and sound are not read by this version"
    assert {checkpoint.unread[f"{tower}.{name}"] for name in ("weight", "scales", "biases", "input_max")} == {why}
    assert checkpoint.repacked.grids[tower].after is None
    assert not any("vision" in path for path in checkpoint.grids)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (gone(f"{UP}.weight_scale"), f"'{UP}.weight' holds codes, and there is no '{UP}.weight_scale'"),
        (gone(f"{TOKENS}.embedding_scale"), f"'{TOKENS}.embedding_quantized' holds codes"),
        (gone(f"{TOKENS}.embedding_quantized"), f"'{TOKENS}.embedding_scale' holds scales, and there are no codes"),
        (gone(f"{UP}.weight"), f"'{UP}.weight_scale' holds scales"),
        (gone(f"{UP}.weight", f"{UP}.weight_scale"), "a module that this model does not have|lack"),
        (put(f"{UP}.weight", mx.zeros((96, 8), mx.uint8)), f"'{UP}.weight'|'{UP}.weight_scale'"),
        (put(f"{UP}.weight", mx.zeros((64, 16), mx.uint8)), f"'{UP}.weight_scale'"),
        (put(f"{UP}.weight", mx.zeros((96, 64), mx.int8)), "is I8, and config.json says that its codes have 2 bits"),
        (put(f"{UP}.weight_scale", mx.ones((96, 3))), "does not divide the 64 columns"),
        (
            put(f"{UP}.weight", mx.zeros((96, 32), mx.uint8)),
            "says affine, 2 bits, groups of 128, and its tensors affine, 4 bits",
        ),
        (put(f"{UP}.input_activation_scale", mx.ones((2,))), "is F32 [2], and should be one number"),
        (put(f"{UP}.strange", mx.ones((2,))), f"has no place: '{UP}.strange'"),
    ],
)
def test_damage(folder: Path, change: Any, says: str) -> None:
    edit_tensors(folder, change)
    with pytest.raises(WeightsError) as caught:
        inspect(folder)
    assert any(each in caught.value.message for each in says.split("|")), caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"num_bits": 3},
        {"num_bits": True},
        {"strange": 1},
        {"module_quant_configs": [4]},
        {"module_quant_configs": {"(": {"num_bits": 4}}},
        {"module_quant_configs": {"mlp": {"num_bits": 4, "group_size": 32}}},
        {"module_quant_configs": {"mlp": {"num_bits": 16}}},
        {"module_quant_configs": {"mlp": None}},
    ],
)
def test_a_config_that_is_not_understood(folder: Path, change: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    edit_config(folder, quantization_config=config | change)
    with pytest.raises(ConfigError, match="config.json, quantization_config") as caught:
        inspect(folder)
    assert caught.value.hint


def test_a_config_of_other_bits(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    edit_config(folder, quantization_config=config | {"module_quant_configs": {}})
    with pytest.raises(GemmaError, match="codes have 4 bits|fits no quantization"):
        inspect(folder)
