"""Parts of tensors out of their files: the right bytes, no others, and a sentence where they are gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gemma_mlx.errors import WeightsError
from gemma_mlx.weights import read as reading
from gemma_mlx.weights.header import TensorInfo, read_header
from gemma_mlx.weights.read import File, Rows, arrays, portions, read, sample

Cut = tuple[int, tuple[tuple[int, int], ...]]

CUTS: list[Cut] = [(0, ((0, 3),)), (0, ((1, 2), (4, 7))), (1, ((0, 2),)), (1, ((1, 3), (4, 5))), (2, ((1, 2), (3, 4)))]
DTYPES = [mx.bfloat16, mx.float16, mx.float32, mx.uint32, mx.uint8]


def _stored(folder: Path, array: mx.array) -> TensorInfo:
    mx.save_safetensors(str(folder / "model.safetensors"), {"a": mx.ones((3,)), "it": array, "z": mx.ones((5,))})
    return read_header(folder / "model.safetensors")["it"]


def _array(dtype: mx.Dtype = mx.float32, shape: tuple[int, ...] = (7, 5, 4)) -> mx.array:
    return (mx.arange(np.prod(shape).item()) % 251).reshape(shape).astype(dtype)


def _expected(array: mx.array, cut: Cut) -> mx.array:
    axis, ranges = cut
    return mx.take(array, mx.array([index for piece in ranges for index in range(*piece)]), axis)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_part_is_the_slice_of_the_whole(tmp_path: Path, cut: Cut, dtype: mx.Dtype) -> None:
    array = _array(dtype)
    part = _stored(tmp_path, array).pieces(*cut)
    found, expected = read(part), _expected(array, cut)
    assert found.dtype == dtype
    assert found.shape == part.shape == expected.shape
    assert mx.array_equal(found, expected)
    assert part.nbytes == expected.nbytes


def test_all_of_a_tensor_is_itself(tmp_path: Path) -> None:
    tensor = _stored(tmp_path, _array())
    assert tensor.pieces(1, [(0, 5)]) is tensor
    assert mx.array_equal(read(tensor), _array())


@pytest.mark.parametrize("cut", CUTS)
def test_portions_are_the_bytes(tmp_path: Path, cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    array = _array()
    part = _stored(tmp_path, array).pieces(*cut)
    monkeypatch.setattr(reading, "PORTION_BYTES", 10)
    pieces = [bytes(portion) for portion in portions(part, File(part.file))]
    assert b"".join(pieces) == np.array(_expected(array, cut)).tobytes()
    assert max(map(len, pieces)) <= 48  # a row of most columns is the least that is read through


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cut", [None, (1, ((1, 2), (3, 5)))])
def test_rows(tmp_path: Path, dtype: mx.Dtype, cut: Cut | None) -> None:
    array = _array(dtype, (9, 6))
    tensor = _stored(tmp_path, array)
    rows = Rows(tensor if cut is None else tensor.pieces(*cut))
    room = rows.blank(3)
    rows.fill(room, [8, 0, 8])
    assert mx.array_equal(rows.seen(room), (array if cut is None else _expected(array, cut))[mx.array([8, 0, 8])])


def test_only_the_part_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    pread = os.preadv

    def watched(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        asked.append((offset, len(buffers[0])))
        return pread(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", watched)
    part = _stored(tmp_path, _array()).pieces(0, [(2, 4)])
    mx.eval(read(part))
    assert asked == [(part.start + 2 * 20 * 4, 2 * 20 * 4)]


def test_what_is_wanted_whole_is_left_to_mlx(tmp_path: Path) -> None:
    """Both halves of a tensor are the whole of it: nothing is read yet, and only once then."""
    tensor = _stored(tmp_path, _array(shape=(6, 4)))
    mx.clear_cache()
    before = mx.get_active_memory()
    found = arrays(dict(zip("ab", tensor.parts(2, 1), strict=True)), mx.float32)
    assert mx.get_active_memory() == before
    assert mx.array_equal(mx.concatenate([found["a"], found["b"]], 1), _array(shape=(6, 4)))


def test_parts_are_cast_and_told(tmp_path: Path) -> None:
    tensor = _stored(tmp_path, _array(mx.bfloat16, (6, 4)))
    told: list[tuple[str, int, int]] = []
    found = arrays(
        {"a": tensor.pieces(0, [(0, 2)]), "b": tensor.pieces(1, [(1, 2)])}, mx.float32, lambda *more: told.append(more)
    )
    assert {array.dtype for array in found.values()} == {mx.float32}
    assert told == [("slice", 0, 28), ("slice", 16, 28)]


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    tensor = _stored(tmp_path, _array())
    rows = Rows(_stored(tmp_path, _array(shape=(9, 6))))
    with tensor.file.open("r+b") as file:
        file.truncate(tensor.start + 40)
    with pytest.raises(WeightsError, match="before its tensors do"):
        rows.fill(rows.blank(1), [8])
    with pytest.raises(WeightsError, match="before its tensors do"):
        read(tensor.pieces(0, [(0, 2)]))
    with pytest.raises(WeightsError, match="before its tensors do"):
        list(portions(tensor, File(tensor.file)))


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    tensor = _stored(tmp_path, _array())
    tensor.file.unlink()
    with pytest.raises(WeightsError, match="cannot be read: No such file") as caught:
        read(tensor.pieces(0, [(0, 2)]))
    assert caught.value.hint


def test_a_file_is_closed_when_nobody_needs_it(tmp_path: Path) -> None:
    file = File(_stored(tmp_path, _array()).file)
    descriptor = file._descriptor
    os.fstat(descriptor)
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_a_sample_is_of_neighbours_in_rows(tmp_path: Path, dtype: mx.Dtype) -> None:
    array = mx.arange(6 * 4 * 8).reshape(6, 4, 8).astype(dtype)
    tensor = _stored(tmp_path, array)
    rows = {tuple(row) for row in array.reshape(-1, 4).tolist()}
    for part in (tensor, tensor.pieces(1, [(0, 2)]), tensor.parts(2, 1)[1]):
        for count in (1, 3, 7, 1000):
            some = sample(part, count, 4)
            assert some.dtype == dtype
            in_all = part.nbytes // dtype.size // 4
            assert min(count, in_all) / 2 <= some.shape[0] <= count
            assert count < in_all or some.shape[0] == in_all
            assert {tuple(row) for row in some.tolist()} <= rows
            assert len({tuple(row) for row in some.tolist()}) == some.shape[0]


def test_a_process_that_has_just_read_ends_in_peace() -> None:
    """MLX's thread lets go of the file it has read when Python may be ending already, which aborted every other run."""
    code = (
        "from gemma_mlx.weights.hub import DEMO_FOLDER\n"
        "from gemma_mlx.weights.load import inspect\n"
        "from gemma_mlx.weights.read import read\n"
        "for tensor in inspect(DEMO_FOLDER).tensors.values(): read(tensor)\n"
    )
    some = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1]) for _ in range(8)]
    assert [process.wait(timeout=60) for process in some] == [0] * 8
