"""Packed checkpoints written in MLX's layout: bytes as planned, codes untouched, towers and grids included."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model
from typer.testing import CliRunner

import gemma_mlx
from gemma_mlx.cli.app import app
from gemma_mlx.errors import InputError
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.plan import plan
from gemma_mlx.weights.load import inspect
from tests.tiny import edit_config, edit_tensors, write_tiny

GOLDENS = Path(__file__).parent / "goldens"
TOWER = "model.vision_tower.encoder.layers.0.self_attn.q_proj.linear"


def test_codes_and_scales_are_the_sources(tmp_path: Path) -> None:
    made = plan(GOLDENS / "gemma4_w4a16", recipe_name="exact")
    quantize(made, tmp_path / "mlx")
    source = mx.load(str(GOLDENS / "gemma4_w4a16" / "model.safetensors"))
    target = mx.load(str(tmp_path / "mlx" / "model.safetensors"))
    assert sum(array.nbytes for array in target.values()) == made.nbytes
    seen = 0
    for name, array in source.items():
        module, _, last = name.rpartition(".")
        if last == "weight_packed":
            assert mx.array_equal(target[f"{module}.weight"], array.view(mx.uint32))
            assert mx.array_equal(target[f"{module}.scales"], source[f"{module}.weight_scale"])
            assert mx.array_equal(target[f"{module}.biases"], -8 * source[f"{module}.weight_scale"])
            seen += 1
        elif last not in ("weight_scale", "weight_shape"):
            assert mx.array_equal(target[name], array)
    assert seen > 20
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"] == {"bits": 4, "group_size": 32, "mode": "affine"}
    assert config["packed_from"] == {"quant_method": "compressed-tensors", "activation_grids": {}}


def test_towers_and_grids_come_along(tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / "gemma4_mobile", tmp_path / "source")
    codes = mx.random.randint(-128, 128, (8, 64), key=mx.random.key(3)).astype(mx.int8)
    tower = {
        f"{TOWER}.weight": codes,
        f"{TOWER}.weight_scale": mx.full((8, 1), 0.5),
        f"{TOWER}.input_activation_scale": mx.array(0.25),
        f"{TOWER}.output_activation_scale": mx.array(0.0),
        f"{TOWER}.input_max": mx.array(3.0),
    }
    edit_tensors(tmp_path / "source", lambda arrays: arrays.update(tower))
    config = json.loads((tmp_path / "source" / "config.json").read_text())["quantization_config"]
    patterns = {"vision_tower": {"num_bits": 8}} | config["module_quant_configs"]
    edit_config(tmp_path / "source", quantization_config=config | {"module_quant_configs": patterns})
    checkpoint = quantize(plan(tmp_path / "source", recipe_name="exact"), tmp_path / "mlx")
    written = mx.load(str(tmp_path / "mlx" / "model.safetensors"))
    dense = mx.dequantize(
        written[f"{TOWER}.weight"], written[f"{TOWER}.scales"], written[f"{TOWER}.biases"], group_size=64, bits=8
    )
    assert mx.array_equal(dense, codes.astype(mx.float32) * 0.5)
    assert written[f"{TOWER}.input_max"].item() == 3.0
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    assert config["quantization"][TOWER] == {"bits": 8, "group_size": 64, "mode": "affine"}
    assert config["packed_from"]["activation_grids"][TOWER] == [0.25, None]
    assert config["packed_from"]["activation_grids"]["lm_head"] == pytest.approx([0.0519371, 0.0723119])
    assert config["tie_word_embeddings"] is False
    assert checkpoint.grids.keys() == {path for path in config["packed_from"]["activation_grids"] if path != TOWER}


def test_stopped_and_continued_it_is_the_same(tmp_path: Path) -> None:
    made = plan(GOLDENS / "gemma4_mobile", recipe_name="exact")
    quantize(made, tmp_path / "whole")
    asked = 0

    def stop(*_: object) -> None:
        nonlocal asked
        asked += 1
        if asked == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(made, tmp_path / "again", on_progress=stop)
    quantize(made, tmp_path / "again")
    whole, again = (tmp_path / name / "model.safetensors" for name in ("whole", "again"))
    assert whole.read_bytes() == again.read_bytes()


def test_what_it_is_not_for(tmp_path: Path) -> None:
    write_tiny(tmp_path / "plain")
    with pytest.raises(InputError, match="is not packed"):
        plan(tmp_path / "plain", recipe_name="exact")
    with pytest.raises(InputError, match="exact leaves every module as it is"):
        plan(GOLDENS / "gemma4_mobile", recipe_name="exact", keep=["up_proj=8"])
    with pytest.raises(InputError, match="packs nothing"):
        plan(GOLDENS / "gemma4_mobile", recipe_name="exact", bits=4)
    with pytest.raises(InputError, match="is quantized already") as caught:
        plan(GOLDENS / "gemma4_mobile")
    assert caught.value.hint == "--recipe exact writes it in the layout of MLX, without loss."


def test_what_mlx_packed_is_copied(tmp_path: Path) -> None:
    write_tiny(tmp_path / "source", "gemma3", quantize={"mode": "mxfp4", "bits": 4, "group_size": 32})
    quantize(plan(tmp_path / "source", recipe_name="exact"), tmp_path / "copy")
    source, copy = inspect(tmp_path / "source"), inspect(tmp_path / "copy")
    assert (copy.quantization, copy.nbytes) == (source.quantization, source.nbytes)
    assert "packed_from" not in copy.config


@pytest.mark.parametrize("name", ["gemma4_w4a16", "gemma4_mobile", "gemma4_mobile_ct"])
def test_mlx_lm_computes_the_same_without_grids(name: str, tmp_path: Path) -> None:
    checkpoint = quantize(plan(GOLDENS / name, recipe_name="exact"), tmp_path / "mlx")
    # It knows the published spelling of wide full layers alone.
    edit_config(tmp_path / "mlx", per_layer_config=..., global_head_dim=64)
    theirs, _ = load_model(tmp_path / "mlx")
    theirs.set_dtype(mx.float32)
    ours = gemma_mlx.load(checkpoint.folder, mx.float32, grids=False)
    tokens = mx.load(str(GOLDENS / name / "reference" / "logits.safetensors"))["tokens"]
    logits = ours.logits(tokens)
    assert mx.abs(theirs(tokens) - logits).max().item() <= 1e-5 * (logits.max() - logits.min()).item()


def test_the_command(tmp_path: Path) -> None:
    source = str(GOLDENS / "gemma4_mobile_ct")
    runner = CliRunner()
    shown = runner.invoke(app, ["quantize", source, "--recipe", "exact", "--dry-run"])
    assert shown.exit_code == 0
    assert "8 bits / 64, as it was" in shown.stdout
    done = runner.invoke(app, ["quantize", source, "--recipe", "exact", "--to", str(tmp_path / "mlx"), "--json", "-q"])
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert {group["method"] for group in facts["groups"]} == {"exact"}
    assert facts["bytes"] == sum(tensor.nbytes for tensor in inspect(tmp_path / "mlx").tensors.values())
