"""Tensors that lie in files -> a checkpoint of its own, a little at a time: nothing is held but one portion.

What is written takes shape under a temporary name and is moved into place when it is whole. Where a run can be told
again by its plan, the temporary folder stays when it is stopped, and the next run goes on in it.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import secrets
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gemma_mlx.config import EVIDENCE
from gemma_mlx.errors import InputError
from gemma_mlx.gguf.documents import document, names
from gemma_mlx.weights.files import INDEX, SINGLE
from gemma_mlx.weights.header import ITEM_BYTES, TensorInfo
from gemma_mlx.weights.load import Checkpoint, OnProgress, inspect, stored_slice
from gemma_mlx.weights.pull import WANTED
from gemma_mlx.weights.read import File, portions
from gemma_mlx.weights.save import SHARD_BYTES
from gemma_mlx.weights.slices import Slice

SPARE_BYTES: Final = 64 << 20  # for tokenizer, headers and the like
# After so much, or so long, what is written is known to be on the disk.
KEPT_BYTES: Final = 256 << 20
KEPT_SECONDS: Final = 10.0
JOURNAL: Final = ".journal.json"
BESIDE: Final = ".beside"  # a folder in the draft for what `prepare` needs

_CONFIG: Final = "config.json"
CARD: Final = "README.md"  # says what the source is, which is not what is written
# The metadata by which transformers knows whose layout the tensors have.
_METADATA: Final = {"format": "pt"}
_METADATA_PACKED: Final = {"format": "mlx"}


@dataclass(frozen=True, kw_only=True)
class Output:
    """A tensor that is to be written: its name, its dtype as safetensors spells it, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What becomes of one tensor of the source.

    Attributes:
        source: where it lies.
        outputs: what is written of it, side by side in one file.
        portions: yields (which of the outputs, its next bytes); the bytes may change once the next are asked for.
    """

    source: TensorInfo
    outputs: tuple[Output, ...]
    portions: Callable[[], Iterator[tuple[int, memoryview]]]

    @property
    def nbytes(self) -> int:
        """Bytes of all that is written of it."""
        return sum(output.nbytes for output in self.outputs)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which file each tensor goes into, and where.

    Attributes:
        headers: file -> what it begins with.
        sizes: file -> its bytes.
        places: name of a tensor -> its file and the offset of its first byte.
        nbytes: of all tensors.
    """

    headers: Mapping[str, bytes]
    sizes: Mapping[str, int]
    places: Mapping[str, tuple[str, int]]
    nbytes: int


def layout(steps: Sequence[Step], *, packed: bool, shard_bytes: int = SHARD_BYTES) -> Layout:
    """The files of a checkpoint, in the order of `steps`.

    Args:
        steps: what is written.
        packed: whether anything is quantized, of which the files tell their readers.
        shard_bytes: a file is closed before it grows beyond this.
    """
    shards: list[list[Output]] = [[]]
    filled = 0
    for step in steps:
        if shards[-1] and filled + step.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1] += step.outputs
        filled += step.nbytes
    headers: dict[str, bytes] = {}
    sizes: dict[str, int] = {}
    places: dict[str, tuple[str, int]] = {}
    for number, outputs in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        # Wide numbers come first, so that all lie at multiples of their width.
        outputs.sort(key=lambda output: -ITEM_BYTES[output.dtype])
        headers[file] = _header(outputs, _METADATA_PACKED if packed else _METADATA)
        at = len(headers[file])
        for output in outputs:
            places[output.name] = (file, at)
            at += output.nbytes
        sizes[file] = at
    return Layout(headers=headers, sizes=sizes, places=places, nbytes=sum(step.nbytes for step in steps))


def _header(outputs: Sequence[Output], metadata: Mapping[str, str]) -> bytes:
    """What stands before the tensors in a safetensors file, padded so that they begin at a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for output in outputs:
        entries[output.name] = {
            "dtype": output.dtype, "shape": output.shape, "data_offsets": [at, at + output.nbytes],
        }  # fmt: skip
        at += output.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header


def in_order(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Names in the order in which the tensors lie in the source."""
    return sorted(tensors, key=lambda name: (tensors[name].file, tensors[name].start))


def copied(tensor: TensorInfo, name: str) -> Step:
    """The step that writes a tensor as it is, under `name`."""

    def as_it_is() -> Iterator[tuple[int, memoryview]]:
        return ((0, portion) for portion in portions(tensor, File(tensor.file)))

    output = Output(name=name, dtype=tensor.dtype, shape=tensor.shape)
    return Step(source=tensor, outputs=(output,), portions=as_it_is)


def write_slice(
    source: Path,
    piece: Slice,
    target: Path,
    *,
    on_progress: OnProgress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Checkpoint:
    """Writes a slice as a checkpoint of its own, which `load`, transformers and mlx-lm read.

    Towers come along untouched, and so do tokenizer, chat template, processor and generation config. All is written
    under a temporary name beside `target` and takes its place at the end: a run that is stopped leaves nothing.

    Args:
        source: the checkpoint that is sliced.
        piece: which layers, and how wide.
        target: a folder that does not exist yet.
        on_progress: called with ("slice", bytes done, bytes in all).
        shard_bytes: a file is closed before it grows beyond this.

    Returns:
        What was written, read back and checked.

    Raises:
        InputError: there is no such slice, `target` exists, or the disk has no room for it.
        GemmaError: whatever is wrong with the source, as a sentence.
    """
    inspect(source, piece=piece)
    config, stored = stored_slice(source, piece)
    steps = [copied(stored.tensors[name], name) for name in in_order(stored.tensors)]
    return write_checkpoint(
        source, steps, config, target, what=lambda _: "slice", on_progress=on_progress, shard_bytes=shard_bytes
    )


def write_checkpoint(
    source: Path,
    steps: Sequence[Step],
    config: Mapping[str, Any],
    target: Path,
    *,
    plan: str | None = None,
    what: Callable[[int], str],
    on_progress: OnProgress | None = None,
    shard_bytes: int = SHARD_BYTES,
    prepare: Callable[[Path], None] | None = None,
    beside_bytes: int = 0,
    finish: Callable[[Path], None] | None = None,
) -> Checkpoint:
    """Writes a checkpoint of its own: tensors, config.json, and what stands beside the weights of `source`.

    Args:
        source: the folder whose tokenizer and the like come along.
        steps: the tensors, in the order in which they are written.
        config: config.json.
        target: a folder that does not exist yet.
        plan: stands for all that decides what is written, byte by byte. A run that is stopped is then continued by the
            next one of the same plan; without it, a run that is stopped leaves nothing.
        what: number of a step -> what progress calls it.
        on_progress: called with (what, bytes done, bytes in all) before each portion.
        shard_bytes: a file is closed before it grows beyond this.
        prepare: called before the first tensor that is still to be written, with a folder that stays until all are;
            what a run of the same plan left in it is still there.
        beside_bytes: of the disk that `prepare` needs.
        finish: called with the folder when all is in it, before it takes its place; may change what stands beside the
            tensors. After a run that was stopped it is called anew.

    Returns:
        What was written, read back and checked.

    Raises:
        InputError: `target` exists or lies in the source, the disk has no room, or somebody else writes the same.
        GemmaError: whatever is wrong with the source, as a sentence.
    """
    files = layout(steps, packed=config.get("quantization") is not None, shard_bytes=shard_bytes)
    check_target(source, target)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4) if plan is None else 'partial'}")
    _check_room(target, draft, sum(files.sizes.values()) + SPARE_BYTES + beside_bytes)
    try:
        draft.mkdir(parents=True, exist_ok=plan is not None)
        with _alone(draft, target):
            done = _begin(draft, files, plan)
            if prepare is not None and done < len(steps):
                prepare(draft / BESIDE)
            _write_tensors(draft, steps, files, plan, what, on_progress, done)
            shutil.rmtree(draft / BESIDE, ignore_errors=True)
            _write_rest(draft, source, files, config)
            inspect(draft)
            if finish is not None:
                finish(draft)
            (draft / JOURNAL).unlink()
            draft.rename(target)
    except OSError as error:
        left = "" if plan is None else f" Run the same command to go on; {draft} holds what is there so far."
        raise InputError(
            f"{target} could not be written: {error.strerror or error}.", f"Make room, or name another disk.{left}"
        ) from error
    finally:
        if plan is None:
            shutil.rmtree(draft, ignore_errors=True)
    return inspect(target)


def check_target(source: Path, target: Path) -> None:
    """Sees whether anything may be written to `target`.

    Raises:
        InputError: it exists, or lies in the source.
    """
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists already, and nothing is written over.", "Name a folder that does not exist.")
    if source.resolve() in target.resolve().parents:
        raise InputError(f"{target} lies in the folder of the model itself.", "Name a folder beside it.")


def _check_room(target: Path, draft: Path, needed: int) -> None:
    existing = next(path for path in (target.absolute(), *target.absolute().parents) if path.exists())
    there = sum(path.stat().st_blocks * 512 for path in draft.rglob("*.safetensors"))  # sparse until they are full
    free = shutil.disk_usage(existing).free
    if needed - there > free:
        raise InputError(
            f"{target} needs {needed / 1e9:,.1f} GB of disk, and {existing} has {free / 1e9:,.1f} GB left.",
            "Name a folder on another disk, or make room.",
        )


@contextmanager
def _alone(draft: Path, target: Path) -> Iterator[None]:
    """Holds the draft against other processes; the system lets go of it however this one ends."""
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"Another process is writing {target}.", "Wait for it, or name another folder.") from error
        yield
    finally:
        os.close(descriptor)


def _write_tensors(
    draft: Path,
    steps: Sequence[Step],
    files: Layout,
    plan: str | None,
    what: Callable[[int], str],
    on_progress: OnProgress | None,
    number: int,
) -> None:
    done = kept = sum(step.nbytes for step in steps[:number])
    kept_at = time.monotonic()
    open_files = {name: os.open(draft / name, os.O_WRONLY) for name in files.sizes}
    try:
        for step in steps[number:]:
            places = [files.places[output.name] for output in step.outputs]
            file, at = open_files[places[0][0]], [offset for _, offset in places]
            for index, portion in step.portions():
                if on_progress is not None:
                    on_progress(what(number), done, files.nbytes)
                _write(file, portion, at[index])
                at[index] += len(portion)
                done += len(portion)
            ends = [offset + out.nbytes for (_, offset), out in zip(places, step.outputs, strict=True)]
            assert at == ends, f"{step.source.name} gave another number of bytes than was planned"
            number += 1
            if done - kept >= KEPT_BYTES or time.monotonic() - kept_at >= KEPT_SECONDS:
                _keep(draft, open_files, plan, number)
                kept, kept_at = done, time.monotonic()
    finally:
        try:
            _keep(draft, open_files, plan, number)
        finally:
            for descriptor in open_files.values():
                os.close(descriptor)


def _keep(draft: Path, open_files: Mapping[str, int], plan: str | None, done: int) -> None:
    """Notes how many steps are done; the journal must not know of more than the disk does."""
    for descriptor in open_files.values():
        os.fsync(descriptor)
    _write_journal(draft, plan, done)


def _write(file: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(file, data[: 1 << 30], offset)
        data, offset = data[count:], offset + count


def _begin(draft: Path, files: Layout, plan: str | None) -> int:
    """How many steps are done; the files are as long as they will be, and those of another plan are gone."""
    try:
        journal = json.loads((draft / JOURNAL).read_bytes())
        begun = journal["plan"] == plan and all((draft / name).stat().st_size == n for name, n in files.sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        begun = False
    if begun and plan is not None:
        return int(journal["done"])
    for path in draft.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, size in files.sizes.items():
        with (draft / name).open("wb") as file:
            file.write(files.headers[name])
            file.truncate(size)
    _write_journal(draft, plan, 0)
    return 0


def _write_journal(draft: Path, plan: str | None, done: int) -> None:
    fresh = draft / f"{JOURNAL}.new"
    with fresh.open("w", encoding="utf-8") as file:
        json.dump({"plan": plan, "done": done}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, draft / JOURNAL)


def _write_rest(draft: Path, source: Path, files: Layout, config: Mapping[str, Any]) -> None:
    """What stands beside the tensors; config.json comes last, for without it no folder is a model."""
    if len(files.sizes) > 1:
        weight_map = {name: file for name, (file, _) in sorted(files.places.items())}
        _write_json(draft / INDEX, {"metadata": {"total_size": files.nbytes}, "weight_map": weight_map})
    for name in sorted(set(names(source)) - {_CONFIG}):  # of a GGUF file, which holds what others keep beside
        (draft / name).write_bytes(document(source, name) or b"")
    for path in sorted({path for pattern in WANTED for path in source.glob(pattern)}):
        beside = path.relative_to(source)
        is_weights = len(beside.parts) == 1 and beside.suffix == ".safetensors"
        if path.is_file() and not is_weights and str(beside) not in (INDEX, _CONFIG, CARD):
            (draft / beside).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, draft / beside)
    # What was found out about the source holds for it alone.
    _write_json(draft / _CONFIG, {key: value for key, value in config.items() if key != EVIDENCE})


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
