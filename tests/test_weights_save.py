"""Saving: what is written is what was there, in the layout that others read."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from gemma_mlx.errors import InputError
from gemma_mlx.weights import save as saving
from gemma_mlx.weights.load import inspect, load
from gemma_mlx.weights.save import save_checkpoint
from tests.tiny import KINDS, tiny_config, tiny_model, write_tiny


def _parameters(model: object) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_in_float32(tmp_path: Path, kind: str) -> None:
    saved = _parameters(write_tiny(tmp_path, kind, dtype=mx.float32))
    loaded = _parameters(load(tmp_path, dtype=mx.float32).model)
    assert list(saved) == list(loaded)
    for name, array in saved.items():
        # A norm is stored less 1, so its last bit may be lost.
        exact = array.ndim > 1
        assert mx.array_equal(array, loaded[name]) if exact else mx.allclose(array, loaded[name], rtol=0, atol=1e-7), (
            name
        )


@pytest.mark.parametrize("kind", KINDS)
def test_shards_hold_the_same(tmp_path: Path, kind: str) -> None:
    model = write_tiny(tmp_path / "one", kind)
    save_checkpoint(tmp_path / "many", model, tiny_config(kind), shard_bytes=60_000)
    files = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert files[:2] == ["config.json", f"model-00001-of-{len(files) - 2:05}.safetensors"]
    assert files[-1] == "model.safetensors.index.json"
    assert all(path.stat().st_size < 80_000 for path in (tmp_path / "many").glob("*.safetensors"))
    one, many = inspect(tmp_path / "one"), inspect(tmp_path / "many")
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == one.nbytes == many.nbytes
    a, b = _parameters(load(tmp_path / "one").model), _parameters(load(tmp_path / "many").model)
    assert all(mx.array_equal(a[name], b[name]) for name in a)


def test_names_and_values_are_the_published_ones(tmp_path: Path) -> None:
    model = write_tiny(tmp_path, "gemma3", dtype=mx.float32)
    stored = mx.load(str(tmp_path / "model.safetensors"))
    assert isinstance(stored, dict)
    assert all(name.startswith("language_model.model.") for name in stored)
    norm = stored["language_model.model.norm.weight"]
    assert mx.allclose(norm + 1, model.model.norm.weight)
    assert mx.abs(norm).max().item() < 0.8


def test_config_says_what_was_written(tmp_path: Path) -> None:
    write_tiny(tmp_path, quantize={"bits": 4, "group_size": 64}, dtype=mx.float32)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"] == {"group_size": 64, "bits": 4, "mode": "affine"}
    assert config["dtype"] == "float32"
    assert "torch_dtype" not in config
    assert {info.dtype for name, info in inspect(tmp_path).tensors.items() if name.endswith("scales")} == {"F32"}


def test_a_second_save_replaces_the_first(tmp_path: Path) -> None:
    write_tiny(tmp_path, shard_bytes=60_000, quantize={"bits": 4, "group_size": 64})
    (tmp_path / "tokenizer.json").write_text("{}")
    write_tiny(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert inspect(tmp_path).quantization["model.embed_tokens"] is None


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(saving, "_write", fail)
    with pytest.raises(OSError, match="disk full"):
        write_tiny(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_untied_head_is_saved_and_said(tmp_path: Path) -> None:
    write_tiny(tmp_path, tie_word_embeddings=False)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    assert not load(tmp_path).model.spec.tied_head


def test_refuses_a_config_of_another_model(tmp_path: Path) -> None:
    model = tiny_model(tiny_config("gemma3_text"))
    with pytest.raises(InputError, match="a gemma3_text other than the model"):
        save_checkpoint(tmp_path, model, tiny_config("gemma3_text", sliding_window=9))
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_dtype_no_checkpoint_has(tmp_path: Path) -> None:
    config = tiny_config("gemma3_text")
    with pytest.raises(InputError, match="cannot be saved in int8"):
        save_checkpoint(tmp_path, tiny_model(config), config, dtype=mx.int8)
