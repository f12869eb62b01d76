"""Checkpoints of compressed-tensors: which are read, which are refused and why, and damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gemma_mlx.errors import ConfigError, UnsupportedModelError, WeightsError
from gemma_mlx.weights.load import inspect
from gemma_mlx.weights.quantized import Quantization
from tests.tiny import edit_config, edit_tensors, gone, put

GOLDENS = Path(__file__).parent / "goldens"
UP = "model.layers.1.mlp.up_proj"
GATE = "model.layers.1.per_layer_input_gate"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(GOLDENS / "gemma4_mobile_ct", tmp_path / "ct")
    return tmp_path / "ct"


def _config(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def _edit_group(folder: Path, name: str = "group_0", **changes: Any) -> None:
    config = _config(folder)
    weights = changes.pop("weights", {})
    config["config_groups"][name] |= changes
    config["config_groups"][name]["weights"] |= weights
    edit_config(folder, quantization_config=config)


def test_groups_of_32() -> None:
    checkpoint = inspect(GOLDENS / "gemma4_w4a16")
    packed = {how for path, how in checkpoint.quantization.items() if "layers." in path}
    assert packed == {Quantization(mode="affine", bits=4, group_size=32)}
    plain = {path for path, how in checkpoint.quantization.items() if how is None}
    assert plain == {"model.embed_tokens", "model.embed_tokens_per_layer", "model.per_layer_model_projection"}
    assert checkpoint.grids == {}
    assert (checkpoint.repacked.method, checkpoint.match.spec.tied_head) == ("compressed-tensors", True)
    assert set(checkpoint.unread.values()) == {"the shape that the codes have unpacked, which the model says as well"}


def test_mixed_bits_and_grids(folder: Path) -> None:
    checkpoint = inspect(folder)
    bits = {path: how and how.bits for path, how in checkpoint.quantization.items()}
    assert (bits["model.layers.0.mlp.up_proj"], bits[UP], bits[GATE]) == (4, 2, 8)
    assert bits["model.layers.1.self_attn.q_proj"] == 4
    assert checkpoint.grids.keys() == {path for path, each in bits.items() if each is not None}


def test_the_most_exact_target_counts(folder: Path) -> None:
    """A name before a pattern, a pattern before a class, in whichever order the groups stand."""
    config = _config(folder)
    groups = config["config_groups"]
    groups = {"all": groups["group_1"] | {"targets": ["Linear"]}, "mlp": groups["group_0"], "one": groups["group_2"]}
    groups["one"]["targets"] += ["model.layers.0.mlp.nothing"]
    edit_config(folder, quantization_config=config | {"config_groups": groups})
    assert inspect(folder).quantization == inspect(GOLDENS / "gemma4_mobile_ct").quantization


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ({"format": "nvfp4-pack-quantized"}, "in the format 'nvfp4-pack-quantized'"),
        ({"format": "float-quantized"}, "in the format 'float-quantized'"),
        ({"weights": {"type": "float"}}, "numbers of the type 'float'"),
        ({"weights": {"num_bits": 3}}, "with 3 bits"),
        ({"weights": {"symmetric": False}}, "zero points"),
        ({"weights": {"strategy": "block"}}, "a scale for each block"),
        ({"weights": {"strategy": "tensor"}}, "a scale for each tensor"),
        ({"input_activations": {"num_bits": 8, "type": "int", "dynamic": True}}, "rounded as they come"),
        ({"output_activations": {"num_bits": 8, "type": "float"}}, "for output activations"),
        ({"input_activations": {"num_bits": 4}}, "for input activations"),
        ({"input_activations": {"num_bits": 8, "strategy": "token"}}, "more than one step"),
    ],
)
def test_what_is_not_read(folder: Path, group: dict[str, Any], says: str) -> None:
    _edit_group(folder, **group)
    with pytest.raises(UnsupportedModelError, match="in a way that gemma does not read: group_0") as caught:
        inspect(folder)
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sparsity_config": {"format": "sparse-bitmask"}}, "sparse"),
        ({"transform_config": {"config_groups": {"u": {}}}}, "rotated"),
        ({"quantization_status": "initialized"}, "not packed"),
    ],
)
def test_what_is_read_of_no_module(folder: Path, change: dict[str, Any], says: str) -> None:
    edit_config(folder, quantization_config=_config(folder) | change)
    with pytest.raises(UnsupportedModelError, match=says):
        inspect(folder)


def test_towers_that_are_not_read_may_be_packed_in_any_way(folder: Path) -> None:
    config = _config(folder)
    group = {
        "targets": ["re:.*vision_tower.*"],
        "weights": {"num_bits": 8, "type": "float"},
        "format": "float-quantized",
    }
    config["config_groups"] = {"eyes": group} | config["config_groups"]
    edit_config(folder, quantization_config=config | {"sparsity_config": {}, "kv_cache_scheme": None, "version": "0.9"})
    name = "model.vision_tower.encoder.layers.0.self_attn.q_proj.linear.weight"
    edit_tensors(folder, lambda arrays: arrays.update({name: mx.zeros((32, 32), mx.uint8)}))
    assert inspect(folder).unread[name] == "pictures and sound are not read by this version"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (gone(f"{UP}.weight_scale"), f"'{UP}.weight_packed' holds codes, and there is no '{UP}.weight_scale'"),
        (gone(f"{GATE}.weight_scale"), f"'{GATE}.weight' holds codes, and there is no '{GATE}.weight_scale'"),
        (gone(f"{UP}.weight_packed"), f"'{UP}.weight_scale'"),
        (gone(f"{UP}.input_scale"), f"there is no '{UP}.input_scale'"),
        (put(f"{UP}.output_scale", mx.ones((3,))), f"'{UP}.output_scale' is F32 [3], and should be one number"),
        (put(f"{UP}.weight_packed", mx.zeros((96, 4), mx.uint32)), "is U32, and config.json says"),
        (put(f"{GATE}.weight", mx.zeros((32, 64), mx.uint8)), "is U8, and config.json says"),
        (put(f"{UP}.weight_packed", mx.zeros((64, 4), mx.int32)), f"'{UP}.weight_scale' of BF16 [96, 1] does not fit"),
        (
            put(f"{UP}.weight_packed", mx.zeros((96, 8), mx.int32)),
            "says affine, 2 bits, groups of 128, and its tensors affine, 4 bits",
        ),
        (put("model.norm.weight_packed", mx.zeros((2, 2), mx.int32)), "no group of config.json says how"),
    ],
)
def test_damage(folder: Path, change: Any, says: str) -> None:
    edit_tensors(folder, change)
    with pytest.raises(WeightsError) as caught:
        inspect(folder)
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("beside", ["weight_zero_point", "weight_g_idx"])
def test_codes_that_are_shifted_or_reordered(folder: Path, beside: str) -> None:
    edit_tensors(folder, put(f"{UP}.{beside}", mx.zeros((2, 2), mx.int32)))
    with pytest.raises(UnsupportedModelError, match=f"{beside} shifts or reorders"):
        inspect(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"strange": 1},
        {"config_groups": {}},
        {"config_groups": [1]},
        {"config_groups": {"a": 1}},
        {"config_groups": {"a": {"targets": "Linear"}}},
        {"config_groups": {"a": {"targets": ["Linear"], "weights": 4}}},
        {"config_groups": {"a": {"targets": ["Linear"], "input_activations": 8}}},
        {"config_groups": {"a": {"targets": ["re:("]}}},
    ],
)
def test_a_config_that_is_not_understood(folder: Path, change: dict[str, Any]) -> None:
    edit_config(folder, quantization_config=_config(folder) | change)
    with pytest.raises(ConfigError, match="config.json, quantization_config"):
        inspect(folder)
