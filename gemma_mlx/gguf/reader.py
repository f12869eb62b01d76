"""The header of a GGUF file: its metadata, and where each tensor lies. No tensor is read.

A file is the letters GGUF, a version, two counts, the metadata (a name, a type and a value each), the tensors' names,
shapes, kinds and offsets, and after some padding the tensors (docs/gguf.md of ggml). Every length in it is checked
against the file before memory is taken for it, so what is damaged is refused in a sentence.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from gemma_mlx.errors import UnsupportedModelError, WeightsError
from gemma_mlx.gguf.blocks import KINDS, Kind
from gemma_mlx.gguf.places import parts_of

VERSIONS: Final = (2, 3)
MAX_HEADER_BYTES: Final = 512 << 20  # Gemma 4's has 20 MB: a vocabulary and its merges

_MAGIC: Final = b"GGUF"
_ALIGNMENT: Final = "general.alignment"
_FIRST_BYTES: Final = 16 << 20  # read at once; of a longer header, twice as much until it is whole
_MAX_DIMENSIONS: Final = 4
_MAX_TENSORS: Final = 1 << 20
_AGAIN: Final = "Delete the file and fetch it again."

# Type of a value -> how `struct` spells it. Type 8 is a string, 9 an array.
_NUMBERS: Final[Mapping[int, str]] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING: Final = 8
_ARRAY: Final = 9


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        file: the file that holds it.
        name: what the file calls it.
        kind: how its numbers are stored.
        shape: rows before columns, as everywhere but in GGUF.
        start: offset of its first byte in the file.
    """

    file: Path
    name: str
    kind: Kind
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """Offset behind its last byte."""
        return self.start + math.prod(self.shape) // self.kind.weights * self.kind.nbytes


@dataclass(frozen=True, kw_only=True)
class Gguf:
    """A GGUF file, or all the parts of one.

    Attributes:
        path: of the file, or of its first part.
        metadata: name -> number, text, or tuple of them.
        tensors: by name, in the order of the file.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Entry]

    @property
    def architecture(self) -> str:
        """What llama.cpp calls the network; "" where the file does not say."""
        named = self.metadata.get("general.architecture")
        return named if isinstance(named, str) else ""


def read_gguf(path: Path) -> Gguf:
    """The header of the GGUF file `path`, and those of its other parts where it is one of several.

    What was read is kept for as long as the files do not change.

    Raises:
        WeightsError: a file cannot be read, is damaged, cut short, or missing beside its other parts.
        UnsupportedModelError: it is of another version of the format.
    """
    parts = [_header(part) for part in _parts(path)]
    tensors: dict[str, Entry] = {}
    for part in parts:
        for name, entry in part.tensors.items():
            if name in tensors:
                raise WeightsError(
                    f"The tensor {name!r} is both in {tensors[name].file.name} and in {entry.file.name}.",
                    "The parts of two models are mixed in one folder; keep those of one.",
                )
            tensors[name] = entry
    return Gguf(path=parts[0].path, metadata=parts[0].metadata, tensors=tensors)


def _parts(path: Path) -> list[Path]:
    parts = parts_of(path)
    missing = [part.name for part in parts if part != path and not part.exists()]
    if missing:
        raise WeightsError(
            f"{path} is one of {len(parts)} parts of a model, and {missing[0]} is not beside it.",
            "Fetch all parts into one folder.",
        )
    return parts


def _header(path: Path) -> Gguf:
    try:
        facts = path.stat()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.", _AGAIN) from error
    return _cached_header(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=8)
def _cached_header(path: Path, size: int, modified: int) -> Gguf:  # noqa: ARG001  another time is another file
    wanted = _FIRST_BYTES
    try:
        with path.open("rb") as file:
            while True:
                file.seek(0)
                try:
                    return _Parser(path, file.read(wanted), size).parse()
                except _TooShortError:
                    if wanted >= min(size, MAX_HEADER_BYTES):
                        raise WeightsError(
                            f"{path} is cut short: it ends within its header." if wanted >= size
                            else f"{path} is damaged: its header does not end.",
                            "The download did not finish. " + _AGAIN,
                        ) from None  # fmt: skip
                    wanted *= 2
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.", _AGAIN) from error


class _TooShortError(Exception):
    """More of the file is needed than was read."""


class _Parser:
    """Walks through the first bytes of a file."""

    def __init__(self, path: Path, data: bytes, size: int) -> None:
        self._path, self._data, self._size, self._at = path, data, size, 0

    def parse(self) -> Gguf:
        self._check_beginning()
        count, pairs = self._numbers("Q", 2)
        if count > _MAX_TENSORS or pairs > _MAX_TENSORS:
            raise self._damaged(f"it claims {count:,} tensors and {pairs:,} values")
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            name = self._string()
            if name in metadata:
                raise self._damaged(f"it names {name[:80]!r} twice")
            metadata[name] = self._value(self._numbers("I", 1)[0])
        infos = [(self._string(), *self._info()) for _ in range(count)]
        alignment = metadata.get(_ALIGNMENT, 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment % 8:
            raise self._damaged(f"{_ALIGNMENT} is {alignment!r}")
        start = -(-self._at // alignment) * alignment
        tensors: dict[str, Entry] = {}
        for name, shape, kind, offset in infos:
            if name in tensors:
                raise self._damaged(f"it names the tensor {name[:80]!r} twice")
            if offset % alignment:
                raise self._damaged(f"the tensor {name[:80]!r} begins at {offset:,}, no multiple of {alignment}")
            tensors[name] = Entry(file=self._path, name=name, kind=kind, shape=shape, start=start + offset)
        self._check_layout(tensors)
        return Gguf(path=self._path, metadata=metadata, tensors=tensors)

    def _check_beginning(self) -> None:
        if self._size == 0:
            raise WeightsError(f"{self._path} is empty.", _AGAIN)
        magic = self._data[:4]
        if magic != _MAGIC:
            pointer = self._data.startswith(b"version https://git-lfs.github.com/")
            raise WeightsError(
                f"{self._path} is a Git LFS pointer, not the file itself." if pointer
                else f"{self._path} is no GGUF file: it begins with {magic!r}.",
                f"git -C '{self._path.parent}' lfs pull" if pointer else _AGAIN,
            )  # fmt: skip
        self._at = 4
        version = self._numbers("I", 1)[0]
        if version not in VERSIONS:
            turned = struct.unpack("<I", struct.pack(">I", version))[0] in VERSIONS
            what = "for machines that write their numbers the other way round" if turned else f"of version {version}"
            raise UnsupportedModelError(
                f"{self._path} is a GGUF file {what}; gemma reads versions 2 and 3 for all others.",
                "Convert the model again with a newer llama.cpp, or fetch another file of it.",
            )

    def _take(self, count: int) -> int:
        """Goes over `count` bytes; returns where they begin."""
        at = self._at
        if count > self._size:
            raise self._damaged("a length leads beyond its end")
        if at + count > len(self._data):
            raise _TooShortError
        self._at = at + count
        return at

    def _numbers(self, code: str, count: int) -> tuple[Any, ...]:
        form = f"<{count}{code}"
        return struct.unpack_from(form, self._data, self._take(struct.calcsize(form)))

    def _string(self) -> str:
        length = self._numbers("Q", 1)[0]
        at = self._take(length)
        try:
            return self._data[at : at + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(f"the text at byte {at:,} is no UTF-8") from error

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._numbers("I", 1)[0], self._numbers("Q", 1)[0]
            if inner == _STRING:
                if count * 8 > self._size - self._at:
                    raise _TooShortError
                return tuple(self._string() for _ in range(count))
            if inner in _NUMBERS:
                if count > self._size - self._at:
                    raise _TooShortError
                return self._numbers(_NUMBERS[inner], count)
            raise self._damaged(f"an array holds values of type {inner}")
        if kind not in _NUMBERS:
            raise self._damaged(f"a value is of type {kind}")
        return self._numbers(_NUMBERS[kind], 1)[0]

    def _info(self) -> tuple[tuple[int, ...], Kind, int]:
        """Shape, kind and offset of a tensor."""
        dimensions = self._numbers("I", 1)[0]
        if not 0 < dimensions <= _MAX_DIMENSIONS:
            raise self._damaged(f"a tensor has {dimensions:,} dimensions")
        shape = tuple(reversed(self._numbers("Q", dimensions)))
        number, offset = self._numbers("I", 1)[0], self._numbers("Q", 1)[0]
        kind = KINDS.get(number)
        if kind is None:
            raise self._damaged(f"a tensor is of kind {number}, which this version does not know")
        if any(length >= 1 << 31 for length in shape) or shape[-1] % kind.weights:
            raise self._damaged(f"a tensor of {kind.name} has the shape {list(shape)}")
        return shape, kind, offset

    def _check_layout(self, tensors: Mapping[str, Entry]) -> None:
        end, before = 0, ""
        for entry in sorted(tensors.values(), key=lambda entry: (entry.start, entry.stop)):
            if entry.start < end:
                raise self._damaged(f"the tensors {before[:80]!r} and {entry.name[:80]!r} overlap")
            end, before = entry.stop, entry.name
        if end > self._size:
            raise WeightsError(
                f"{self._path} is cut short: of its {end:,} bytes it lacks {end - self._size:,}.",
                "The download did not finish. " + _AGAIN,
            )

    def _damaged(self, what: str) -> WeightsError:
        return WeightsError(f"The header of {self._path} is damaged: {what}.", _AGAIN)
