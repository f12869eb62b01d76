"""Tensors, and parts of tensors, out of their files; of a part nothing else is read.

MLX reads a tensor whole or not at all: a slice of one that is still in its file costs the time and the memory of all of
it, and a slice of rows keeps that memory, being a view. What is wanted in part is therefore read here.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import struct
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np

from gemma_mlx.errors import WeightsError
from gemma_mlx.weights.header import ITEM_BYTES, Blocks, Making, TensorInfo
from gemma_mlx.weights.quantized import FLOATING

PORTION_BYTES: Final = 16 << 20  # held while bytes go from one file to another
_BLOCKS_BYTES: Final = 1 << 20  # of blocks, whose numbers stand as float32 for a while
_MOST_AT_ONCE: Final = 1 << 30  # macOS refuses to read 2 GiB in one call
_NAME: Final = "tensor"
_PATIENCE_SECONDS: Final = 1.0
_MAPPED: Final = ".safetensors"  # files of which MLX reads tensors late
_AGAIN: Final = "Fetch the model again into an empty folder."


class File:
    """A file that is open for reading at any place, until nobody holds this.

    Raises:
        WeightsError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise _unreadable(path, error) from error
        weakref.finalize(self, os.close, self._descriptor)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills `buffer` with the bytes from `offset` on.

        Raises:
            WeightsError: they cannot be read, or the file ends before.
        """
        while buffer:
            try:
                count = os.preadv(self._descriptor, [buffer[:_MOST_AT_ONCE]], offset)
            except OSError as error:
                raise _unreadable(self._path, error) from error
            if not count:
                raise WeightsError(
                    f"{self._path} ends at byte {offset:,}, before its tensors do: it was cut after it was opened.",
                    "Leave a model's files alone while it runs; fetch this one again.",
                )
            buffer, offset = buffer[count:], offset + count


def arrays(
    tensors: Mapping[str, TensorInfo],
    dtype: mx.Dtype,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, mx.array]:
    """Parameter -> its array. MLX reads late what is wanted whole; of a tensor wanted in part, that part is read now,
    and so is what lies in a GGUF file.

    Args:
        tensors: what is wanted, by parameter; several parts of one tensor may make up the whole of it.
        dtype: that floating parts are cast to. What is read late is cast by whoever uses it.
        on_progress: called with ("slice" or "weights", bytes done, bytes in all) before each part that is read now.

    Raises:
        WeightsError: a file cannot be opened or read.
    """
    wanted = Counter[tuple[Path, str]]()
    for tensor in tensors.values():
        wanted[tensor.file, tensor.base.name] += tensor.base.nbytes
    now: dict[str, TensorInfo] = {}
    late: dict[str, TensorInfo] = {}
    for parameter, tensor in tensors.items():
        is_whole = wanted[tensor.file, tensor.base.name] >= tensor.stop - tensor.start
        is_whole &= tensor.file.suffix == _MAPPED
        (late if is_whole else now)[parameter] = tensor
    files = {file: _lazy(file) for file in {tensor.file for tensor in late.values()}}
    found = {parameter: _whole(tensor, files[tensor.file][tensor.base.name]) for parameter, tensor in late.items()}
    done, total = 0, sum(tensor.nbytes for tensor in now.values())
    for parameter, tensor in now.items():
        if on_progress is not None:
            on_progress("slice" if tensor.file.suffix == _MAPPED else "weights", done, total)
        array = read(tensor)
        found[parameter] = array.astype(dtype) if tensor.dtype in FLOATING else array
        mx.eval(found[parameter])  # else what is cast here would stay in memory in two dtypes
        done += tensor.nbytes
    return found


def _lazy(file: Path) -> dict[str, mx.array]:
    try:
        found = mx.load(str(file))
    except (RuntimeError, ValueError) as error:
        raise WeightsError(
            f"{file} cannot be opened: {error}.", "Fetch the model again into an empty folder."
        ) from error
    assert isinstance(found, dict)
    return found


def _whole(tensor: TensorInfo, array: mx.array) -> mx.array:
    """A tensor that MLX reads, or a part of one whose other parts are wanted too, and what is made of it."""
    if tensor.base.cut is not None:
        axis, ranges = tensor.base.cut
        array = mx.concatenate([array[(slice(None),) * axis + (slice(*piece),)] for piece in ranges], axis)
    return _made(tensor, array)


def _made(tensor: TensorInfo, array: mx.array) -> mx.array:
    if tensor.made is None or isinstance(tensor.made.how, Blocks):
        return array
    return make(tensor.made, array.reshape(tensor.shape[0], -1))


def make(how: Making, array: mx.array) -> mx.array:
    """Rows of what is stored, [... columns] -> the same rows of what is made of it; nothing is computed yet.

    What is made of blocks is made where they are read.
    """
    if how.how == "codes":
        return array.view(mx.uint32)
    if how.how == "signed codes":
        return (array.view(mx.uint8) ^ mx.array(0x80, mx.uint8)).view(mx.uint32)
    # A view with a stride of 0 would be spread out anew by every product.
    return mx.contiguous(mx.repeat(array * how.factor, how.times, axis=-1))


def read(tensor: TensorInfo) -> mx.array:
    """A tensor, or the part of one that is wanted, in the dtype it is stored in; read at once and into its own memory.

    Raises:
        WeightsError: the file cannot be read, or has become shorter.
    """
    made_of_blocks = tensor.made is not None and isinstance(tensor.made.how, Blocks)
    part = _AsFile(tensor if made_of_blocks else tensor.base)
    _HELD.append(weakref.ref(part))
    try:
        array = cast(Any, mx.load)(part, format="safetensors", stream=mx.cpu)[_NAME]
        mx.eval(array)
    except RuntimeError as error:
        if part.failure is not None:
            raise part.failure from error
        raise WeightsError(
            f"The tensor {tensor.name!r} could not be read into memory: {error}.", "Memory may have run out."
        ) from error
    part.empty()
    return _made(tensor, array)


@atexit.register
def _let_go() -> None:
    """Waits until MLX's threads hold no file: one that drops it while Python ends would abort the process."""
    patience = time.monotonic() + _PATIENCE_SECONDS
    while any(part() is not None for part in _HELD) and time.monotonic() < patience:
        time.sleep(0.001)


def sample(tensor: TensorInfo, blocks: int, length: int) -> mx.array:
    """[up to `blocks`, `length`] numbers that lie side by side in its rows, from all over a floating tensor.

    Raises:
        WeightsError: the file cannot be read, or has become shorter.
    """
    file, (number, seen), width = File(tensor.file), _DTYPES[tensor.dtype], ITEM_BYTES[tensor.dtype] * length
    runs = list(tensor.runs())
    some = runs[:: max(len(runs) // blocks, 1)]
    each = max(blocks // max(len(some), 1), 1)
    places = []
    for offset, nbytes in some:
        held = nbytes // width
        places += [offset + index * held // min(each, held) * width for index in range(min(each, held))]
    found = np.empty((min(len(places), blocks), width), np.uint8)
    for row, offset in zip(found, places, strict=False):
        file.read_into(row.data, offset)
    return mx.array(found.view(number)).view(seen)


def portions(tensor: TensorInfo, file: File) -> Iterator[memoryview]:
    """Yields the bytes of a tensor, or of its part, a little at a time; each portion is overwritten by the next.

    Of codes in another layout these are the bytes of ours; of what is computed there are none.
    """
    how = None if tensor.made is None else tensor.made.how
    assert how is None or how == "codes" or isinstance(how, Blocks)
    tensor = tensor.base
    if isinstance(how, Blocks):
        for portion in _stored(tensor, file, max(_BLOCKS_BYTES // how.stored, 1) * how.stored):
            yield how.decoded(portion)
        return
    if tensor.cut is not None and tensor.cut[0] == 1 and 2 * tensor.nbytes > tensor.stop - tensor.start:
        yield from _columns(tensor, file)
        return
    yield from _stored(tensor, file, PORTION_BYTES)


def _stored(tensor: TensorInfo, file: File, most: int) -> Iterator[memoryview]:
    """The bytes that the file holds of it, `most` at a time."""
    buffer = memoryview(bytearray(min(tensor.nbytes, most)))
    filled = 0
    for offset, count in tensor.runs():
        while count:
            room = min(count, len(buffer) - filled)
            file.read_into(buffer[filled : filled + room], offset)
            filled, offset, count = filled + room, offset + room, count - room
            if filled == len(buffer):
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def _columns(tensor: TensorInfo, file: File) -> Iterator[memoryview]:
    """The bytes of most of the columns: reading through the rest of them is quicker than a call for every row."""
    assert tensor.cut is not None
    rows, width = tensor.shape[0], math.prod(tensor.shape[2:]) * ITEM_BYTES[tensor.dtype]
    stride = (tensor.stop - tensor.start) // rows
    block = np.empty((min(rows, max(PORTION_BYTES // stride, 1)), stride), np.uint8)
    for first in range(0, rows, len(block)):
        some = block[: rows - first]
        file.read_into(some.data.cast("B"), tensor.start + first * stride)
        kept = np.concatenate([some[:, start * width : stop * width] for start, stop in tensor.cut[1]], axis=1)
        yield kept.data.cast("B")


class Rows:
    """The rows of a matrix that stays in its file.

    Args:
        tensor: [rows columns], or a part of its columns.
    """

    def __init__(self, tensor: TensorInfo) -> None:
        made, stored = tensor.made, tensor.base
        self._blocks = made.how if made is not None and isinstance(made.how, Blocks) else None
        self._made = made if self._blocks is None else None
        columns = math.prod(stored.shape[1:])
        axis, ranges = stored.cut or (1, ((0, columns),))
        assert axis == 1, "rows are looked up by their place in what is stored"
        size = ITEM_BYTES[stored.dtype]
        self._tensor = stored
        self._file = File(stored.file)
        self._stride = (stored.stop - stored.start) // stored.shape[0]
        self._pieces = [(first * size, (behind - first) * size) for first, behind in ranges]
        self._stored = memoryview(bytearray(columns * size))
        held = stored if self._blocks is None else tensor  # what there is room for
        self._number, self._seen = _DTYPES[held.dtype]
        self._row_bytes = held.nbytes // held.shape[0]

    def blank(self, *axes: int) -> mx.array:
        """Room for rows, [*axes columns], of whole numbers as wide as what the file holds; for `fill` and `seen`."""
        return mx.array(np.zeros((*axes, self._row_bytes // self._number().itemsize), self._number))

    def fill(self, room: mx.array, ids: Sequence[int]) -> None:
        """Reads rows into `room`; what is computed with it must not be evaluated yet.

        Raises:
            WeightsError: the file cannot be read, or has become shorter.
        """
        view, at = np.array(room, copy=False).data.cast("B"), 0
        for index in ids:
            row = view[at : at + self._row_bytes]
            self._read_row(row if self._blocks is None else self._stored, index)
            if self._blocks is not None:
                row[:] = self._blocks.decoded(self._stored)
            at += self._row_bytes

    def _read_row(self, row: memoryview, index: int) -> None:
        """What the file holds of a row."""
        start, at = self._tensor.start + index * self._stride, 0
        for offset, count in self._pieces:
            self._file.read_into(row[at : at + count], start + offset)
            at += count

    def seen(self, room: mx.array) -> mx.array:
        """What is in `room`, in the dtype of the file, or what is made of it."""
        rows = room.view(self._seen)
        return rows if self._made is None else make(self._made, rows)


# What numpy, which has no bfloat16, is told the dtypes of tables are, and what MLX calls them.
_DTYPES: Final[dict[str, tuple[type[np.unsignedinteger[Any]], mx.Dtype]]] = {
    "BF16": (np.uint16, mx.bfloat16),
    "F16": (np.uint16, mx.float16),
    "F32": (np.uint32, mx.float32),
    "U32": (np.uint32, mx.uint32),
    "U8": (np.uint8, mx.uint8),
    "I8": (np.uint8, mx.int8),
    "I32": (np.uint32, mx.int32),
}


class _AsFile:
    """A safetensors file of one tensor, as MLX sees it while `read` runs: a header, and the runs of another file.

    MLX reads from a thread of its own, where an exception would end the process: it is kept in `failure`.
    """

    closed = False

    def __init__(self, tensor: TensorInfo) -> None:
        entry = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [0, tensor.nbytes]}
        header = json.dumps({_NAME: entry}).encode()
        self._head = struct.pack("<Q", len(header)) + header
        self._nbytes = tensor.nbytes
        self._portions: Iterator[memoryview] = portions(tensor, File(tensor.file))
        self._portion = memoryview(b"")
        self._at = 0
        self.failure: WeightsError | None = None

    def empty(self) -> None:
        """Lets go of the file, so that whoever lets go of this runs no Python."""
        self._portions, self._portion = iter(()), memoryview(b"")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a place."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._head) + self._nbytes}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """The place where it is."""
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        """Gives what comes next, for the tensor is read once and in order; nothing where it cannot be read."""
        if self._at < len(self._head):
            piece = self._head[self._at : self._at + len(buffer)]
            buffer[: len(piece)] = piece
            self._at += len(piece)
            return len(piece)
        given = 0
        try:
            while given < len(buffer):
                if not self._portion:
                    self._portion = next(self._portions)
                count = min(len(self._portion), len(buffer) - given)
                buffer[given : given + count] = self._portion[:count]
                self._portion, given = self._portion[count:], given + count
        except WeightsError as error:
            self.failure = error
            return 0
        self._at += given
        return given


_HELD: Final[deque[weakref.ref[_AsFile]]] = deque(maxlen=64)


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"{path} cannot be read: {error.strerror or error}.",
        "A file may have been deleted, or moved, since the model was found. Try once more.",
    )
