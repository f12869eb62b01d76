"""The table of readers, and what `gemma quantize --recipe exact` leaves in config.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gemma_mlx import catalog, registry
from gemma_mlx.errors import ConfigError, UnsupportedModelError
from gemma_mlx.weights.foreign import READERS, note, steps_of
from gemma_mlx.weights.load import inspect, load
from gemma_mlx.weights.quantized import FOREIGN
from gemma_mlx.weights.repack import Grid
from tests.tiny import edit_config, edit_tensors, write_tiny

GOLDENS = Path(__file__).parent / "goldens"
UP = "model.layers.1.mlp.up_proj"


def test_the_table_of_readers() -> None:
    assert READERS.keys() == {"gemma", "compressed-tensors"}
    assert not READERS.keys() & FOREIGN.keys(), "what is read is not refused"
    assert {"safetensors", "gguf", *READERS} == registry.FORMATS
    assert {row.format for row in catalog.rows()} <= registry.FORMATS


def test_a_table_beside_the_text_model_is_found(tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / "gemma4_w4a16", tmp_path / "w")
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    edit_config(tmp_path / "w", quantization_config=..., compression_config=config["quantization_config"])
    assert inspect(tmp_path / "w").repacked.method == "compressed-tensors"


def test_a_grid_of_what_is_not_packed(tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / "gemma4_mobile", tmp_path / "m")
    steps = {"model.per_layer_model_projection.input_activation_scale": mx.array(0.5)}
    edit_tensors(tmp_path / "m", lambda arrays: arrays.update(steps))
    with pytest.raises(UnsupportedModelError, match=r"'model.per_layer_model_projection' are to be rounded"):
        inspect(tmp_path / "m")


def test_steps_of_zero_are_none() -> None:
    assert steps_of(Grid(before=0.0, after=0.25)) == (None, 0.25)
    grids = inspect(GOLDENS / "gemma4_mobile").grids
    assert steps_of(grids["model.layers.0.self_attn.v_proj"]) == (None, None)
    before, after = steps_of(grids["lm_head"])
    assert before == pytest.approx(0.0519371)
    assert after == pytest.approx(0.0723119)


def test_a_note_is_read_again(tmp_path: Path) -> None:
    write_tiny(tmp_path, quantize={"bits": 4, "group_size": 32})
    edit_config(tmp_path, packed_from=note("gemma", {UP: (0.5, None)}))
    loaded = load(tmp_path, dtype=mx.float32)
    assert loaded.grids
    assert loaded.checkpoint.repacked.method == "gemma"
    assert loaded.checkpoint.grids == {UP: Grid(before=0.5, after=None)}


@pytest.mark.parametrize(
    "values",
    [
        [],
        {},
        {"quant_method": "gemma"},
        {"quant_method": "gptq", "activation_grids": {}},
        {"quant_method": "gemma", "activation_grids": {UP: 0.5}},
        {"quant_method": "gemma", "activation_grids": {UP: [0.5]}},
        {"quant_method": "gemma", "activation_grids": {UP: [0.5, "0.5"]}},
        {"quant_method": "gemma", "activation_grids": {UP: [0.5, -0.5]}},
    ],
)
def test_a_note_that_is_damaged(tmp_path: Path, values: Any) -> None:
    write_tiny(tmp_path, quantize={"bits": 4, "group_size": 32})
    edit_config(tmp_path, packed_from=values)
    with pytest.raises(ConfigError, match="packed_from does not say") as caught:
        inspect(tmp_path)
    assert caught.value.hint
