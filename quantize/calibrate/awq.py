"""Activation-aware scaling: columns that read large numbers are enlarged before rounding, and what they read is shrunk.

After Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", arXiv 2306.00978.
The factors of a map's inputs go into what makes these inputs: the norm before it, `up_proj` before `down_proj`, and
`v_proj` before `o_proj`. That is tried for every map, and kept where the layer computes what it did before, which is
seen, not known: a norm that something else reads as well (the attention's in Gemma 3n), or values that are normed
before they are mixed (Gemma 3n and 4), show at once.

Two things differ from the paper. Factors are judged by the exact error of the maps' outputs, of which X'X says it
without the inputs, and not by the error of the block around them. And what is scaled is then rounded by GPTQ, with
which the paper finds that it can be combined: with nearest codes the model in the box lost more than without scaling
(KL 0.032 instead of 0.030).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import mlx.core as mx
from jaxtyping import Float

from gemma_mlx.nn.moe import ExpertLinear
from gemma_mlx.nn.norm import RMSNorm
from gemma_mlx.quantize.calibrate.bench import LEAST_TOKENS, SCALES, Bench, pack_in_order, unpacked
from gemma_mlx.quantize.calibrate.gptq import gptq
from gemma_mlx.quantize.calibrate.gram import Gram
from gemma_mlx.quantize.calibrate.stage import Heard, Played
from gemma_mlx.quantize.pack import pack
from gemma_mlx.weights.quantized import Quantization

# Powers of the root mean square of a column that are tried as its factor.
POWERS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MOST: Final = 64.0  # a factor, or one over it
# How far a layer may be from itself after a fold, relative to its largest number; rounding in float32 makes 1e-6.
SAME: Final = 1e-4
# A map -> the map beside it whose outputs, times something, are its inputs.
BEFORE: Final = {"down_proj": "up_proj", "o_proj": "v_proj"}

Maps = list[tuple[mx.array, Quantization]]


def awq(bench: Bench) -> None:
    """Scales the maps of a layer, and packs them."""
    fold(bench)
    pack_in_order(bench, gptq)


def fold(bench: Bench) -> list[str]:
    """Moves factors from inputs into weights wherever that changes nothing; the layer's function stays the same.

    Returns:
        Paths of the norms and maps that factors went into.
    """
    folded = []
    for heard in bench.heard():
        source = _source(bench, heard)
        if source is None or any(path not in bench.decisions for path in heard.maps):
            continue
        modules = dict(bench.layer.named_modules())
        targets = [modules[path] for path in heard.maps]
        factors = _factors(bench, heard, targets, modules[source])
        if factors is not None and _moved(bench, source, modules[source], targets, factors):
            folded.append(source)
    return folded


def _source(bench: Bench, heard: Heard) -> str | None:
    """What makes the inputs of these maps, if factors can go into it."""
    if heard.norm is not None:
        return heard.norm
    parent, _, name = heard.maps[0].rpartition(".")
    before = f"{parent}.{BEFORE.get(name)}"
    return before if len(heard.maps) == 1 and before in bench.decisions else None


def _factors(
    bench: Bench, heard: Heard, targets: Sequence[Any], source: Any
) -> Float[mx.array, "*experts columns"] | None:
    """The best factors of the maps' inputs; None where none is better than no factors, or they cannot be moved."""
    hows = [bench.decisions[path].how for path in heard.maps]
    columns = targets[0].weight.shape[-1]
    if isinstance(source, ExpertLinear):
        every = []
        for expert, gram in bench.each_expert(heard.maps[0]):
            maps = [(target.weight[expert], how) for target, how in zip(targets, hows, strict=True) if how]
            every.append(_best(maps, gram, gram.squares()) if gram.rows >= LEAST_TOKENS else mx.ones((columns,)))
        return mx.stack(every)
    gram = bench.gram(heard.maps[0])
    maps = [(target.weight.reshape(-1, columns), how) for target, how in zip(targets, hows, strict=True) if how]
    squares = gram.squares()
    outputs = source.weight.shape[0]
    if outputs != columns:  # several heads read the same values
        if bench.head_dim is None or columns % outputs:
            return None
        grouped = squares.reshape(-1, columns // outputs, bench.head_dim)
        squares = mx.broadcast_to(grouped.mean(axis=1, keepdims=True), grouped.shape).reshape(-1)
    best = _best(maps, gram, squares)
    return None if mx.all(best == 1).item() else best


def _best(maps: Maps, gram: Gram, squares: mx.array) -> mx.array:
    """Of the powers of the inputs' magnitudes the one that leaves the least error behind; ones where none helps."""
    known = squares > 0
    magnitudes = mx.where(known, mx.sqrt(squares), mx.array(1.0))
    middle = mx.exp(mx.where(known, mx.log(magnitudes), 0.0).sum() / mx.maximum(known.sum(), 1))
    relative = mx.where(known, magnitudes / middle, mx.array(1.0))
    best, least = mx.ones(squares.shape), _error(maps, gram, mx.ones(squares.shape))
    for power in POWERS:
        factors = mx.clip(relative**power, 1 / MOST, MOST)
        error = _error(maps, gram, factors)
        if error < least:
            best, least = factors, error
    return best


def _error(maps: Maps, gram: Gram, factors: mx.array) -> float:
    total = mx.array(0.0)
    for weight, how in maps:
        scaled = weight * factors
        total = total + gram.error(unpacked(pack(scaled.astype(SCALES), how), how) / factors - weight)
    return cast(float, total.item())


def _moved(bench: Bench, path: str, source: Any, targets: Sequence[Any], factors: mx.array) -> bool:
    """Moves factors out of the inputs' source into the maps; undoes it, and says no, where the layer has changed."""
    before, old = bench.play(0), [source.weight, source.get("bias"), *(target.weight for target in targets)]
    mx.eval(before.out, before.lent or ())
    outputs = source.weight.shape[-1 if isinstance(source, RMSNorm) else -2]
    own = _for_outputs(factors, outputs, bench.head_dim)
    made: dict[str, mx.array] = {}
    # What is written in 16 bits is rounded, and the factors are what they are then, so that the fold is exact.
    if isinstance(source, RMSNorm):
        made["weight"] = source.to_stored(source.weight / own).astype(SCALES)
        rounded = source.from_stored(made["weight"])
        own = mx.where(rounded == 0, mx.array(1.0), source.weight / rounded)
        source.weight = rounded
    else:
        if old[1] is not None:
            made["bias"] = (source.bias / own).astype(SCALES)
            rounded = made["bias"].astype(mx.float32)
            own = mx.where(rounded == 0, own, source.bias / rounded)
            source.bias = rounded
        source.weight = source.weight / own[..., None]
    exact = _for_inputs(own, factors.shape[-1], bench.head_dim)
    for target in targets:
        target.weight = target.weight * (exact[:, None] if exact.ndim == 2 else exact)
    after = bench.play(0)
    if _same(before, after):
        for last, array in made.items():
            bench.write(f"{path}.{last}", array)
        return True
    source.weight = old[0]
    if old[1] is not None:
        source.bias = old[1]
    for target, weight in zip(targets, old[2:], strict=True):
        target.weight = weight
    return False


def _for_outputs(factors: mx.array, outputs: int, head_dim: int | None) -> mx.array:
    """Factors of inputs, as those of the outputs that make them: one for all heads that read the same values."""
    if factors.shape[-1] == outputs:
        return factors
    heads = factors.shape[-1] // outputs
    return factors.reshape(-1, heads, head_dim or 1)[:, 0].reshape(-1)


def _for_inputs(own: mx.array, columns: int, head_dim: int | None) -> mx.array:
    """The other way."""
    if own.shape[-1] == columns:
        return own
    heads = columns // own.shape[-1]
    grouped = own.reshape(-1, 1, head_dim or 1)
    return mx.broadcast_to(grouped, (grouped.shape[0], heads, grouped.shape[2])).reshape(-1)


def _same(one: Played, other: Played) -> bool:
    pairs = [(one.out, other.out), *zip(one.lent or (), other.lent or (), strict=True)]
    return all(bool((mx.abs(a - b).max() <= SAME * mx.abs(a).max()).item()) for a, b in pairs)
