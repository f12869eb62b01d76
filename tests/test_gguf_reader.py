"""Headers of GGUF files: what is in them, and what is said of damaged ones."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx.errors import CheckpointError, GemmaError, UnsupportedModelError, WeightsError
from gemma_mlx.gguf import reader
from gemma_mlx.gguf.reader import read_gguf
from tests import gguf_files

METADATA: dict[str, Any] = {
    "general.architecture": "gemma3",
    "a.number": 7,
    "a.negative": -7,
    "a.float": 0.5,
    "a.flag": True,
    "a.text": "Grüße",
    "a.list": ["one", "", "▁two"],
    "a.numbers": [1.5, 2.5],
    "a.flags": [True, False],
}
TENSORS = {
    "one.weight": ("F32", (2, 3), bytes(24)),
    "two.weight": ("Q4_0", (4, 64), bytes(range(144))),
    "three": ("F16", (5,), bytes(10)),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return gguf_files.write(tmp_path / "model.gguf", METADATA, TENSORS)


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_and_places(tmp_path: Path, version: int) -> None:
    path = gguf_files.write(tmp_path / "model.gguf", METADATA, TENSORS, version=version)
    gguf = read_gguf(path)
    assert gguf.architecture == "gemma3"
    assert gguf.metadata == {key: tuple(value) if isinstance(value, list) else value for key, value in METADATA.items()}
    assert {name: (entry.kind.name, entry.shape) for name, entry in gguf.tensors.items()} == {
        name: (kind, shape) for name, (kind, shape, _) in TENSORS.items()
    }
    data = path.read_bytes()
    for name, (_, _, wanted) in TENSORS.items():
        entry = gguf.tensors[name]
        assert data[entry.start : entry.stop] == wanted
        assert not entry.start % gguf_files.ALIGNMENT


def test_no_architecture_is_no_name(tmp_path: Path) -> None:
    assert read_gguf(gguf_files.write(tmp_path / "x.gguf", {}, {})).architecture == ""


def test_a_long_header_is_read_in_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_FIRST_BYTES", 24)
    assert read_gguf(path).metadata["a.text"] == "Grüße"


def test_what_was_read_is_kept_until_the_file_changes(path: Path) -> None:
    assert read_gguf(path).metadata is read_gguf(path).metadata
    gguf_files.write(path, METADATA | {"a.number": 8, "a.new": 1}, TENSORS)
    assert read_gguf(path).metadata["a.number"] == 8


@pytest.mark.parametrize("cut", [0, 3, 8, 30, 100, 400, -1])
def test_a_file_that_was_cut(path: Path, cut: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:cut] if cut >= 0 else data[: read_gguf(path).tensors["three"].start])
    with pytest.raises(WeightsError) as caught:
        read_gguf(path)
    assert str(path) in caught.value.message
    assert caught.value.hint is not None


def test_every_flipped_byte_is_read_or_told(path: Path) -> None:
    """No damage gets past as anything but a sentence."""
    data = path.read_bytes()
    told = 0
    for at in range(0, read_gguf(path).tensors["one.weight"].start, 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        os.utime(path, ns=(at, at))
        try:
            read_gguf(path)
        except (CheckpointError, UnsupportedModelError):
            told += 1
    assert told > 50


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"", WeightsError, "is empty"),
        (b"GGML" + bytes(40), WeightsError, "is no GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n" + bytes(20), WeightsError, "Git LFS pointer"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), UnsupportedModelError, "of version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), UnsupportedModelError, "the other way round"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 1), WeightsError, "it claims"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), WeightsError, "beyond its end"),
    ],
)
def test_what_is_no_gguf_file(tmp_path: Path, data: bytes, error: type[GemmaError], says: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        read_gguf(path)
    assert says in caught.value.message


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        read_gguf(tmp_path / "model.gguf")


def test_a_kind_that_is_not_known(path: Path) -> None:
    kinds = struct.pack("<I", gguf_files.TYPES["Q4_0"]) + struct.pack("<Q", 32)
    path.write_bytes(path.read_bytes().replace(kinds, struct.pack("<I", 99) + struct.pack("<Q", 32)))
    with pytest.raises(WeightsError, match="kind 99"):
        read_gguf(path)


def test_parts_are_one_model(tmp_path: Path) -> None:
    first = gguf_files.write(tmp_path / "g-00001-of-00002.gguf", METADATA, {"one.weight": TENSORS["one.weight"]})
    second = tmp_path / "g-00002-of-00002.gguf"
    with pytest.raises(WeightsError, match=r"g-00002-of-00002.gguf is not beside it"):
        read_gguf(first)
    gguf_files.write(second, {"split.no": 1}, {"three": TENSORS["three"]})
    gguf = read_gguf(second)
    assert gguf.path == first
    assert {name: entry.file for name, entry in gguf.tensors.items()} == {"one.weight": first, "three": second}
    gguf_files.write(second, {"split.no": 1}, {"one.weight": TENSORS["one.weight"]})
    with pytest.raises(WeightsError, match="is both in"):
        read_gguf(first)
