"""Distilled scales: codes stay, scales and biases are learned so that the packed layer gives what the layer gave.

The idea is that of DWQ in mlx-lm (distilled weight quantization), which learns the scales of the whole model by the
logits of the whole unpacked one, and so holds both. Here, as in Shao et al., "OmniQuant", arXiv 2308.13137, each layer
is learned by itself: it is given what the packed layers before it give, and is to give what the unpacked model has
behind it, so that it also makes up for their errors. One layer is in memory, and nothing of the other model but its
activations, which are on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import mlx.core as mx
import mlx.optimizers as optimizers

from gemma_mlx.quantize.calibrate.bench import SCALES, Bench, apart, pack_in_order
from gemma_mlx.quantize.calibrate.gptq import gptq
from gemma_mlx.quantize.calibrate.stage import replace

ROUNDS: Final = 4  # over the whole text
# Of Adam, in parts of a scale; it falls to 0 in a straight line.
RATE: Final = 3e-3

Parameters = dict[str, dict[str, mx.array]]


def dwq(bench: Bench) -> None:
    """Packs the maps of a layer, and learns their scales and biases."""
    pack_in_order(bench, gptq)
    if bench.decisions:
        _learn(bench)


def _learn(bench: Bench) -> None:
    whole = {path: bench.maps()[path] for path in bench.decisions}
    packed = {path: bench.packed(path) for path in bench.decisions}
    learners = {path: _learner(bench, path, whole[path], packed[path]) for path in packed}
    replace(bench.layer, learners)
    starts = {path: (arrays[1].astype(mx.float32), arrays[2].astype(mx.float32)) for path, arrays in packed.items()}
    middles = {path: ((1 << (bench.decisions[path].how.bits)) - 1) / 2 for path in packed}  # type: ignore[union-attr]

    def set_scales(changes: Parameters) -> None:
        """Of a group, `stretch` changes its range, and `shift` where its middle lies; both in parts of its scale."""
        for path, change in changes.items():
            scales, biases = starts[path]
            learners[path].scales = scales * (1 + change["stretch"])
            middle = biases + scales * (middles[path] + change["shift"])
            learners[path].biases = middle - learners[path].scales * middles[path]

    def loss(changes: Parameters, batch: int) -> mx.array:
        set_scales(changes)
        return apart(bench.play(batch).out, bench.target(batch))

    step: Callable[..., tuple[mx.array, Parameters]] = mx.value_and_grad(loss)
    zeros: Parameters = {
        path: {name: mx.zeros(scales.shape) for name in ("stretch", "shift")} for path, (scales, _) in starts.items()
    }
    changes = zeros
    before = _total(bench, loss, changes)
    adam = optimizers.Adam(optimizers.linear_schedule(RATE, 0.0, ROUNDS * bench.batches))
    for _ in range(ROUNDS):
        for batch in range(bench.batches):
            _, gradients = step(changes, batch)
            changes = adam.apply_gradients(gradients, changes)
            mx.eval(changes, adam.state)
            bench.tick()
    if _total(bench, loss, changes) > before:  # a layer that was as near as it could be
        changes = zeros
    set_scales(changes)
    learned = {path: [packed[path][0], learners[path].scales, learners[path].biases] for path in packed}
    replace(bench.layer, whole)
    for path, arrays in learned.items():
        bench.keep(path, [arrays[0], *(array.astype(SCALES) for array in arrays[1:])])


def _learner(bench: Bench, path: str, module: Any, packed: list[mx.array]) -> Any:
    """The module with packed weights, whose scales can be learned."""
    how = bench.decisions[path].how
    assert how is not None
    learner = module.to_quantized(how.group_size, how.bits, how.mode)
    learner.weight = packed[0]
    return learner


def _total(bench: Bench, loss: Callable[[Parameters, int], mx.array], changes: Parameters) -> float:
    total = 0.0
    for batch in range(bench.batches):
        total += cast(float, loss(changes, batch).item())
        bench.tick()
    return total
