"""What is decided about each tensor, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gemma_mlx.errors import InputError
from gemma_mlx.quantize.formats import BITS_4, BITS_8, BLOCKS_OF_32
from gemma_mlx.quantize.plan import plan
from gemma_mlx.weights.quantized import Quantization
from tests.test_quantize_pack import lattice
from tests.tiny import edit_config, edit_tensors, write_tiny


def on_lattice(arrays: dict[str, mx.array]) -> None:
    """Puts every matrix but the table on the lattice of Q4_0."""
    for name, array in arrays.items():
        if array.ndim == 2 and "embed" not in name:
            arrays[name] = lattice(*array.shape)


def with_towers(folder: Path) -> None:
    """A gemma3 as transformers of today writes it, with two maps and a table of a tower."""
    write_tiny(folder, "gemma3", num_hidden_layers=9)
    tower = "model.vision_tower.vision_model.encoder.layers.0"

    def change(arrays: dict[str, mx.array]) -> None:
        for name in list(arrays):
            arrays[name.replace("language_model.model.", "model.language_model.")] = arrays.pop(name)
        arrays[f"{tower}.mlp.fc1.weight"] = mx.random.normal((32, 64), key=mx.random.key(3)).astype(mx.bfloat16)
        arrays[f"{tower}.mlp.fc1.bias"] = mx.zeros((32,))
        arrays[f"{tower}.mlp.fc2.weight"] = mx.zeros((64, 40))
        arrays["model.vision_tower.vision_model.embeddings.position_embedding.weight"] = mx.zeros((4, 64))

    edit_tensors(folder, change)


def test_every_tensor_is_decided(tmp_path: Path) -> None:
    with_towers(tmp_path)
    made = plan(tmp_path)
    hows = {one.path: one.how for one in made.decisions}
    layer = "language_model.model.layers"
    assert hows["language_model.model.embed_tokens"] == Quantization(mode="affine", bits=6, group_size=64)
    values = {hows[f"{layer}.{index}.self_attn.v_proj"] for index in range(9)}
    assert values == {Quantization(mode="affine", bits=6, group_size=64)}
    assert hows[f"{layer}.0.mlp.up_proj"] == BITS_4
    tower = "vision_tower.vision_model"
    assert hows[f"{tower}.encoder.layers.0.mlp.fc1"] == BITS_8
    assert hows[f"{tower}.encoder.layers.0.mlp.fc2.weight"] is None  # no group divides its rows
    assert hows[f"{tower}.embeddings.position_embedding.weight"] is None
    table = made.config["quantization"]
    assert {key: table[key] for key in ("group_size", "bits", "mode")} == {
        "group_size": 64,
        "bits": 4,
        "mode": "affine",
    }
    assert table[f"{layer}.0.self_attn.v_proj"] == {"group_size": 64, "bits": 6, "mode": "affine"}
    assert f"{layer}.2.mlp.down_proj" not in table
    assert made.config["dtype"] == "bfloat16"
    assert sum(group.tensors for group in made.groups()) == len(made.decisions)
    assert sum(group.nbytes for group in made.groups()) == made.nbytes
    finer = next(group for group in made.groups() if group.what.endswith("o_proj"))
    assert (finer.layers, finer.how) == (tuple(range(9)), Quantization(mode="affine", bits=5, group_size=64))


def test_bits_per_weight(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    made = plan(tmp_path, keep=["embed_tokens=8"])
    exact = {one.how: one.nbytes * 8 / one.weights for one in made.decisions}
    assert (exact[BITS_4], exact[BITS_8], exact[None]) == (4.5, 8.5, 16.0)
    for mode, bits in (("mxfp4", 4.25), ("mxfp8", 8.25), ("nvfp4", 4.5)):
        made = plan(tmp_path, recipe_name="uniform", mode=mode)
        assert bits < made.bits_per_weight < bits + 0.1  # the norms are not packed
    assert plan(tmp_path, recipe_name="bf16").bits_per_weight == 16


def test_what_is_kept(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    made = plan(tmp_path, recipe_name="bf16", keep=["up_proj=mxfp4", "mlp=6/32"])
    hows = {one.path: one.how for one in made.decisions}
    assert hows["model.layers.0.mlp.up_proj"].mode == "mxfp4"  # type: ignore[union-attr]
    assert hows["model.layers.0.mlp.gate_proj"].bits == 6  # type: ignore[union-attr]
    assert hows["model.layers.0.self_attn.q_proj.weight"] is None
    assert made.config["quantization"]["bits"] == 6  # the commonest
    with pytest.raises(InputError, match="--keep 'up_prj=8' finds no module") as caught:
        plan(tmp_path, keep=["up_prj=8"])
    assert "model.layers." in str(caught.value.hint)


def test_weights_on_the_lattice_are_found(tmp_path: Path) -> None:
    write_tiny(tmp_path, num_hidden_layers=2)
    edit_tensors(tmp_path, on_lattice)
    for recipe in ("gemma", "qat"):
        made = plan(tmp_path, recipe_name=recipe)
        methods = {one.path: one.method for one in made.decisions if one.how is not None}
        assert methods.pop("model.embed_tokens") == "plain"
        assert set(methods.values()) == {"lattice"}
        for group in made.groups():
            if group.method == "lattice":
                assert group.how == BLOCKS_OF_32
                assert group.errors is not None
                assert group.errors[0] <= 0.003 < 0.04 < group.errors[1]
    assert {one.method for one in plan(tmp_path, recipe_name="uniform").decisions} == {"plain", None}
    # What was asked for comes first.
    kept = plan(tmp_path, keep=["q_proj=8"]).decisions
    assert {one.how for one in kept if "q_proj" in one.path and one.method} == {BITS_8}
    assert {one.method for one in plan(tmp_path, bits=3).decisions} == {"plain", None}


def test_not_trained_for_it(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    with pytest.raises(InputError, match="lie on the lattice of Q4_0, so it was not trained for it"):
        plan(tmp_path, recipe_name="qat")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"recipe_name": "x"}, "'x' is no recipe"),
        ({"recipe_name": "bf16", "bits": 4}, "The recipe bf16 packs nothing"),
        ({"mode": "mxfp4", "bits": 8}, "mxfp4 has 4 bits"),
        ({"keep": ["v_proj"]}, "does not say what is kept"),
    ],
)
def test_what_cannot_be_had(tmp_path: Path, asked: dict[str, Any], says: str) -> None:
    write_tiny(tmp_path)
    with pytest.raises(InputError, match=says):
        plan(tmp_path, **asked)


def test_quantized_already(tmp_path: Path) -> None:
    write_tiny(tmp_path, quantize={"bits": 4, "group_size": 64})
    with pytest.raises(InputError, match="is quantized already .affine, 4 bits, groups of 64.") as caught:
        plan(tmp_path)
    assert caught.value.hint


def test_the_fingerprint_knows_what_counts(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    seen = {
        plan(tmp_path, **asked).fingerprint()
        for asked in ({}, {"bits": 3}, {"clip": True}, {"keep": ["v_proj=8"]}, {"recipe_name": "uniform"})  # type: ignore[arg-type]
    }
    assert len(seen) == 5
    assert plan(tmp_path).fingerprint() in seen
    edit_config(tmp_path, eos_token_id=[1, 5])
    assert plan(tmp_path).fingerprint() not in seen


def test_keys_and_values_that_nobody_reads_come_along(tmp_path: Path) -> None:
    """mlx-lm demands them of a Gemma 3n; config.json must not name them, for there is no such module."""
    write_tiny(tmp_path, "gemma3n_text", layer_types=["full_attention"] * 3, num_kv_shared_layers=0)
    edit_config(tmp_path, num_kv_shared_layers=1)
    made = plan(tmp_path)
    borrowed = {one.path: one.how for one in made.decisions if ".2.self_attn.v_proj" in one.path}
    assert borrowed == {"model.layers.2.self_attn.v_proj": BITS_4}
    assert "model.layers.2.self_attn.v_proj" not in made.config["quantization"]
