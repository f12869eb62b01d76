"""What a teacher says about texts, captured once and kept: the next comparison with it does not run it again.

Kept are, of each position, the likeliest tokens with their log-probabilities, and what leaves each layer at a few
positions of every text: 2 kB a position, so that the project's own texts take some 25 MB and a model's layers as much
again. The divergence that can be computed of that is a lower bound of the full one; docs/guides/compare.md says how
near it is.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import mlx.core as mx
import platformdirs

from gemma_mlx import __version__
from gemma_mlx.device import compute_dtype, device
from gemma_mlx.gemma import Gemma
from gemma_mlx.quantize.divergence import Said, said
from gemma_mlx.quantize.reading import read, watched
from gemma_mlx.quantize.texts import Passage, Window
from gemma_mlx.weights.files import stamps
from gemma_mlx.weights.load import Checkpoint

TOP_K: Final = 256
PLACES: Final = 96  # at which layers are compared, over all texts
KEPT_BYTES: Final = 2 * 10**9  # of all captures; the oldest go
_SUFFIX: Final = ".safetensors"

OnRead = Callable[[int, int], None]  # (tokens read, tokens in all)


@dataclass(frozen=True, kw_only=True)
class Capture:
    """What a decoder said.

    Attributes:
        said: of each window.
        layers: of each layer, [places width] what left it.
    """

    said: tuple[Said, ...]
    layers: tuple[mx.array, ...]


def capture(gemma: Gemma, windows: Sequence[Window], on_read: OnRead | None = None) -> Capture:
    """Reads all windows.

    Args:
        gemma: the teacher.
        windows: as ids.
        on_read: called before each window and at the end.
    """
    total, done = sum(len(window.tokens) for window in windows), 0
    k = min(TOP_K, gemma.decoder.spec.vocab)
    all_said, layers = [], []
    for window, places in zip(windows, sampled(len(windows)), strict=True):
        if on_read is not None:
            on_read(done, total)
        with watched(gemma.decoder, places) as noted:
            parts = []
            for part in read(gemma, window.tokens):
                parts.append(said(part.logits, part.following, k))
                mx.eval(parts[-1], noted)
        all_said.append(Said(*(mx.concatenate(list(arrays)) for arrays in zip(*parts, strict=True))))
        if places:
            layers.append([noted[index] for index in range(len(noted))])
        mx.eval(all_said[-1], layers[-1:])
        done += len(window.tokens)
    if on_read is not None:
        on_read(done, total)
    return Capture(said=tuple(all_said), layers=tuple(mx.concatenate(list(each)) for each in zip(*layers, strict=True)))


def sampled(windows: int) -> list[tuple[float, ...]]:
    """For each window the places, as parts of its length, at which layers are compared: PLACES, more or less."""
    every = math.ceil(windows / PLACES)
    count = max(PLACES // windows, 1)
    places = tuple((index + 0.5) / count for index in range(count))
    return [places if number % every == 0 else () for number in range(windows)]


def key(checkpoint: Checkpoint, read: Sequence[Window] | Sequence[Passage]) -> str:
    """The same only where the same would be captured."""
    files = {tensor.file for tensor in checkpoint.tensors.values()}
    facts = {
        "versions": [__version__, importlib.metadata.version("mlx")],
        "files": stamps(files),
        "config": checkpoint.config,
        "computed": [device().backend, str(compute_dtype())],
        "kept": [TOP_K, PLACES],
        "read": hashlib.sha256(repr(tuple(read)).encode()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def folder() -> Path:
    """Where captures are kept."""
    return Path(platformdirs.user_cache_dir("gemma", appauthor=False)) / "teachers"


def load(path: Path) -> dict[str, mx.array] | None:
    """What `save` wrote; None where there is nothing, or not all of it any more: it is then captured again."""
    if not path.exists():
        return None
    try:
        arrays = mx.load(str(path))
        mx.eval(arrays)
    except RuntimeError:  # cut short, or of another program
        return None
    assert isinstance(arrays, dict)
    os.utime(path)  # it was of use: others go first
    return arrays


def save(path: Path, arrays: Mapping[str, mx.array]) -> None:
    """Writes a capture, and removes the oldest where all of them take too much. Its place is taken at once, or never.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        mx.save_safetensors(str(draft), dict(arrays))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    kept = sorted(path.parent.glob(f"*{_SUFFIX}"), key=lambda one: -one.stat().st_mtime)
    total = 0
    for one in kept:
        total += one.stat().st_size
        if total > KEPT_BYTES and one != path:
            one.unlink(missing_ok=True)


def packed(captured: Capture) -> dict[str, mx.array]:
    """A capture as arrays with names."""
    arrays = {name: mx.concatenate([getattr(one, name) for one in captured.said]) for name in Said._fields}
    arrays["counts"] = mx.array([one.top.shape[0] for one in captured.said])
    return arrays | {f"layer.{index}": layer for index, layer in enumerate(captured.layers)}


def unpacked(arrays: Mapping[str, mx.array]) -> Capture:
    """What `packed` packed."""
    counts: list[int] = arrays["counts"].tolist()  # type: ignore[assignment]
    ends = [sum(counts[:index]) for index in range(1, len(counts))]
    pieces = [mx.split(arrays[name], ends) for name in Said._fields]
    layers = tuple(arrays[f"layer.{index}"] for index in range(len(arrays) - len(Said._fields) - 1))
    return Capture(said=tuple(Said(*each) for each in zip(*pieces, strict=True)), layers=layers)
