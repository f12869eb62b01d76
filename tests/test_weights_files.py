"""Which files of a folder hold the weights, and what is said of folders without any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gemma_mlx.errors import GemmaError, ModelNotFoundError, UnsupportedModelError, WeightsError
from gemma_mlx.weights.files import INDEX, check_folder, located, stored_tensors


def _file(folder: Path, name: str, *tensors: str) -> None:
    mx.save_safetensors(str(folder / name), {tensor: mx.zeros((2,)) for tensor in tensors})


def _index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 16}, "weight_map": weight_map}))


def test_one_file(tmp_path: Path) -> None:
    _file(tmp_path, "model.safetensors", "a", "b")
    assert sorted(stored_tensors(tmp_path).tensors) == ["a", "b"]


def test_files_under_an_index(tmp_path: Path) -> None:
    _file(tmp_path, "model-00001-of-00002.safetensors", "a")
    _file(tmp_path, "model-00002-of-00002.safetensors", "b")
    _index(tmp_path, {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"})
    stored = stored_tensors(tmp_path)
    assert {name: info.file.name for name, info in stored.tensors.items()} == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
    }


def test_files_without_an_index(tmp_path: Path) -> None:
    _file(tmp_path, "model-00001-of-00002.safetensors", "a")
    _file(tmp_path, "model-00002-of-00002.safetensors", "b")
    assert sorted(stored_tensors(tmp_path).tensors) == ["a", "b"]


def test_a_second_layout_is_set_aside_with_a_reason(tmp_path: Path) -> None:
    _file(tmp_path, "model.safetensors", "a")
    _file(tmp_path, "consolidated.safetensors", "x")
    _file(tmp_path, "._model.safetensors", "y")  # what macOS leaves on foreign disks
    stored = stored_tensors(tmp_path)
    assert list(stored.tensors) == ["a"]
    assert stored.unread == {"consolidated.safetensors": "the same weights once more, in the layout of another program"}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"model.safetensors": "a", "model-00001-of-00001.safetensors": "a"}, "which are two checkpoints"),
        (
            {"model-00001-of-00002.safetensors": "a", "model-00002-of-00003.safetensors": "b"},
            "checkpoints of 2 and 3 files",
        ),
        ({"model-00001-of-00003.safetensors": "a", "model-00003-of-00003.safetensors": "b"}, "number 2 is missing"),
        ({"model.safetensors": "a", "model.fp16.safetensors": "a"}, "'a' is both in"),
        ({"model.safetensors": "a", "adapter_model.safetensors": "b"}, "an adapter"),
        ({"weights.00.safetensors": "a"}, "belongs to no checkpoint"),
        ({"consolidated.safetensors": "a"}, "no model.safetensors and none of its parts"),
    ],
)
def test_refuses_a_mixture(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, tensor in files.items():
        _file(tmp_path, name, tensor)
    with pytest.raises(WeightsError) as caught:
        stored_tensors(tmp_path)
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({"a": "one.safetensors", "b": "two.safetensors", "c": "three.safetensors"}, "1 of them cannot be found"),
        ({"a": "one.safetensors"}, "which its index does not name"),
        ({"a": "one.safetensors", "b": "model-two.safetensors", "c": "one.safetensors"}, "lacks 1 of the tensors"),
        ({"a": "model-two.safetensors", "b": "one.safetensors"}, "lacks 1 of the tensors"),
        ({"a": "../one.safetensors"}, "no name of a safetensors file beside it"),
        ({"a": "/etc/one.safetensors"}, "no name of a safetensors file beside it"),
        ({"a": "one\x00.safetensors"}, "no name of a safetensors file beside it"),
        ({"a": "one.bin"}, "no name of a safetensors file beside it"),
        ({"a": 7}, "no name of a safetensors file beside it"),
        ({}, "has no 'weight_map'"),
        ([], "has no 'weight_map'"),
        (None, "has no 'weight_map'"),
    ],
)
def test_refuses_a_wrong_index(tmp_path: Path, weight_map: Any, says: str) -> None:
    _file(tmp_path, "one.safetensors", "a")
    _file(tmp_path, "model-two.safetensors", "b")
    if isinstance(weight_map, dict) and "two.safetensors" in weight_map.values():
        _file(tmp_path, "two.safetensors", "b")
    _index(tmp_path, weight_map)
    with pytest.raises(WeightsError) as caught:
        stored_tensors(tmp_path)
    assert says in caught.value.message
    assert caught.value.hint


def test_a_tensor_the_index_does_not_know(tmp_path: Path) -> None:
    _file(tmp_path, "one.safetensors", "a", "z")
    _index(tmp_path, {"a": "one.safetensors"})
    with pytest.raises(WeightsError, match="holds what the index does not place there: 'z'"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"[" * 100_000, b"\xff\xfe"])
def test_an_index_that_is_no_index(tmp_path: Path, content: bytes) -> None:
    _file(tmp_path, "model.safetensors", "a")
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(WeightsError, match=INDEX):
        stored_tensors(tmp_path)


def test_a_leftover_index_is_said_to_be_one(tmp_path: Path) -> None:
    _file(tmp_path, "model.safetensors", "a")
    _index(tmp_path, {"a": "model-00001-of-00001.safetensors"})
    with pytest.raises(WeightsError) as caught:
        stored_tensors(tmp_path)
    assert caught.value.hint is not None
    assert "leftover" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("mmproj-model-f16.gguf", UnsupportedModelError, "the tower for pictures or sound"),
        ("model-Q4_K_M.ggml", UnsupportedModelError, "GGML"),
        ("pytorch_model.bin", UnsupportedModelError, "PyTorch pickles"),
        ("weights.npz", UnsupportedModelError, "NumPy archives"),
        ("model.weights.h5", UnsupportedModelError, "Keras"),
        ("flax_model.msgpack", UnsupportedModelError, "Flax"),
        ("gemma.litertlm", UnsupportedModelError, "LiteRT"),
        ("2b-it-sfp.sbs", UnsupportedModelError, "gemma.cpp"),
        ("_METADATA", UnsupportedModelError, "Orbax"),
        ("config.json", WeightsError, "no *.safetensors"),
        (None, ModelNotFoundError, "is empty"),
    ],
)
def test_a_folder_of_another_kind(tmp_path: Path, name: str | None, error: type[GemmaError], says: str) -> None:
    if name is not None:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(error) as caught:
        check_folder(tmp_path)
    assert says in caught.value.message
    assert caught.value.hint


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="cannot be read: No such file"):
        check_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "error"), [("model.gguf", WeightsError), ("model.safetensors", ModelNotFoundError)])
def test_a_file_instead_of_a_folder(tmp_path: Path, name: str, error: type[GemmaError]) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(error):
        check_folder(tmp_path / name)


def test_a_gguf_file_stands_for_its_folder(tmp_path: Path) -> None:
    assert located(tmp_path) == tmp_path
    (tmp_path / "b-Q4_0.gguf").touch()
    (tmp_path / "mmproj-b.gguf").touch()
    assert located(tmp_path) == tmp_path / "b-Q4_0.gguf" == located(tmp_path / "b-Q4_0.gguf")
    (tmp_path / "a-Q8_0.gguf").touch()
    with pytest.raises(WeightsError, match="2 GGUF files of models: 'a-Q8_0.gguf', 'b-Q4_0.gguf'") as caught:
        located(tmp_path)
    assert caught.value.hint == f"Name one: gemma chat '{tmp_path / 'a-Q8_0.gguf'}'"
    (tmp_path / "model.safetensors").touch()
    assert located(tmp_path) == tmp_path
