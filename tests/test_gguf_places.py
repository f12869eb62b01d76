"""Which files are GGUF files, and which of them are models."""

from __future__ import annotations

from pathlib import Path

from gemma_mlx.gguf.places import is_gguf, is_tower, models, parts_of


def test_which_files_are_models() -> None:
    names = ["b.GGUF", "a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "mmproj-model-f16.gguf", "x.safetensors"]
    assert models(names) == ["a-00001-of-00002.gguf", "b.GGUF"]
    assert is_tower("mmproj-model-f16.gguf")


def test_parts() -> None:
    assert parts_of(Path("a.gguf")) == [Path("a.gguf")]
    assert parts_of(Path("a-00000-of-00000.gguf")) == [Path("a-00000-of-00000.gguf")]
    assert [part.name for part in parts_of(Path("x/a-00002-of-00003.gguf"))] == [
        "a-00001-of-00003.gguf", "a-00002-of-00003.gguf", "a-00003-of-00003.gguf",
    ]  # fmt: skip


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    assert not is_gguf(tmp_path / "folder.gguf")
    assert not is_gguf(tmp_path / "gone.gguf")
    (tmp_path / "model.gguf").touch()
    assert is_gguf(tmp_path / "model.gguf")
