"""What is kept on the disk while a model is calibrated, so that it need not be in memory and a run can go on.

    layer-0007.safetensors     what layer 7 became, as it will be written; that it is there says that it is finished
    passed-student-0007/       what left it, a file for each batch of windows: the input of layer 8
    lent-student-0007/         keys and values that later layers borrow from it
    embedded/                  what every pass begins with

Each file and folder appears under its name when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx


class Store:
    """Arrays in a folder.

    Args:
        folder: made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder

    @property
    def done(self) -> int:
        """Layers that are finished, from the first on."""
        index = 0
        while self._layer(index).exists():
            index += 1
        return index

    def finish(self, index: int, arrays: Mapping[str, mx.array], told: Mapping[str, str]) -> None:
        """Keeps what a layer became, and what is to be told of it; from now on it is finished."""
        _write(self._layer(index), arrays, told)

    def layer(self, index: int) -> dict[str, mx.array]:
        """What a layer became; not read before it is used."""
        return _read(self._layer(index))

    def told(self, index: int) -> dict[str, str]:
        """What is to be told of a layer."""
        loaded: Any = mx.load(str(self._layer(index)), return_metadata=True)
        return dict(loaded[1])

    def has(self, name: str) -> bool:
        """Whether all of the batches called `name` are there."""
        return (self._folder / name).exists()

    def drop(self, name: str) -> None:
        """Deletes the batches called `name`, if there are any."""
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def begin(self, name: str) -> None:
        """Makes room for batches called `name`, of which none is there until `complete`."""
        self.drop(name)
        shutil.rmtree(self._draft(name), ignore_errors=True)
        self._draft(name).mkdir()

    def put(self, name: str, batch: int, arrays: Mapping[str, mx.array]) -> None:
        """Keeps a batch."""
        mx.save_safetensors(str(self._draft(name) / f"{batch:05}.safetensors"), dict(arrays))

    def complete(self, name: str) -> None:
        """All batches are there."""
        self._draft(name).rename(self._folder / name)

    def get(self, name: str, batch: int) -> dict[str, mx.array]:
        """A batch; not read before it is used."""
        return _read(self._folder / name / f"{batch:05}.safetensors")

    def _draft(self, name: str) -> Path:
        return self._folder / f"{name}.new"

    def _layer(self, index: int) -> Path:
        return self._folder / f"layer-{index:04}.safetensors"


def _read(path: Path) -> dict[str, mx.array]:
    found: Any = mx.load(str(path))
    return dict(found)


def _write(path: Path, arrays: Mapping[str, mx.array], metadata: Mapping[str, str]) -> None:
    fresh = path.with_name(f"new-{path.name}")
    mx.save_safetensors(str(fresh), dict(arrays), dict(metadata))
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
