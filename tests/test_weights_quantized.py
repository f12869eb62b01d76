"""What config.json says about quantization against what the shapes say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from gemma_mlx.errors import ConfigError, UnsupportedModelError, WeightsError
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.weights.load import Loaded, inspect, load, named_parameters
from gemma_mlx.weights.names import DIFFUSION, GEMMA3, TEXT
from gemma_mlx.weights.quantized import AFFINE_BITS, FOREIGN, Quantization, leaves, read_table
from tests.tiny import edit_config, edit_tensors, write_tiny

A4 = Quantization(mode="affine", bits=4, group_size=64)
UP = "model.layers.0.mlp.up_proj"
TOKENS = mx.array([[2, 5, 77, 31, 9, 60, 8, 8, 41, 3]])


def test_table_of_mlx_lm() -> None:
    table = read_table(
        {
            "quantization": {
                "group_size": 64,
                "bits": 4,
                "mode": "affine",
                UP: {"group_size": 32, "bits": 6},
                "lm_head": False,
                "model.embed_tokens": True,
            }
        },
        TEXT,
    )
    assert table is not None
    assert table.default == A4
    assert table.modules == {
        UP: Quantization(mode="affine", bits=6, group_size=32),
        "lm_head": None,
        "model.embed_tokens": A4,
    }


def test_table_of_mlx_vlm_is_spelled_as_the_file_is() -> None:
    table = read_table(
        {
            "quantization_config": {
                "group_size": 32,
                "bits": 4,
                "mode": "mxfp4",
                f"language_model.{UP}": {"group_size": 64, "bits": 8},
                "language_model.lm_head": False,
            }
        },
        GEMMA3,
    )
    assert table is not None
    assert table.default.mode == "mxfp4"
    assert table.modules == {UP: Quantization(mode="affine", bits=8, group_size=64), "lm_head": None}


def test_null_is_what_mlx_takes_where_nothing_is_named() -> None:
    """As mlx_lm.convert writes it with --quant-predicate mixed_3_4 and no group size."""
    entry = {"group_size": None, "bits": 3, "mode": "affine"}
    table = read_table({"quantization": {"group_size": None, "bits": None, "model.layers.0.mlp.up_proj": entry}}, TEXT)
    assert table is not None
    assert table.default == Quantization(mode="affine", bits=4, group_size=64)
    assert table.modules == {"model.layers.0.mlp.up_proj": Quantization(mode="affine", bits=3, group_size=64)}


def test_experts_of_mlx_vlm_that_differ() -> None:
    how = {"group_size": 64, "bits": 8}
    key = "model.decoder.layers.1.experts.gate_up_proj"
    table = read_table({"quantization": {"group_size": 64, "bits": 4, key: how}}, DIFFUSION)
    assert table is not None
    assert set(table.modules) == {f"model.layers.1.experts.{name}_proj" for name in ("gate", "up")}
    assert set(table.spelled.values()) == {key}


@pytest.mark.parametrize("config", [{}, {"quantization": None}, {"text_config": None, "quantization_config": None}])
def test_no_table(config: dict[str, Any]) -> None:
    assert read_table(config, TEXT) is None


def test_old_tables_name_no_mode() -> None:
    table = read_table({"quantization": {"group_size": 64, "bits": 4}}, TEXT)
    assert table is not None
    assert table.default == A4


@pytest.mark.parametrize(
    "quantization",
    [
        4,
        [],
        {},
        {"bits": 4},
        {"group_size": 64},
        {"bits": 7, "group_size": 64},
        {"bits": 4.0, "group_size": 64},
        {"bits": True, "group_size": 64},
        {"bits": 4, "group_size": 16},
        {"bits": 4, "group_size": -64},
        {"bits": 4, "group_size": 10**400},
        {"bits": 4, "group_size": 64, "mode": "mxfp4"},
        {"bits": 4, "group_size": 64, "mode": "q4_k"},
        {"bits": 4, "group_size": 64, "mode": ["affine"]},
        {"bits": 4, "group_size": 64, UP: 4},
        {"bits": 4, "group_size": 64, UP: {"bits": 9}},
        {"bits": 4, "group_size": 64, UP: {"bits": 4, "group_size": 64, "zero_point": 1}},
    ],
)
def test_a_table_that_is_none(quantization: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read_table({"quantization": quantization}, TEXT)
    assert caught.value.message.startswith("config.json, quantization")
    assert len(caught.value.message) < 300
    assert caught.value.hint


@pytest.mark.parametrize("method", [*FOREIGN, "unheard-of", None, {"a": 1}])
def test_quantized_by_another_program(method: Any) -> None:
    for config in (
        {"quantization_config": {"quant_method": method, "bits": 4, "group_size": 128} if method else {}},
        {"text_config": {"quantization_config": {"quant_method": method}}},
        {"compression_config": {"quant_method": method}},
    ):
        with pytest.raises(UnsupportedModelError, match="is quantized with") as caught:
            read_table(config, TEXT)
        if isinstance(method, str):
            assert FOREIGN.get(method, method) in caught.value.message
        assert caught.value.hint


def _logits(model: Any) -> mx.array:
    return model(model.embed(TOKENS))


def _spelled_out(loaded: Loaded) -> Any:
    """The same model with float32 matrices, made from the codes by mx.dequantize."""
    parameters = dict(named_parameters(loaded.model))
    for path, module in leaves(loaded.model):
        if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            codes = [parameters.pop(f"{path}.{name}", None) for name in ("weight", "scales", "biases")]
            dense = mx.dequantize(*codes, group_size=module.group_size, bits=module.bits, mode=module.mode)
            parameters[f"{path}.weight"] = dense.astype(mx.float32)
    match = loaded.checkpoint.match
    model = match.architecture.build(match.spec)
    model.load_weights(list(parameters.items()))
    return model


MODES = [
    *({"mode": "affine", "bits": bits, "group_size": 64} for bits in AFFINE_BITS),
    {"mode": "affine", "bits": 4, "group_size": 32},
    {"mode": "mxfp4", "bits": 4, "group_size": 32},
    {"mode": "mxfp8", "bits": 8, "group_size": 32},
    {"mode": "nvfp4", "bits": 4, "group_size": 16},
]


@pytest.mark.parametrize("how", MODES, ids=lambda how: f"{how['mode']}-{how['bits']}-{how['group_size']}")
@pytest.mark.parametrize("kind", ["gemma3_text", "gemma3"])
def test_every_mode_means_what_its_codes_mean(tmp_path: Path, kind: str, how: dict[str, Any]) -> None:
    write_tiny(tmp_path, kind, quantize=how)
    loaded = load(tmp_path, dtype=mx.float32)
    assert set(loaded.checkpoint.quantization.values()) == {Quantization(**how)}
    scales = 8 if how["mode"] != "affine" else 32
    expected = how["bits"] + scales / how["group_size"]
    assert expected < loaded.checkpoint.bits_per_weight < expected + 0.1  # the norms are not quantized
    x = loaded.model.embed(TOKENS)
    assert x.dtype == mx.float32
    logits, spelled_out = _logits(loaded.model), _logits(_spelled_out(loaded))
    assert mx.abs(logits - spelled_out).max().item() < 1e-5 * mx.abs(spelled_out).max().item()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_scales_are_cast_unless_they_are_8_bits_wide(tmp_path: Path, dtype: mx.Dtype) -> None:
    write_tiny(tmp_path / "affine", quantize={"mode": "affine", "bits": 4, "group_size": 64})
    write_tiny(tmp_path / "mx", quantize={"mode": "mxfp4", "bits": 4, "group_size": 32})
    affine = load(tmp_path / "affine", dtype=dtype).model.model.embed_tokens
    assert (affine.weight.dtype, affine.scales.dtype, affine.biases.dtype) == (mx.uint32, dtype, dtype)
    packed = load(tmp_path / "mx", dtype=dtype).model
    assert (packed.model.embed_tokens.weight.dtype, packed.model.embed_tokens.scales.dtype) == (mx.uint32, mx.uint8)
    assert packed.embed(TOKENS).dtype == dtype
    assert _logits(packed).dtype == dtype


def _mixed(path: str, module: nn.Module) -> Any:
    if path.endswith("v_proj"):
        return False
    if path.endswith("down_proj"):
        return {"bits": 8, "group_size": 32, "mode": "affine"}
    return {"bits": 4, "group_size": 32, "mode": "mxfp4"}


def test_mixed_tables_are_kept(tmp_path: Path) -> None:
    write_tiny(tmp_path, "gemma3", quantize=_mixed)
    table = json.loads((tmp_path / "config.json").read_text())["quantization"]
    assert table["language_model.model.layers.0.self_attn.v_proj"] is False
    assert table["language_model.model.layers.2.mlp.down_proj"] == {"group_size": 32, "bits": 8, "mode": "affine"}
    found = inspect(tmp_path).quantization
    assert found["model.layers.1.self_attn.v_proj"] is None
    assert found["model.layers.1.mlp.down_proj"] == Quantization(mode="affine", bits=8, group_size=32)
    assert found["model.layers.1.mlp.up_proj"] == Quantization(mode="mxfp4", bits=4, group_size=32)


@pytest.mark.parametrize(
    "table",
    [{"bits": 8, "group_size": 128}, {"bits": 4, "group_size": 32}, {"bits": 8, "group_size": 32, "mode": "mxfp8"}],
)
def test_modules_without_an_entry_go_by_their_shapes(tmp_path: Path, table: dict[str, Any]) -> None:
    """As in mlx-lm: the values for all modules fit only some of them, and nobody wrote down the others."""
    write_tiny(tmp_path, quantize=_mixed)
    before = inspect(tmp_path).quantization
    edit_config(tmp_path, quantization=table, quantization_config=...)
    assert inspect(tmp_path).quantization == before


def test_entries_of_modules_that_are_not_read_do_no_harm(tmp_path: Path) -> None:
    write_tiny(tmp_path, "gemma3", quantize={"bits": 4, "group_size": 64})
    edit_config(
        tmp_path,
        quantization={
            "bits": 4,
            "group_size": 64,
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1": {"bits": 8, "group_size": 64},
            "language_model.lm_head": {"bits": 8, "group_size": 64},
            "language_model.model.layers.0.self_attn.rotary_emb": False,
        },
    )
    assert inspect(tmp_path).quantization[UP] == A4


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (None, "has no 'quantization'"),
        ({UP: False}, "config.json says it is not quantized"),
        ({UP: {"bits": 8, "group_size": 64}}, "says affine, 8 bits, groups of 64, and its tensors affine, 4 bits"),
        ({UP: {"bits": 4, "group_size": 32}}, "says affine, 4 bits, groups of 32, and its tensors"),
        ({UP: {"bits": 4, "group_size": 32, "mode": "mxfp4"}}, "says mxfp4"),
        ({"model.layers.9.mlp.up_proj": {"bits": 4, "group_size": 64}}, "a module that this model does not have"),
    ],
)
def test_config_and_files_contradict(tmp_path: Path, table: dict[str, Any] | None, says: str) -> None:
    write_tiny(tmp_path, quantize={"bits": 4, "group_size": 64})
    stated = ... if table is None else {"bits": 4, "group_size": 64} | table
    edit_config(tmp_path, quantization=stated, quantization_config=...)
    with pytest.raises(WeightsError) as caught:
        inspect(tmp_path)
    assert says in caught.value.message
    assert caught.value.hint


def _without(*names: str) -> Any:
    def change(arrays: dict[str, mx.array]) -> None:
        for name in names:
            del arrays[name]

    return change


def _replaced(name: str, array: mx.array) -> Any:
    def change(arrays: dict[str, mx.array]) -> None:
        arrays[name] = array

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without(f"{UP}.scales"), f"{UP}.weight': it is packed, but the file holds no scales for it"),
        (_without(f"{UP}.biases"), f"lack 1 tensor that a gemma3_text of this config needs: '{UP}.biases'"),
        (_replaced(f"{UP}.scales", mx.zeros((128, 3), mx.bfloat16)), "fits no quantization of a matrix [128, 64]"),
        (_replaced(f"{UP}.scales", mx.zeros((128, 0), mx.bfloat16)), "fits no quantization"),
        (_replaced(f"{UP}.scales", mx.zeros((64, 1), mx.bfloat16)), "fits no quantization"),
        (_replaced(f"{UP}.scales", mx.zeros((128, 1), mx.int32)), "fits no quantization"),
        (_replaced(f"{UP}.scales", mx.zeros((128, 1), mx.uint8)), "fits no quantization"),
        (_replaced(f"{UP}.weight", mx.zeros((128, 7), mx.uint32)), "fits no quantization"),
        (_replaced(f"{UP}.weight", mx.zeros((128, 8), mx.int32)), "fits no quantization"),
        (_replaced(f"{UP}.weight", mx.zeros((1024,), mx.uint32)), "fits no quantization"),
        (_replaced(f"{UP}.biases", mx.zeros((128, 1), mx.uint8)), "is U8, and should be BF16 or F16 or F32"),
    ],
)
def test_files_contradict_themselves(tmp_path: Path, change: Any, says: str) -> None:
    write_tiny(tmp_path, quantize={"bits": 4, "group_size": 64})
    edit_tensors(tmp_path, change)
    with pytest.raises(WeightsError) as caught:
        inspect(tmp_path)
    assert says in caught.value.message


def test_an_entry_without_scales(tmp_path: Path) -> None:
    write_tiny(tmp_path, quantize=lambda path, module: "up_proj" not in path and {"bits": 4, "group_size": 64})
    edit_config(tmp_path, quantization={"bits": 4, "group_size": 64, UP: {"bits": 4, "group_size": 64}})
    with pytest.raises(WeightsError, match="holds no scales for it"):
        inspect(tmp_path)


def test_a_table_and_nothing_quantized(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    edit_config(tmp_path, quantization={"bits": 4, "group_size": 64})
    with pytest.raises(WeightsError, match="no tensor in the files is"):
        inspect(tmp_path)


def test_experts_of_mlx_vlm_are_packed_together(tmp_path: Path) -> None:
    """It keeps gate and up of DiffusionGemma's experts in one packed matrix each."""
    write_tiny(tmp_path, "diffusion_gemma", dtype=mx.float32, quantize={"group_size": 32, "bits": 4})
    apart = load(tmp_path, dtype=mx.float32).model
    assert isinstance(apart, Decoder)
    logits = apart(apart.embed(TOKENS))
    mx.eval(logits)

    def together(arrays: dict[str, mx.array]) -> None:
        for name in [name for name in arrays if ".experts.switch_glu." in name]:
            plain = name.replace(".switch_glu.", ".")
            if ".gate_proj." in name:
                up = arrays.pop(name.replace(".gate_proj.", ".up_proj."))
                arrays[plain.replace(".gate_proj.", ".gate_up_proj.")] = mx.concatenate([arrays.pop(name), up], axis=1)
            elif ".down_proj." in name:
                arrays[plain] = arrays.pop(name)

    edit_tensors(tmp_path, together)
    found = load(tmp_path, dtype=mx.float32)
    assert isinstance(found.model, Decoder)
    assert mx.array_equal(found.model(found.model.embed(TOKENS)), logits)
    assert found.checkpoint.quantization["model.layers.0.experts.gate_proj"] == Quantization(
        mode="affine", bits=4, group_size=32
    )
