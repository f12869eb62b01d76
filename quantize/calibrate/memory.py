"""What calibration holds at once: one layer, what its widest input makes of it, and some windows of the text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

from gemma_mlx.errors import MemoryLimitError
from gemma_mlx.quantize.calibrate.bench import GRAM_BYTES
from gemma_mlx.quantize.calibrate.gram import gram_bytes
from gemma_mlx.quantize.pack import CALIBRATED
from gemma_mlx.quantize.plan import Decision, Plan
from gemma_mlx.spec import DecoderSpec, LayerSpec

BATCH_TOKENS: Final = 2048  # of the windows that go through a layer at once

# Times that each is held, in float32. `python -m tests.benchmarks.calibrating --memory --windows 8` prints what was
# held beside the estimate: measured so with gptq and awq and the model in the box on the CPU; dwq is assumed.
LAYERS: Final = {"gptq": 2.0, "awq": 3.0, "dwq": 4.0}
MAPS: Final = 6
GRAMS: Final = 4
ACTIVATIONS: Final = {"gptq": 8, "awq": 8, "dwq": 24}
SCORES: Final = {"gptq": 2, "awq": 2, "dwq": 3}  # tensors of a layer's attention scores

_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.(.+)")


def memory_bytes(plan: Plan, windows: Sequence[Sequence[int]]) -> int:
    """Bytes that calibrating a plan holds at most, beside Python and MLX themselves.

    Args:
        plan: a calibrated one.
        windows: of the text; only their lengths count.
    """
    method = plan.calibrated
    assert method is not None
    tokens = len(windows[0]) * min(max(BATCH_TOKENS // len(windows[0]), 1), len(windows))
    heads = max((attention.heads for attention in plan.checkpoint.match.spec.attentions), default=0)
    scores = 4 * SCORES[method] * tokens * len(windows[0]) * heads
    most = 0
    for packed, _ in by_layer(plan).values():
        shapes = [decision.source.shape for decision in packed.values()]
        layer = 4 * sum(math.prod(shape) for shape in shapes)
        one = 4 * max((math.prod(shape[-2:]) for shape in shapes), default=0)
        gram = max((gram_bytes(shape[-1]) for shape in shapes), default=0)
        experts = min(
            GRAM_BYTES, max((shape[0] * gram_bytes(shape[-1]) for shape in shapes if len(shape) > 2), default=0)
        )
        widths = sum(sorted((max(shape[-2:]) for shape in shapes), reverse=True)[:3])
        working = 4 * tokens * widths * ACTIVATIONS[method] // 3
        most = max(most, int(layer * LAYERS[method]) + MAPS * one + GRAMS * gram + experts + working + scores)
    return most


def check_memory(plan: Plan, windows: Sequence[Sequence[int]], limit: int | None, *, force: bool = False) -> None:
    """Refuses what does not fit.

    Args:
        plan: a calibrated one.
        windows: of the text.
        limit: bytes that may be taken; None where the machine does not say.
        force: lets everything in.

    Raises:
        MemoryLimitError: with what to do instead.
    """
    needed = memory_bytes(plan, windows)
    if limit is not None and needed > limit and not force:
        raise MemoryLimitError(
            f"Calibrating takes {needed / 1e9:,.2f} GB, and {limit / 1e9:,.2f} GB are there for it.",
            "--clip chooses ranges without a text, in the memory of a part of one tensor.",
        )


def disk_bytes(plan: Plan, tokens: int) -> int:
    """Of what is kept beside what is written: packed layers, and the text before and behind one of them.

    Args:
        plan: a calibrated one.
        tokens: of the text.
    """
    spec = plan.checkpoint.match.spec
    assert isinstance(spec, DecoderSpec)
    streams = spec.altup.streams if spec.altup else 1
    rows = spec.per_layer.dim * len(spec.layers) if spec.per_layer else 0
    lenders = {layer.borrows_from for layer in spec.layers}
    layers = [layer for index, layer in enumerate(spec.layers) if index in lenders and isinstance(layer, LayerSpec)]
    lent = sum(2 * layer.attention.kv_heads * layer.attention.head_dim for layer in layers)
    packed = sum(decision.nbytes for layer, _ in by_layer(plan).values() for decision in layer.values())
    return packed + 4 * tokens * (spec.dim * (1 + 4 * streams) + rows + 2 * lent)


def by_layer(plan: Plan) -> dict[int, tuple[dict[str, Decision], dict[str, Decision]]]:
    """Index of a layer -> what is decided about it: about maps that are calibrated, by their paths in it, and about
    what is not packed, by the paths of parameters."""
    found: dict[int, tuple[dict[str, Decision], dict[str, Decision]]] = {}
    for decision in plan.decisions:
        if named := _LAYER.fullmatch(decision.module):
            packed, loose = found.setdefault(int(named[1]), ({}, {}))
            if decision.method in CALIBRATED:
                packed[named[2]] = decision
            elif decision.how is None:
                loose[f"{named[2]}.{decision.outputs[0].name.rpartition('.')[2]}"] = decision
    return found
