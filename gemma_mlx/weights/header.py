"""The header of a safetensors file, read and checked before any tensor is.

A file is 8 bytes of header length, a JSON header, and the tensors' bytes without gaps. Everything here costs the header
and nothing else, so a damaged or foreign file is refused before memory is spent on it. What a header cannot show is a
flipped bit among the tensors' bytes: safetensors carries no checksum, so such a file loads, and answers a little wrong.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from gemma_mlx.errors import WeightsError

# Bytes per element of the dtypes that MLX reads. The format knows a few more, which no Gemma uses.
ITEM_BYTES: Final[Mapping[str, int]] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "C64": 8,
}  # fmt: skip

# The largest Gemma has 5 MB of header: 128 experts, quantized, none of them fused.
MAX_HEADER_BYTES: Final = 32 << 20
MAX_DIMENSIONS: Final = 16
MAX_LENGTH: Final = (1 << 31) - 1  # of one dimension: MLX counts them in 32 bits

_METADATA: Final = "__metadata__"
_AGAIN: Final = "Delete the file and fetch it again."


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        file: the file that holds it.
        name: what the file calls it.
        dtype: as safetensors spells it, for example "BF16".
        shape: as stored, or of the part that is wanted.
        start: offset of the first byte of what is stored.
        stop: offset behind its last byte.
        cut: where only a part is wanted, its axis and the (first, behind the last) index of each piece, in order.
        made: where the file holds it in another layout, of what it is made; `name`, `dtype` and `shape` are then ours.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    cut: tuple[int, tuple[tuple[int, int], ...]] | None = None
    made: Making | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of what is wanted; in the file, too, unless it is made of something else there."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def base(self) -> TensorInfo:
        """What the file holds of it: itself, unless it is made of something else there."""
        return self if self.made is None else self.made.base

    @property
    def file_bytes(self) -> int:
        """Bytes in the file; none of what is made of a tensor that another is made of as well."""
        return 0 if self.made is not None and self.made.again else self.base.nbytes

    def parts(self, count: int, axis: int) -> list[TensorInfo]:
        """`count` equal parts of it along `axis`; itself, as often, where it cannot be cut so."""
        if len(self.shape) <= axis or self.shape[axis] % count:
            return [self] * count
        length = self.shape[axis] // count
        return [self.pieces(axis, [(index * length, (index + 1) * length)]) for index in range(count)]

    def pieces(self, axis: int, ranges: Sequence[tuple[int, int]]) -> TensorInfo:
        """The pieces of a stored tensor along `axis`, one behind the other; itself where they are all of it."""
        assert self.cut is None, "what is a part already is not cut again"
        if list(ranges) == [(0, self.shape[axis])]:
            return self
        length = sum(stop - start for start, stop in ranges)
        shape = (*self.shape[:axis], length, *self.shape[axis + 1 :])
        if self.made is not None:
            if isinstance(self.made.how, Blocks) and axis == len(self.shape) - 1:
                ranges = [(self._stored_bytes(first), self._stored_bytes(behind)) for first, behind in ranges]
            whole_rows = axis == 0 or isinstance(self.made.how, Blocks)
            assert whole_rows, "what is made of a stored tensor has its rows, and other columns"
            return replace(self, shape=shape, made=replace(self.made, base=self.base.pieces(axis, ranges)))
        return replace(self, shape=shape, cut=(axis, tuple(ranges)))

    def _stored_bytes(self, columns: int) -> int:
        """Bytes in the file of which the first `columns` of a row are made."""
        assert self.made is not None
        assert isinstance(self.made.how, Blocks)
        blocks, rest = divmod(columns * ITEM_BYTES[self.dtype], self.made.how.made)
        if rest:
            raise WeightsError(
                f"{self.name!r} is stored in blocks that cannot be cut at column {columns:,}.",
                "Take this slice of the model in the Hugging Face layout.",
            )
        return blocks * self.made.how.stored

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yields (offset in the file, bytes) of each run of what is wanted that lies in one piece, in order."""
        if self.cut is None:
            yield self.start, self.stop - self.start
            return
        axis, ranges = self.cut
        inner = math.prod(self.shape[axis + 1 :]) * ITEM_BYTES[self.dtype]
        rows = math.prod(self.shape[:axis])
        stride = (self.stop - self.start) // rows if rows else 0
        for row in range(rows):
            for first, behind in ranges:
                yield self.start + row * stride + first * inner, (behind - first) * inner


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How bytes are made of what a file holds: block by block, each by itself.

    Attributes:
        stored: bytes of a block in the file.
        made: bytes that are made of it.
        make: [blocks stored] -> [blocks made].
    """

    stored: int
    made: int
    make: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]

    def decoded(self, data: memoryview) -> memoryview:
        """The bytes that are made of those of whole blocks."""
        blocks = np.frombuffer(data, np.uint8).reshape(-1, self.stored)
        return np.ascontiguousarray(self.make(blocks)).data.cast("B")


@dataclass(frozen=True, kw_only=True)
class Making:
    """How a tensor of MLX's layout is made of one that another program stored, row by row.

    Attributes:
        base: what the file holds, with the same rows.
        how: "codes" are the same bytes, seen as words; "signed codes" are bytes from -128 on, and become words of bytes
            from 0 on; "scales" are numbers; and of blocks of bytes other bytes are made.
        factor: what scales are multiplied by.
        times: how often each scale stands, side by side.
        again: whether another tensor is made of the same one.
    """

    base: TensorInfo
    how: Literal["codes", "signed codes", "scales"] | Blocks
    factor: float = 1.0
    times: int = 1
    again: bool = False


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Every tensor of the safetensors file `path`, by the name the file gives it.

    Raises:
        WeightsError: the file cannot be read, is cut short, is something else under that name, or its header is no map
            of its bytes.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(512)
            length = struct.unpack("<Q", first[:8].ljust(8, b"\0"))[0]
            if length > MAX_HEADER_BYTES or first[8:9] != b"{":
                raise _foreign(path, first, size)
            if 8 + length > size:
                raise WeightsError(
                    f"{path} is cut short: its header alone has {8 + length:,} bytes, and the file {size:,}.", _AGAIN
                )
            file.seek(8)
            header = _parse(path, file.read(length))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.", _AGAIN) from error
    tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items() if name != _METADATA}
    _check_layout(path, tensors, 8 + length, size)
    return tensors


def write_header(path: Path, header: Mapping[str, Mapping[str, Any]]) -> None:
    """A file with this header, as long as one with its tensors, and with a hole in their place.

    Args:
        path: of the file; its folder is made.
        header: name -> dtype, shape and data_offsets, as `read_header` reads them.
    """
    text = json.dumps({name: dict(entry) for name, entry in header.items()}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + max((entry["data_offsets"][1] for entry in header.values()), default=0))


def _foreign(path: Path, first: bytes, size: int) -> WeightsError:
    """What a file that begins with no header is instead."""
    text = first.lstrip().lower()
    if size == 0:
        return WeightsError(f"{path} is empty.", _AGAIN)
    if first.startswith(b"version https://git-lfs.github.com/"):
        return WeightsError(
            f"{path} is a Git LFS pointer of {size} bytes, not the weights it stands for.",
            f"git -C '{path.parent}' lfs pull",
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return WeightsError(
            f"{path} is a web page, not weights: the address it was saved from answered with a page.",
            "Fetch the file itself; for a gated model log in first: hf auth login",
        )
    if text.startswith(
        (b'{"error', b"entry not found", b"access to model", b"invalid username", b"repository not found")
    ):
        return WeightsError(
            f"{path} is a server's refusal, not weights: {_shown(first)}.",
            "Fetch the file again; for a gated model log in first: hf auth login",
        )
    if first.startswith(b"GGUF"):
        return WeightsError(
            f"{path} is a GGUF file under the name of a safetensors one.",
            "Give it its own name, model.gguf, and name that file.",
        )
    if first.startswith((b"PK\x03\x04", b"\x80\x02", b"\x89HDF", b"\x1f\x8b")):
        return WeightsError(
            f"{path} is an archive, a pickle or an HDF5 file under the name of a safetensors one.",
            "Fetch the repository's safetensors files.",
        )
    if size < 10:
        return WeightsError(f"{path} has a length of {size}, too short for a safetensors file.", _AGAIN)
    if not any(first):
        return WeightsError(
            f"{path} begins with zeros: its space was reserved, and the download stopped before it was filled.", _AGAIN
        )
    return WeightsError(f"{path} is not a safetensors file: it does not begin with a header.", _AGAIN)


class _DuplicateKeyError(ValueError):
    """A JSON object names one key twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _DuplicateKeyError(f"it names {_shown(twice)} twice")
    return found


def _no_number(value: str) -> NoReturn:
    raise ValueError(f"{value} is no number")


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise WeightsError(f"The header of {path} is nested too deeply to be one.", _AGAIN) from error
    except ValueError as error:
        raise WeightsError(f"The header of {path} is damaged: {error}.", _AGAIN) from error
    if not isinstance(header, dict):
        raise WeightsError(f"The header of {path} is a JSON {type(header).__name__}, not an object.", _AGAIN)
    return header


def _damaged(path: Path, name: str, what: str) -> WeightsError:
    return WeightsError(f"The header of {path} is damaged: tensor {_shown(name)} {what}.", _AGAIN)


def _tensor(path: Path, name: str, entry: object, data_start: int) -> TensorInfo:
    if not isinstance(entry, dict):
        raise _damaged(path, name, "has no description")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _damaged(path, name, f"has the dtype {_shown(dtype)}, which is none that MLX reads")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_is_count(n, MAX_LENGTH) for n in shape):
        raise _damaged(path, name, f"has the shape {_shown(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n, 1 << 62) for n in offsets):
        raise _damaged(path, name, f"has the offsets {_shown(offsets)}")
    start, stop = offsets
    wanted = math.prod(shape) * ITEM_BYTES[dtype]
    if stop - start != wanted:
        raise _damaged(path, name, f"of {dtype} {shape} takes {wanted:,} bytes, but lies from {start:,} to {stop:,}")
    return TensorInfo(
        file=path, name=name, dtype=dtype, shape=tuple(shape), start=data_start + start, stop=data_start + stop
    )


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], data_start: int, size: int) -> None:
    """The tensors must fill the file: the format allows neither gaps nor overlaps."""
    end, before = data_start, None
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.stop)):
        if tensor.start != end:
            raise WeightsError(
                f"The header of {path} is damaged: tensor {_shown(tensor.name)} begins at byte {tensor.start:,}, and "
                + (f"{_shown(before)} ends" if before is not None else "the header ends")
                + f" at {end:,}.",
                _AGAIN,
            )
        end, before = tensor.stop, tensor.name
    if end > size:
        raise WeightsError(
            f"{path} is cut short: of its {end:,} bytes it lacks {end - size:,}.",
            "The download did not finish. " + _AGAIN,
        )
    if end < size:
        raise WeightsError(f"{path} is too long: its header accounts for {end:,} bytes, and it has {size:,}.", _AGAIN)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
