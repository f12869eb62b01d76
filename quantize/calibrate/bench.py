"""The layer that is being packed: what its maps read, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from gemma_mlx.nn.moe import ExpertLinear
from gemma_mlx.quantize.calibrate.gram import Gram, chosen_rows, gram_bytes
from gemma_mlx.quantize.calibrate.stage import Heard, Played, overheard, readers, rows
from gemma_mlx.quantize.pack import clipped, coded
from gemma_mlx.quantize.plan import Decision
from gemma_mlx.weights.quantized import Quantization, leaves

SCALES: Final = mx.bfloat16  # the dtype in which scales and biases are written
# Tokens without which an expert is packed as if nothing were known of what it reads.
LEAST_TOKENS: Final = 32
# Of the products of experts' inputs that are gathered in one pass.
GRAM_BYTES: Final = 1 << 30

# (weight [R columns] in float32, what it reads, how, dtype of scales) -> codes, scales, biases.
Solver = Callable[[mx.array, Gram, Quantization, mx.Dtype], list[mx.array]]


class Bench:
    """One layer, its text, and what is made of it.

    Args:
        layer: with its weights in float32.
        decisions: about its tensors, by path of the module in the layer; those of maps that are calibrated alone.
        loose: about what is not packed, by path of the parameter in the layer.
        head_dim: of its attention; None where it has none.
        play: number of a batch -> the layer's pass over it.
        target: number of a batch -> what the unpacked model has behind this layer; for methods that learn.
        batches: how many there are.
        tick: called after each batch that went through the layer.

    Attributes:
        made: name of a tensor that is written -> what it is.
        blind: experts, counted once in each of their maps, that too few tokens went to.
        experts: all that there are, counted so.
    """

    def __init__(
        self,
        *,
        layer: nn.Module,
        decisions: Mapping[str, Decision],
        loose: Mapping[str, Decision],
        head_dim: int | None,
        play: Callable[[int], Played],
        target: Callable[[int], mx.array],
        batches: int,
        tick: Callable[[], None],
    ) -> None:
        self.layer, self.decisions, self.head_dim = layer, decisions, head_dim
        self.play, self.target, self.batches = play, target, batches
        self.tick, self._loose = tick, loose
        self.made: dict[str, mx.array] = {}
        self.blind = self.experts = 0

    def heard(self) -> list[Heard]:
        """Linear maps by what they read, in the order of the computation."""
        return readers(self.layer, list(self.maps()), lambda: self.play(0))

    def maps(self) -> dict[str, Any]:
        """The layer's linear maps by path, calibrated or not."""
        return {path: module for path, module in leaves(self.layer) if hasattr(module, "to_quantized")}

    def gram(self, path: str) -> Gram:
        """Of what the map at `path` reads; of experts, of what all of them read."""
        gram = Gram.empty(self.maps()[path].weight.shape[-1])
        self._listen(path, lambda _, x, *chosen: gram.add(rows(_for_each(x, *chosen))))
        return gram

    def expert_grams(self, path: str, wanted: range) -> dict[int, Gram]:
        """The same for each of some experts."""
        columns = self.maps()[path].weight.shape[-1]
        grams = {expert: Gram.empty(columns) for expert in wanted}

        def add(_: mx.array, x: mx.array, chosen: mx.array, *__: Any) -> None:
            for expert, some in chosen_rows(x, chosen, wanted).items():
                grams[expert].add(some)

        self._listen(path, add)
        return grams

    def each_expert(self, path: str) -> Iterator[tuple[int, Gram]]:
        """All experts of the map at `path` in turn; their products are gathered for as many at once as memory holds."""
        experts, _, columns = self.maps()[path].weight.shape
        at_once = max(GRAM_BYTES // gram_bytes(columns), 1)
        for first in range(0, experts, at_once):
            yield from self.expert_grams(path, range(first, min(first + at_once, experts))).items()

    def write(self, path: str, array: mx.array) -> None:
        """What is written for a parameter that is not packed."""
        self.made[self._loose[path].outputs[0].name] = array

    def _listen(self, path: str, listener: Callable[..., None]) -> None:
        for batch in range(self.batches):
            with overheard(self.layer, {path: listener}):
                self.play(batch)
            self.tick()

    def keep(self, path: str, packed: list[mx.array]) -> None:
        """The map at `path` is this from now on."""
        decision, module = self.decisions[path], self.maps()[path]
        assert decision.how is not None
        mx.eval(packed)
        self.made |= dict(zip((output.name for output in decision.outputs), packed, strict=True))
        module.weight = unpacked(packed, decision.how)
        mx.eval(module.weight)

    def packed(self, path: str) -> list[mx.array]:
        """What the map at `path` has become."""
        return [self.made[output.name] for output in self.decisions[path].outputs]


def pack_in_order(bench: Bench, solver: Solver) -> None:
    """Packs the maps of a layer, those that are computed first before the others, whose inputs they change."""
    for heard in bench.heard():
        wanted = [path for path in heard.maps if path in bench.decisions]
        if not wanted:
            continue
        modules = bench.maps()
        if isinstance(modules[wanted[0]], ExpertLinear):
            _pack_experts(bench, wanted, solver)
            continue
        gram = bench.gram(wanted[0])
        for path in wanted:
            bench.keep(path, solver(modules[path].weight, gram, _how(bench, path), SCALES))


def _pack_experts(bench: Bench, wanted: list[str], solver: Solver) -> None:
    modules = bench.maps()
    packed: dict[str, list[list[mx.array]]] = {path: [] for path in wanted}
    for expert, gram in bench.each_expert(wanted[0]):
        known = gram.rows >= LEAST_TOKENS
        bench.experts += len(wanted)
        bench.blind += 0 if known else len(wanted)
        for path in wanted:
            made = (solver if known else weighted)(modules[path].weight[expert], gram, _how(bench, path), SCALES)
            mx.eval(made)
            packed[path].append(made)
    for path, each in packed.items():
        bench.keep(path, [mx.stack(list(arrays)) for arrays in zip(*each, strict=True)])


def _how(bench: Bench, path: str) -> Quantization:
    how = bench.decisions[path].how
    assert how is not None
    return how


def weighted(weight: Float[mx.array, "R columns"], gram: Gram, how: Quantization, dtype: mx.Dtype) -> list[mx.array]:
    """Codes, scales and biases: for each group the range with the least error, columns counted as large as they are.

    What was read too little counts alike, so that this is what `--clip` does.
    """
    groups = weight.reshape(weight.shape[0], -1, how.group_size)
    counts = gram.counts() if gram.rows >= LEAST_TOKENS else mx.ones(weight.shape[1:])
    scales, biases = clipped(groups, how.bits, dtype, counts.reshape(-1, how.group_size))
    return coded(groups, scales, biases, how.bits, dtype)


def unpacked(packed: list[mx.array], how: Quantization) -> mx.array:
    """The weights that codes, scales and biases stand for, in float32."""
    codes, scales, biases = packed
    return mx.dequantize(codes, scales.astype(mx.float32), biases.astype(mx.float32), how.group_size, how.bits)


def _for_each(x: mx.array, *chosen: Any) -> mx.array:
    """Inputs once for each expert that reads them; as they are where there are no experts."""
    if not chosen:
        return x
    experts = cast(mx.array, chosen[0])
    return mx.broadcast_to(x, (*experts.shape, *x.shape[-2:]))


def apart(made: mx.array, wanted: mx.array) -> mx.array:
    """The mean over all positions of the squared distance, relative to the square of what is wanted there."""
    distance = mx.square(made - wanted).sum(axis=-1)
    return (distance / mx.maximum(mx.square(wanted).sum(axis=-1), mx.array(1e-12))).mean()
