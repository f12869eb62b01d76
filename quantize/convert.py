"""A checkpoint -> a smaller one: tensor by tensor out of the files, in the memory of a portion of one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np

from gemma_mlx.errors import InputError
from gemma_mlx.quantize.calibrate.run import Calibration
from gemma_mlx.quantize.head import everywhere
from gemma_mlx.quantize.pack import pack
from gemma_mlx.quantize.plan import FLOAT, Decision, Plan
from gemma_mlx.weights.header import ITEM_BYTES, Blocks, TensorInfo
from gemma_mlx.weights.load import Checkpoint, OnProgress
from gemma_mlx.weights.quantized import FLOATING
from gemma_mlx.weights.read import File, portions, read
from gemma_mlx.weights.save import SHARD_BYTES
from gemma_mlx.weights.write import Step, copied, write_checkpoint

PART_BYTES: Final = 4 << 20  # of a tensor, packed at once
LANES: Final = 2  # parts that are packed while others are read and written


def quantize(
    plan: Plan,
    target: Path,
    *,
    calibration: Calibration | None = None,
    on_progress: OnProgress | None = None,
    shard_bytes: int = SHARD_BYTES,
    finish: Callable[[Path], None] | None = None,
) -> Checkpoint:
    """Writes what `plan` says to `target`, in the layout that mlx-lm reads.

    Tokenizer, chat template, processor and generation config come along. All is written under a temporary name beside
    `target` and takes its place at the end. A run that is stopped, however hard, is continued by the next one of the
    same plan, and comes out the same to the byte.

    Args:
        plan: what becomes of each tensor; see `gemma_mlx.quantize.plan.plan`.
        target: a folder that does not exist yet.
        calibration: of this plan, where it is a calibrated one.
        on_progress: called with ("tensor 3 of 338", bytes done, bytes in all).
        shard_bytes: a file is closed before it grows beyond this.
        finish: called with the folder when all is in it, before it takes its place: the moment to judge it.

    Returns:
        What was written, read back and checked.

    Raises:
        InputError: `target` exists, the disk has no room for it, or another process writes it.
        GemmaError: whatever is wrong with the source, as a sentence.
    """
    if (plan.calibrated is None) != (calibration is None):
        raise InputError(
            f"The plan's method is {plan.calibrated or 'none that reads a text'}, and it was given "
            f"{'a' if calibration else 'no'} calibration.",
            "Calibration(plan, windows(folder)) is for a plan with a method, and for no other.",
        )
    steps = steps_of(plan, calibration)
    marks = [plan.fingerprint(), str(shard_bytes), *([calibration.fingerprint()] if calibration else [])]
    return write_checkpoint(
        plan.checkpoint.folder, steps, plan.config, target, plan="".join(marks),
        what=lambda number: f"tensor {number + 1:,} of {len(steps):,}", on_progress=on_progress,
        shard_bytes=shard_bytes, prepare=calibration, beside_bytes=calibration.disk_bytes if calibration else 0,
        finish=finish,
    )  # fmt: skip


def steps_of(plan: Plan, calibration: Calibration | None = None) -> list[Step]:
    """What is to be written, and how it is made."""
    return [_step(decision, calibration) for decision in plan.decisions]


def _step(decision: Decision, calibration: Calibration | None) -> Step:
    source = decision.source
    if decision.method == "exact":
        return Step(source=source, outputs=decision.outputs, portions=partial(_repacked, decision))
    if decision.how is None and source.dtype in (FLOAT, *ITEM_BYTES.keys() - set(FLOATING)):
        step = copied(source, decision.path)
    else:
        step = Step(
            source=source, outputs=decision.outputs, portions=lambda: everywhere(_made(decision), decision.outputs)
        )
    return step if calibration is None else replace(step, portions=partial(_calibrated, step, calibration))


def _calibrated(step: Step, calibration: Calibration) -> Iterator[tuple[int, memoryview]]:
    """The bytes of what calibration made of a tensor; of one that it left alone, what becomes of it without."""
    found = calibration.made(step.outputs)
    if found is None:
        yield from step.portions()
        return
    for index, array in enumerate(found):
        yield index, _bytes(array)


def _made(decision: Decision) -> Iterator[tuple[int, memoryview]]:
    """The bytes of all that is made of a tensor, a part of its rows after the other: while one is written, others are
    packed, and one is read."""
    ahead: deque[list[mx.array]] = deque()
    for part, lane in zip(_parts(decision.source), cycle(_lanes()), strict=False):
        weight = read(part)
        with mx.stream(lane):
            weight = weight.astype(mx.bfloat16)
            made = [weight] if decision.how is None else pack(weight, decision.how, decision.method or "plain")
            mx.async_eval(*made)
        ahead.append(made)
        if len(ahead) > LANES:
            yield from ((index, _bytes(array)) for index, array in enumerate(ahead.popleft()))
    for some in ahead:
        yield from ((index, _bytes(array)) for index, array in enumerate(some))


@cache
def _lanes() -> tuple[mx.Stream, ...]:
    """Where parts are packed, in turn: a GPU has threads enough, MLX's CPU back end one for each stream."""
    device = mx.default_device()
    one = mx.default_stream(device)
    return (one,) if device.type == mx.gpu else tuple(mx.new_stream(device) for _ in range(LANES))


def _repacked(decision: Decision) -> Iterator[tuple[int, memoryview]]:
    """The bytes of what is packed already: those of the file, or what MLX's layout has in their place."""
    for index, tensor in enumerate((decision.source, *decision.beside)):
        if tensor.made is None or tensor.made.how == "codes" or isinstance(tensor.made.how, Blocks):
            yield from ((index, portion) for portion in portions(tensor, File(tensor.file)))
            continue
        for part in _parts(tensor):
            array = read(part)
            mx.eval(array)
            yield index, _bytes(array)


def _parts(tensor: TensorInfo) -> Iterator[TensorInfo]:
    """Rows of a tensor, about PART_BYTES of them at a time; of one that is a part already, all."""
    rows = tensor.shape[0] if tensor.shape else 1
    if tensor.cut is not None or tensor.nbytes <= PART_BYTES or rows < 2:
        yield tensor
        return
    some = max(PART_BYTES * rows // tensor.nbytes, 1)
    for first in range(0, rows, some):
        yield tensor.pieces(0, [(first, min(first + some, rows))])


def _bytes(array: mx.array) -> memoryview:
    """The bytes of an array; numpy, which knows no bfloat16, is shown whole numbers."""
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
    return np.ascontiguousarray(np.array(array, copy=False)).data.cast("B")
